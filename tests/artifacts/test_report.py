"""The report: what it says, that names in it stay names, and how it looks in a browser."""

from __future__ import annotations

import doctest
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
import yaml
from browser import start_browser
from click.testing import CliRunner
from PIL import Image

import hpd
from hpd.artifacts import DistilledSet, RunFolder, provenance
from hpd.artifacts.exports import card
from hpd.artifacts.report import charts, render_report, tables, write_report
from hpd.artifacts.report.charts import loss_chart, read_stages, round_values, score_chart, thin
from hpd.artifacts.report.gallery import gallery
from hpd.artifacts.report.nearest import nearest_real
from hpd.cli import main
from hpd.data import ImageSet, Normalisation
from hpd.errors import DataError, RunError

HOSTILE = (
    "<script>document.title='taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "'; alert(1); //{{ 7 * 7 }}</style></dialog>",
)
ROWS = [("distilled", 91.25), ("initial", 80.5), ("random_real", 60.0), ("my_rows <b>", 99.0)]


def metrics(stages=("0 ws", "1 b4.conv1", "2 pixels"), steps=20):
    return [
        {
            "stage": name, "step": i, "loss": 10.0 / (k + 1) - i / 10,
            "score": 2.0 - k / 10 - i / 100 if i % 5 == 0 else None,
            "seconds": 0.5, "score_seconds": 0.1 if i % 5 == 0 else 0.0,
        }
        for k, name in enumerate(stages)
        for i in range(steps)
    ]  # fmt: skip


def write_run(path, distilled, *, config=None, rows=ROWS, more=None, **facts):
    """Write a run folder as a finished run leaves it."""
    config = config or {"description": "Trial & error", "data": {"kind": "digits"}}
    folder = RunFolder.create(path, yaml.safe_dump(config))
    for line in metrics():
        folder.append_metrics(line)
    folder.write_cost({"seconds": 95.0, "selection_seconds": 9.5, "selection_share": 0.1})
    folder.write_evaluation(
        {
            "rows": [
                {
                    "name": name, "network": "convnet", "images_per_class": 2.0,
                    "stored_floats": 1152, "accuracy_mean": mean, "accuracy_std": 1.5,
                    "seeds": [0, 1, 2],
                }
                for name, mean in rows
            ],
            **(more or {}),
        }
    )  # fmt: skip
    manifest = {
        "classes": distilled.classes,
        "seed": 7,
        "best_stage": {"name": "1 b4.conv1", "step": 15, "score": 1.75},
        "generator": {"name": "digits16", "licence": "MIT <i>"},
        "image_range": {"min": -0.1, "max": 1.1, "share_outside": 0.125},
        **facts,
    }
    folder.write_result(distilled, distilled, manifest)
    return folder


def real_images(classes, size=8, each=5):
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (each * len(classes), 3, size, size), generator=rng)
    labels = torch.arange(len(classes)).repeat_interleave(each)
    pixels = images.to(torch.uint8)
    return ImageSet(pixels, labels, tuple(classes), Normalisation.of(pixels))


@pytest.fixture
def run(distilled, tmp_path):
    return write_run(tmp_path / "run", distilled)


