"""The explorer's charts and the filters that move them, as its page shows them in Chromium."""

import math

import pytest
from browser import Page
from explorer import DRAWS, LOGIT, PROBABILITY, PROMPT, SAMPLING, SCALED, request_of, serving
from selenium.webdriver.common.keys import Keys

from fused_sampler import mask_logits, sample, softmax
from fused_sampler.explorer.view import TOP
from fused_sampler.views.parameters import COMMON, OFFERED, SWEPT


def test_page_opens_with_the_given_values(page, logits):
    assert page.find("prompt").get_attribute("value") == PROMPT
    for name, value in {**SAMPLING, "seed": 7}.items():
        assert float(page.run("return typed(arguments[0])", name)) == value
    assert page.find("top_k-slider").get_attribute("value") == "40"
    rows = page.rows()
    best = logits.topk(TOP).values.tolist()
    assert [row["cells"][LOGIT] for row in rows[:TOP]] == [f"{x:.2f}" for x in best]
    assert [row["cells"][SCALED] for row in rows[:TOP]] == [f"{x / 0.8:.2f}" for x in best]


def test_temperature_slider_changes_the_charts(page, logits):
    before = page.rows()
    page.drag("temperature", 2.5)
    after = page.rows()
    assert page.find("temperature").get_attribute("value") == "2.5"
    probabilities = softmax(logits, 2.5).sort(descending=True).values.tolist()
    for row, probability in zip(after[:TOP], probabilities, strict=False):
        assert float(row["cells"][PROBABILITY]) == pytest.approx(probability, abs=5e-5)  # 4 digits
    for old, new in zip(before[1:TOP], after[1:TOP], strict=True):
        assert new["cells"][LOGIT] == old["cells"][LOGIT]
        assert new["bars"][0] == old["bars"][0]  # raw logits stay
        assert new["bars"][1] >= old["bars"][1]  # logit / T comes nearer to the best
    assert after[1]["bars"][1] > before[1]["bars"][1]
    assert after[0]["bars"][2] != before[0]["bars"][2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 5),
        ("top_p", 0.5),
        ("min_p", 0.4),
        ("top_n_sigma", 1.2),
        ("epsilon_cutoff", 0.03),
        ("eta_cutoff", 0.1),
        ("top_a", 0.5),
    ],
)
def test_filter_sliders_drop_what_the_library_drops(page, logits, name, value):
    off = {"top_k": 0, "top_p": 1.0}
    page.set(**off)
    assert {row["kind"] for row in page.rows()} == {"kept", "drawn"}
    page.drag(name, value)
    kept = mask_logits(logits, **{"temperature": 0.8, **off, name: value}) > -math.inf
    order = logits.argsort(descending=True, stable=True)[:TOP]
    rows = page.rows()[:TOP]
    assert [row["kind"] != "dropped" for row in rows] == kept[order].tolist()
    words = {row["cells"][DRAWS] for row in rows if row["kind"] == "dropped"}
    assert words == {f"cut: {name.replace('_', '-')}"}  # told without colour as well
    assert page.text("kept").startswith(f"{int(kept.sum())} of 257 tokens kept, ")


# What is folded away
def test_filters_that_few_use_are_folded_away(page):
    shown = {record.name: page.find(record.name).is_displayed() for record in OFFERED}
    assert shown == {record.name: record in COMMON for record in OFFERED}
    assert page.text("more-name") == "More filters"
    page.find("more-name").send_keys(Keys.SPACE)
    assert all(page.find(record.name).is_displayed() for record in OFFERED)
    page.find("more-name").send_keys(Keys.SPACE)
    assert not page.is_open()


def test_folded_filters_that_are_on_are_counted(page, logits):
    page.find("more-name").click()
    page.set(top_a="0.3", eta_cutoff="0.05")
    page.find("more-name").click()
    assert not page.is_open()
    assert page.text("more-name") == "More filters 2 on"
    given = {**SAMPLING, "top_a": 0.3, "eta_cutoff": 0.05}
    assert page.drawn() == [int(sample(logits, **given, seed=7))]
    page.find("more-name").click()
    page.set(top_a="0", eta_cutoff="0.0")
    assert page.text("more-name") == "More filters"


