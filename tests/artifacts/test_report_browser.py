"""How the report looks in a browser, and that names in it do nothing there."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from browser import start_browser
from PIL import Image
from report_runs import HOSTILE, real_images, write_run

from hpd.artifacts.report import write_report


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = start_browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.driver.quit()


@pytest.fixture
def page(distilled, tmp_path):
    """A report with names that would like to be more."""
    foreign = replace(distilled, classes=HOSTILE)
    folder = write_run(tmp_path / "run", foreign)
    return write_report(folder, real_images(HOSTILE))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360], ids=["desktop", "phone"])
def test_it_reads_well_in_a_browser(browser, page, width, dark, tmp_path):
    browser.open(page, width=width, dark=dark)
    # nothing but the page is asked for, nothing is broken or refused
    assert browser.requested() == {page.resolve().as_uri()}
    assert browser.complaints() == []
    broken = "[...document.querySelectorAll('button img')].filter(i => !i.naturalWidth).length"
    assert browser.run(f"return {broken}") == 0
    # no name became a script
    assert browser.run("return document.title") == "digits, distilled"
    # it scrolls down and never sideways
    assert browser.run("return document.documentElement.scrollWidth") <= width
    contrasts = browser.contrasts()
    assert len(contrasts) > 50
    assert {text: value for text, value in contrasts.items() if value < 4.5} == {}
    bright = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", bright))) > 380) != dark
    unnamed = [e for e in browser.all("img, [role=img]") if not e.accessible_name]
    assert not [e for e in unnamed if e.is_displayed()]
    browser.screenshot(tmp_path / "seen.png")
    with Image.open(tmp_path / "seen.png") as seen:
        assert seen.width == width
        assert len(seen.convert("RGB").getcolors(2**24)) > 50


def test_pictures_keep_their_shape_and_pixels(browser, page):
    browser.open(page)
    sizes = browser.run(
        "return [...document.querySelectorAll('button.tile img')].map(i => [i.width, i.height,"
        " i.naturalWidth, getComputedStyle(i).imageRendering])"
    )
    assert len(sizes) == 12
    for width, height, natural, rendering in sizes:
        assert width == height > 60
        assert (natural, rendering) == (8, "pixelated")


def test_a_click_shows_an_image_large(browser, page):
    browser.open(page, width=360, height=740)
    tiles = browser.all("button.tile")
    dialog = browser.all("dialog")[0]
    assert not dialog.is_displayed()
    tiles[2].click()
    browser.wait_for("document.querySelector('dialog').open")
    shown = browser.all("dialog img")
    assert [i.get_attribute("src") for i in shown] == [
        i.get_attribute("src") for i in tiles[2].find_elements("css selector", "img")
    ]
    assert HOSTILE[1] in dialog.text
    assert "image 1 of 2" in dialog.text
    assert "distance 0." in dialog.text
    assert all(i.rect["width"] > 120 for i in shown)
    left, right = dialog.rect["x"], dialog.rect["x"] + dialog.rect["width"]
    assert left >= 0
    assert right <= 360
    assert browser.run("return document.title") == "digits, distilled"
    from selenium.webdriver.common.keys import Keys

    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "image 2 of 2" in dialog.text
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    browser.wait_for("!document.querySelector('dialog').open")
    # back to where one was, once the page has heard that the dialog is closed
    browser.wait_for("document.activeElement === document.querySelectorAll('button.tile')[3]")
    assert browser.complaints() == []


def test_the_page_reads_without_scripts(browser, page, tmp_path):
    """Where scripts are off, the images are there and nothing pretends to open."""
    plain = tmp_path / "plain.html"
    plain.write_text(
        re.sub(r"<script>.*?</script>\n</body>", "</body>", page.read_text(), flags=re.S)
    )
    browser.open(plain)
    assert browser.complaints() == []
    tiles = browser.all("button.tile")
    assert all(tile.is_displayed() for tile in tiles)
    assert not any(tile.is_enabled() for tile in tiles)


def test_injected_scripts_do_not_run(browser, page, tmp_path):
    """Even if escaping failed, the policy of the page runs no script but its own."""
    attacked = page.read_text().replace(
        "<footer>", "<script>document.title='taken'</script><img src=x onerror='document.title=1'>"
    )
    path = tmp_path / "attacked.html"
    path.write_text(attacked)
    browser.open(path)
    assert browser.run("return document.title") == "digits, distilled"
    assert any("Content Security Policy" in line for line in browser.complaints())