class Page(HTMLParser):
    """Counts elements, and gathers attributes and the text that is seen."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_it_says_what_the_run_was(run, distilled):
    page = Page(render_report(run, real_images(distilled.classes)))
    for words in (
        "digits, distilled", "Trial & error", "91.2", "60.0", "6 images", "1,152 floats",
        "1 min 35 s", "10.0%", "source before its first step",
        "1 b4.conv1", "with a score of 1.75", "MIT <i>", "12.5 % outside", "T-shirt/top",
        "data:\n  kind: digits",
    ):  # fmt: skip
        assert words in page.text, words
    assert "my rows <b>" in page.text
    pictures = [v for tag, name, v in page.attributes if (tag, name) == ("img", "src")]
    # six pairs, and two places in the dialog
    assert len([v for v in pictures if v.startswith("data:image/png;base64,")]) == 12
    assert len(pictures) == 14


def test_it_says_what_else_was_measured(distilled, tmp_path):
    """What newer evaluations and budgets hold, and names of rows in words."""
    rows = [("k_centre_floats", 50.0), ("distilled_5", 40.0)]
    similarity = {"nearest_real": {"usual_rms": 0.123}, "lpips": {"diversity": 0.456}}
    account = {
        "lines": [{"item": "memories <b>", "count": 7, "floats_each": 11, "floats": 77}],
        "budget": 99, "total": 77, "left_over": 22, "images_per_class": 2,
    }  # fmt: skip
    folder = write_run(
        tmp_path / "run", distilled, rows=rows, more={"similarity": similarity}, account=account
    )
    text = " ".join(Page(render_report(folder, real_images(distilled.classes))).text.split())
    for words in (
        "real images chosen by k-centre of as many floats", "distilled, the first 5 a class",
        "it is 0.123 as a rule", "0.456 apart", "memories <b>", "a budget of 99",
    ):  # fmt: skip
        assert words in text, words
    left_out = {"similarity": {"nearest_real": {}, "lpips": "left out: no weights"}}
    folder = write_run(tmp_path / "other", distilled, more=left_out)
    assert "apart" not in render_report(folder, real_images(distilled.classes))


def test_the_same_run_gives_the_same_bytes(run, distilled, monkeypatch):
    real = real_images(distilled.classes)
    first = write_report(run, real).read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert write_report(run, real).read_bytes() == first
    assert write_report(run).read_bytes() != first


def test_names_stay_names(distilled, tmp_path):
    """Class names, descriptions and configurations are foreign: no element comes out of them."""
    config = {"description": HOSTILE[0], "data": {"kind": HOSTILE[1]}, "note": HOSTILE[2]}
    rows = [(name, 50.0) for name in HOSTILE]
    clean = Page(
        render_report(write_run(tmp_path / "a", distilled, rows=[(n, 50.0) for n in "abc"]))
    )
    foreign = replace(distilled, classes=HOSTILE)
    folder = write_run(tmp_path / "b", foreign, config=config, rows=rows)
    text = render_report(folder, note=HOSTILE[0])
    page = Page(text)
    assert {tag: page.elements.count(tag) for tag in ("script", "img", "style", "dialog")} == {
        tag: clean.elements.count(tag) for tag in ("script", "img", "style", "dialog")
    }
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for name in HOSTILE:
        assert name in page.text
    assert "49" not in re.findall(r"alert\(1\); //(\S+)", page.text)


def test_nothing_is_asked_of_a_network(run, distilled):
    page = Page(render_report(run, real_images(distilled.classes)))
    addresses = [v for _, name, v in page.attributes if name in ("src", "href", "srcset", "action")]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    text = render_report(run)
    assert "http:" not in text
    assert "https:" not in text
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and "default-src" in v)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy


def test_the_nearest_real_image_is_found(distilled):
    """Against a loop over all pairs."""
    real = real_images(distilled.classes, each=9)
    indices = torch.tensor([4, 0, 3])
    found = nearest_real(distilled, indices, real)
    for i, nearest in zip(indices.tolist(), found, strict=True):
        distances = {
            j: float(((distilled.images[i] - real.images[j].float() / 255) ** 2).mean().sqrt())
            for j in range(len(real))
            if real.labels[j] == distilled.labels[i]
        }
        assert nearest.index == min(distances, key=distances.__getitem__)
        assert nearest.distance == pytest.approx(min(distances.values()), rel=1e-5)
        assert torch.equal(nearest.image, real.images[nearest.index])


def test_classes_are_matched_by_name(distilled):
    real = real_images(distilled.classes[::-1])
    found = nearest_real(distilled, torch.tensor([0]), real)
    assert real.classes[int(real.labels[found[0].index])] == distilled.classes[0]


def test_real_images_that_do_not_fit_are_refused(distilled):
    with pytest.raises(DataError, match="none of class 'T-shirt/top'"):
        gallery(distilled, real_images(("a", "b", "c")))
    with pytest.raises(DataError, match="another shape"):
        gallery(distilled, real_images(distilled.classes, size=16))


@pytest.mark.parametrize(
    ("classes", "each", "size"), [(3, 60, 8), (1000, 1, 4), (10, 4, 128), (2, 1, 512)]
)
def test_the_page_stays_small(classes, each, size, tmp_path):
    """Hundreds of images a class, a thousand classes, large images: bounded, and said so."""
    rng = torch.Generator().manual_seed(0)
    many = DistilledSet(
        torch.rand(classes * each, 3, size, size, generator=rng).half().float(),
        torch.arange(classes).repeat_interleave(each),
        tuple(f"class {c}" for c in range(classes)),
        Normalisation((0.5,) * 3, (0.5,) * 3),
        1,
    )
    shown = gallery(many, None)
    encoded = sum(len(tile.source) for own in shown.classes for tile in own.tiles)
    assert encoded < 12e6
    assert shown.classes
    assert all(own.tiles for own in shown.classes)
    assert shown.shown == sum(len(own.tiles) for own in shown.classes) <= 600
    if each == 60:
        folder = RunFolder.create(tmp_path / "run", "data: {kind: x}\n")
        folder.write_result(many, many, {})
        assert "Showing 150 of 180 images" in " ".join(Page(render_report(folder)).text.split())


def test_a_run_without_metrics_or_evaluation_has_a_report(distilled, tmp_path):
    folder = RunFolder.create(tmp_path / "run", "data: {kind: x}\n")
    folder.write_result(distilled, distilled, {})
    text = render_report(folder)
    assert "Not measured yet" in text
    assert "Curves" not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", "{\n"), ("metrics.jsonl", "[1]\n"), ("metrics.jsonl", '{"step": 1}\n'),
        ("evaluation.json", "{}"), ("evaluation.json", '{"rows": [{"name": "x"}]}'),
        ("evaluation.json", "\udcff"), ("cost.json", "nonsense"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(run, name, content):
    (run.path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=f"cannot read .*{re.escape(name)}"):
        render_report(run)


def test_no_report_of_what_is_no_finished_run(tmp_path):
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    RunFolder.create(tmp_path / "run", "data: {kind: x}\n")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "run")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert not (tmp_path / "run" / "report.html").exists()
    arguments = ["report", str(tmp_path / "run"), "--no-nearest", "--data", "digits"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)


@pytest.fixture
def digits_run(tmp_path):
    """A run whose data can be read again: real digits as its result."""
    train = hpd.load_dataset("digits").train
    chosen = torch.cat([own[:2] for own in train.by_class])
    distilled = DistilledSet(
        train.unit(chosen), train.labels[chosen], train.classes, train.normalisation, 5120
    )
    # the configuration is complete in a real run; its data decide here
    values = {"data": {"kind": "digits"}, "source": {"kind": "pixel"}}
    return write_run(tmp_path / "run", distilled, config=values)


def test_report_reads_the_data_of_the_run(digits_run):
    """The command, whole: the nearest of real images are they themselves."""
    shown = CliRunner().invoke(main, ["report", str(digits_run.path)])
    assert shown.exit_code == 0, shown.output
    assert str(digits_run.path / "report.html") in shown.output
    text = (digits_run.path / "report.html").read_text()
    assert text.count("distance 0.000") == 20
    out = digits_run.path.parent / "deep" / "alone.html"
    shown = CliRunner().invoke(
        main, ["report", str(digits_run.path), "--no-nearest", "--out", str(out)]
    )
    assert shown.exit_code == 0, shown.output
    assert "distance 0.000" not in out.read_text()
    assert "real training images" not in Page(out.read_text()).text


def test_data_that_are_gone_are_done_without(distilled, tmp_path):
    values = {"data": {"kind": "folder", "root": str(tmp_path / "gone")}, "source": "pixel"}
    folder = write_run(tmp_path / "run", distilled, config=values)
    text = Page(hpd.report(folder.path).read_text()).text
    assert "Without the nearest real images: no such data folder" in " ".join(text.split())
    with pytest.raises(DataError):
        hpd.report(folder.path, "digits")
    # the same photos at another place
    for name in distilled.classes:
        for i in range(4):
            place = tmp_path / "moved" / name.replace("/", " ") / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i * 60, 0, 0)).save(place)
    with pytest.raises(DataError, match="none of class 'T-shirt/top'"):
        hpd.report(folder.path, tmp_path / "moved")
    (tmp_path / "other").mkdir()
    # where they were lie others now: no reason to fail
    (tmp_path / "moved").rename(tmp_path / "gone")
    text = Page(hpd.report(folder.path).read_text()).text
    assert "Without the nearest real images: the real images have none of class" in text
    (tmp_path / "gone").rename(tmp_path / "moved")
    renamed = replace(distilled, classes=("T-shirt top", "Bag", "Coat"))
    folder = write_run(tmp_path / "other" / "run", renamed, config=values)
    assert "distance" in hpd.report(folder.path, tmp_path / "moved").read_text()


def test_curves_are_where_their_values_are():
    stages = read_stages(metrics())
    assert [(s.name, s.start, len(s.losses)) for s in stages] == [
        ("0 ws", 0, 20), ("1 b4.conv1", 20, 20), ("2 pixels", 40, 20),
    ]  # fmt: skip
    assert stages[1].best == (15, pytest.approx(1.75))
    assert stages[0].seconds == pytest.approx(10)
    assert stages[0].score_seconds == pytest.approx(0.4)
    chart = loss_chart(stages)
    points = [tuple(map(float, p.split(","))) for line in chart.lines for p in line.split()]
    assert len(points) == 60
    assert [x for x, _ in points] == [pytest.approx(100 * i / 60, abs=1e-3) for i in range(60)]
    # one affine map from values to heights, the larger the higher
    values = [line["loss"] for line in metrics()]
    slope = (points[-1][1] - points[0][1]) / (values[-1] - values[0])
    assert slope < 0
    for value, (_, top) in zip(values, points, strict=True):
        assert top == pytest.approx(points[0][1] + slope * (value - values[0]), abs=0.02)
    assert all(0 < top < 100 for _, top in points)
    for tick in chart.y_ticks:
        top = points[0][1] + slope * (float(tick.text) - values[0])
        assert tick.top == pytest.approx(top, abs=0.05)
    assert len(chart.means) == 3
    middle = [float(p.split(",")[1]) for p in chart.means[1].split()][10]
    assert middle == pytest.approx(sum(top for _, top in points[29:32]) / 3, abs=0.02)
    assert score_chart(stages).means == []
    dots = score_chart(stages).dots
    assert [dot.left for dot in dots] == [
        pytest.approx(100 * s / 60, abs=1e-3) for s in (15, 35, 55)
    ]
    assert [(band.left, band.width) for band in chart.bands][1] == (33.333, 33.333)


@pytest.mark.parametrize(
    "losses", [[1.0], [2.0, 2.0], [0.0, 0.0], [1e-9, 1e9], [-5.0, 3.0], [1.0, 40.0]]
)
def test_any_finite_values_make_a_chart(losses):
    lines = [
        {"stage": "a", "step": i, "loss": v, "score": None, "seconds": 1.0}
        for i, v in enumerate(losses)
    ]
    chart = loss_chart(read_stages(lines))
    tops = [float(p.split(",")[1]) for line in chart.lines for p in line.split()]
    assert all(0 <= top <= 100 for top in tops)
    assert chart.is_log == (min(losses) > 0 and max(losses) > 30 * min(losses))
    assert 1 <= len(chart.y_ticks) <= 10
    assert score_chart(read_stages(lines)) is None


def test_round_values_are_few_and_inside():
    for low, high in ((0, 1), (-3, 7), (0.98, 1.01), (0, 7000), (1e-9, 3e-9)):
        values = round_values(low, high)
        assert 2 <= len(values) <= 6
        assert all(low - 1e-12 <= value <= high + 1e-12 for value in values)


def test_thinning_keeps_peaks():
    line = [(i, 0.0) for i in range(5000)]
    line[3217] = (3217, 9.0)
    assert (3217, 9.0) in thin(line)
    assert len(thin(line)) <= 600
    assert thin(line[:100]) == line[:100]


@pytest.mark.parametrize(
    "module", [charts, tables, card, provenance], ids=lambda module: module.__name__
)
def test_doctests(module):
    failed, tried = doctest.testmod(module)
    assert tried
    assert failed == 0


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
    # back to where one was
    assert browser.driver.switch_to.active_element == tiles[3]
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
