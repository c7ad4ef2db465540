"""A saved page of the explorer's, which needs no server."""

from itertools import pairwise

import pytest
from browser import Page
from explorer import DRAWS, PROMPT, REQUEST, SAMPLING, request_of
from selenium.webdriver.common.keys import Keys

from fused_sampler import sample
from fused_sampler.explorer.page import saved_page
from fused_sampler.explorer.view import SAMPLES
from fused_sampler.params import TEMPERATURE
from fused_sampler.views.parameters import EDITS, SWEPT


@pytest.fixture(scope="module")
def saved(explorer, tmp_path_factory, driver):
    path = tmp_path_factory.mktemp("saved") / "page.html"
    path.write_text(saved_page(explorer, REQUEST), encoding="utf-8")
    return path.as_uri()


def test_saved_page_needs_no_server(driver, saved, logits):
    page = Page(driver, saved)
    assert page.find("temperature").get_attribute("value") == "0.8"
    assert page.drawn() == [int(sample(logits, **SAMPLING, seed=7))]
    slider = page.find("temperature-slider")
    shown = []
    for key, temperature in ((Keys.ARROW_RIGHT, 1.0), (Keys.END, 5.0), (Keys.HOME, 0.0)):
        slider.send_keys(key)
        page.wait()
        assert page.find("temperature").get_attribute("value") == f"{temperature:g}"
        assert slider.get_attribute("aria-valuetext") == f"{temperature:g}"
        settings = {**SAMPLING, "temperature": temperature}
        assert page.drawn() == [int(sample(logits, **settings, seed=7))]
        counts = sample(logits, **settings, seed=7, num_samples=SAMPLES).bincount(minlength=257)
        for row in page.rows():
            if row["kind"] != "dropped":
                assert int(row["cells"][DRAWS].split(" / ")[0]) == counts[row["id"]]
        shown.append([row["bars"] for row in page.rows()])
    assert all(one != other for one, other in pairwise(shown))
    assert page.resources() == []
    assert page.problems() == []


@pytest.mark.parametrize("sampling", [{"top_a": 0.5}, {"top_k": 9}], ids=str)
def test_saved_page_shows_the_folded_filters_that_are_on(driver, explorer, tmp_path, sampling):
    path = tmp_path / "page.html"
    path.write_text(saved_page(explorer, request_of(**sampling)), encoding="utf-8")
    page = Page(driver, path.as_uri())
    assert page.is_open() == ("top_a" in sampling)
    page.find("more-name").click()
    assert page.is_open() != ("top_a" in sampling)
    assert page.problems() == []


def test_saved_page_says_what_it_holds(driver, saved):
    page = Page(driver, saved)
    note = page.text("saved-note")
    assert "22 temperatures" in note
    assert "Run fused-sampler explore" in note
    for name in ("draw", "count", "look", "append", "undo", "keys"):
        assert not page.find(name).is_displayed()
    for record in (*SWEPT, *EDITS):
        assert page.find(f"{record.name}-slider").is_enabled() == (record is TEMPERATURE)
    assert not any(name.is_enabled() for name in page.all("#rows button"))
    rows = page.rows()
    page.set(prompt="abc", seed="8", top_k="1")  # read only
    page.press("a")
    assert page.rows() == rows
    assert page.find("prompt").get_attribute("value") == PROMPT
    assert page.problems() == []
