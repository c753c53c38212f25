"""Headless Chromium for tests that look at pages: Debian's packages, or whatever is on the PATH."""

from __future__ import annotations

import json
import shutil

import pytest

_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--force-color-profile=srgb", "--hide-scrollbars",
)  # fmt: skip

# every text that is seen, with its colour and that of the nearest background behind it
_TEXTS = """
const seen = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, element = node.parentElement;
  if (!node.textContent.trim() || !element.checkVisibility({visibilityProperty: true})) continue;
  let behind = element, background;
  do {
    background = getComputedStyle(behind).backgroundColor;
    behind = behind.parentElement;
  } while (behind && /rgba\\(.*, 0\\)|transparent/.test(background));
  seen.push([node.textContent.trim(), getComputedStyle(element).color, background]);
}
return seen;
"""


class Browser:
    """Chromium with what these tests ask of it."""

    def __init__(self, driver) -> None:
        self.driver = driver
        # Chromium's own first page asks for its parts
        driver.get("about:blank")
        driver.get_log("performance")

    def open(self, path, *, width=1280, height=900, dark=False) -> None:
        """Load a file in a window of that many CSS pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(path.resolve().as_uri())

    def run(self, script, *arguments):
        """Run JavaScript in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        """Return the elements of a selector."""
        return self.driver.find_elements("css selector", selector)

    def requested(self) -> set[str]:
        """Return every address that was asked for since the last call, but data URIs."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = {
            entry["params"]["request"]["url"]
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        }
        return {url for url in urls if not url.startswith("data:")}

    def complaints(self) -> list[str]:
        """Return what the console holds: errors of scripts, refused or broken resources."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def contrasts(self) -> dict[str, float]:
        """Return the contrast of each text to what is behind it, as WCAG 2.2 defines it."""
        return {text: _contrast(ink, behind) for text, ink, behind in self.run(_TEXTS)}

    def screenshot(self, path) -> None:
        """Write a PNG of what the window shows."""
        path.write_bytes(self.driver.get_screenshot_as_png())

    def wait_for(self, script, seconds=10) -> None:
        """Wait until an expression is true."""
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(self.driver, seconds, poll_frequency=0.02)
        wait.until(lambda _: self.run(f"return {script}"), f"never true: {script}")


def _contrast(ink: str, behind: str) -> float:
    light, dark = sorted((_luminance(ink), _luminance(behind)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    values = [float(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def start_browser(profile) -> Browser:
    """Start Chromium with a fresh profile, or skip the test, saying what is missing."""
    pytest.importorskip("selenium", reason="needs selenium: pip install 'hpd[dev]'")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    return Browser(webdriver.Chrome(options=options, service=service))
