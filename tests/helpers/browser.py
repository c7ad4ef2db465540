"""A headless Chromium for the explorer's page, and what its tests read and do there."""

import re
import shutil
import tempfile
from contextlib import contextmanager

import pytest

pytest.importorskip("selenium", reason="needs Selenium")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait


@contextmanager
def chromium():
    """A driver with an empty profile and no network of its own; skips where one is missing."""
    browser, driver = (next(filter(None, map(shutil.which, names)), None) for names in PROGRAMS)
    if not (browser and driver):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        running = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield running
        finally:
            running.quit()


PROGRAMS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Page:
    """The explorer's page in a browser."""

    def __init__(self, driver, url, width=1280, height=900, scheme="light", forced="none"):
        self.driver = driver
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wishes = {
            "prefers-color-scheme": scheme,
            "prefers-reduced-motion": "reduce",
            "forced-colors": forced,
        }
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get_log("browser")  # of an earlier page
        driver.get(url)
        self.wait()

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self):
        """Until every input has been answered."""
        self.until("return document.getElementById('main').getAttribute('aria-busy') === 'false'")

    def until(self, script):
        WebDriverWait(self.driver, 60, 0.02).until(lambda _: self.run(script))

    def find(self, name):
        return self.driver.find_element("id", name)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, name):
        return self.find(name).text

    def click(self, name):
        self.find(name).click()
        self.wait()

    def press(self, *keys):
        """Type where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)
        self.wait()

    def set(self, **values):
        """Type into the fields."""
        for name, value in values.items():
            self.find(name).send_keys(Keys.CONTROL, "a")
            self.find(name).send_keys(str(value) or Keys.DELETE)
        self.wait()

    def drag(self, name, value):
        """Move a slider as a mouse does: many inputs at once, the last one at `value`."""
        self.run(
            """const [slider, end] = [document.getElementById(arguments[0]), arguments[1]];
            const start = Number(slider.value);
            for (let i = 1; i <= 20; i++) {
              slider.value = start + (end - start) * i / 20;
              slider.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
            f"{name}-slider",
            value,
        )
        self.wait()

    def rows(self):
        """Of each shown row: kept, dropped or drawn, token id, cells, bars, and expected draws."""
        return self.run(
            """return [...document.querySelectorAll("#rows tr:not(.empty)")].map((row) => ({
              kind: row.classList[0],
              id: Number(row.querySelector("th button").value),
              cells: [...row.children].map(
                (cell) => (cell.querySelector(".number") ?? cell).textContent),
              bars: [...row.querySelectorAll(".bar i")].map((bar) => parseFloat(bar.style.width)),
              mark: parseFloat(row.querySelector(".bar b").style.left),
            }))"""
        )

    def drawn(self):
        """The ids of the drawn rows."""
        return [row["id"] for row in self.rows() if row["kind"] == "drawn"]

    def is_open(self, fold="more"):
        return self.find(fold).get_attribute("open") is not None

    def cards(self):
        """Of each draw ahead that is there: label, numbers, where the part and the mark stand."""
        return self.run(
            """return [...document.querySelectorAll("#ahead:not([hidden]) .card:not(.empty)")]
             .map((card) => {
               const [bar, mark] = [card.querySelector("i"), card.querySelector("b")];
               return {
                 label: card.querySelector(".label").textContent,
                 told: card.querySelector("small").textContent,
                 title: card.title,
                 part: [bar, mark].map((e) => parseFloat(e.style.left)),
                 marked: !mark.hidden,
               };
             })"""
        )

    def focus(self):
        """The id of what has the focus; its text where it has none."""
        return self.run("return document.activeElement.id || document.activeElement.textContent")

    def problems(self):
        """What the browser wrote on its console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def resources(self):
        """What the page has fetched, beside itself."""
        return self.run("return performance.getEntriesByType('resource').map((e) => e.name)")

    def offline(self, wanted):
        """Cut the browser off, or not."""
        self.driver.set_network_conditions(
            offline=wanted, latency=0, download_throughput=-1, upload_throughput=-1
        )

    def brightness(self, selector, part):
        """The relative luminance of a colour, as WCAG defines it: 0 black, 1 white."""
        colour = self.run(
            "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
            selector,
            part,
        )
        channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