@pytest.mark.parametrize("record", SWEPT[len(COMMON) :], ids=lambda record: record.name)
def test_folded_filters_show_where_one_is_on(driver, explorer, record):
    value = record.axis.high / 2
    with serving(explorer, request_of(**{record.name: value})) as server:
        page = Page(driver, server.url)
        assert page.is_open() and page.text("more-name") == "More filters 1 on"
        assert float(page.find(record.name).get_attribute("value")) == value
        assert page.find(f"{record.name}-slider").is_displayed()
        assert page.problems() == []


@pytest.mark.parametrize("height", [600, 900])
def test_buttons_stay_in_reach_of_many_filters(driver, server, height):
    page = Page(driver, server.url, height=height)
    page.find("more-name").click()
    bottom = page.run("return document.getElementById('undo').getBoundingClientRect().bottom")
    left_out = page.run("return document.querySelector('.controls').getBoundingClientRect().top")
    assert bottom - left_out <= height
    assert height < 900 or bottom <= height
    last = page.find(OFFERED[-1].name)
    page.run("arguments[0].focus()", last)
    box = page.run("return arguments[0].getBoundingClientRect().bottom", last)
    seed = page.run("return document.getElementById('seed').getBoundingClientRect().top")
    assert box <= seed
    assert page.problems() == []


def test_field_that_is_wrong_is_not_hidden(page):
    page.run(  # as a page that the browser filled in with what was there before
        """const field = document.getElementById("top_a");
        field.value = "x";
        field.dispatchEvent(new Event("input", { bubbles: true }))"""
    )
    page.wait()
    assert page.is_open()
    assert page.find("top_a").get_attribute("aria-invalid") == "true"
    assert any("400" in line for line in page.problems())


def test_dragging_ends_at_the_last_value(page, server):
    for times, value in enumerate((5, 0, 3), start=1):
        page.drag("temperature", value)  # inputs that come at once are answered once
        assert page.resources() == [f"{server.url}view"] * times
        scaled = page.rows()[0]["cells"][SCALED]
        logit = float(page.rows()[0]["cells"][LOGIT])
        if value:
            assert float(scaled) == pytest.approx(logit / value, abs=0.01)  # both are rounded
        else:
            assert scaled == "\N{EN DASH}"


def test_late_answer_does_not_replace_a_newer_one(page):
    page.run(
        """const real = window.fetch;
        let delay = 400;
        window.fetch = async (...all) => {
          const wait = delay;
          delay = 0;
          await new Promise((go) => setTimeout(go, wait));
          return real(...all);
        };
        const slider = document.getElementById("top_k-slider");
        const move = (value) => {
          slider.value = value;
          slider.dispatchEvent(new Event("input"));
        };
        move(3);
        setTimeout(() => move(5), 50);"""
    )
    page.until("return document.getElementById('top_k').value === '5'")
    page.wait()
    assert page.text("kept").startswith("5 of 257 tokens kept")


@pytest.mark.parametrize("temperature", ["0.01", "0.001", "2e-5"])
def test_numbers_stay_beside_their_bars_at_low_temperatures(page, logits, temperature):
    page.set(temperature=temperature, top_k=0, top_p=1)
    best = float(logits.max()) / float(temperature)
    near = pytest.approx(best, rel=0.05)  # of a number too long, two digits are left
    assert float(page.rows()[0]["cells"][SCALED]) == near
    room = page.run(
        """return [...document.querySelectorAll("#rows tr:not(.empty) .cell")].map((cell) => {
             const text = document.createRange();
             text.selectNodeContents(cell.querySelector(".number"));
             const bar = cell.querySelector(".bar");
             return bar.getBoundingClientRect().left - text.getBoundingClientRect().right;
           })"""
    )
    assert min(room) > 0


def test_nothing_moves_while_a_slider_is_dragged(page):
    places = (
        "return [...document.querySelectorAll('#rows tr, #track, #others')].map((e) => e.offsetTop)"
    )
    before = page.run(places)
    for name, value in (("temperature", 5), ("top_k", 3), ("temperature", 0), ("top_k", 0)):
        page.drag(name, value)
        assert page.run(places) == before
