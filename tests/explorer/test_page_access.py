"""The explorer's page by keyboard, on a phone, in the dark, and for a screen reader."""

import pytest
from browser import Page
from explorer import LOGIT, PROMPT, SCALED
from selenium.webdriver.common.keys import Keys

from fused_sampler.explorer.view import TOP
from fused_sampler.views.parameters import COMMON, EDITS, MORE, OFFERED, SWEPT


def test_everything_is_reached_with_the_keyboard(page):
    """In the order of the page, each with a focus that shows."""
    page.click("append")
    page.find("prompt").click()
    before, common = ["token", "back", "close"], _with_sliders(COMMON)
    after = ["seed", "draw", "count", "append", "undo", ""]  # "": the call
    after += [""] * len(page.rows())  # the names of the tokens
    folded = [*before, *common, "more-name", "edits-name", *after]
    assert _tabs(page, len(folded)) == folded
    for name in ("more-name", "edits-name"):
        page.find(name).send_keys(Keys.ENTER)
    page.find("prompt").click()
    unfolded = [*before, *common, "more-name", *_with_sliders(MORE)]
    unfolded += ["edits-name", *_with_sliders(EDITS), "logit_bias", *after]
    assert _tabs(page, len(unfolded)) == unfolded


def _with_sliders(records):
    """The ids of what they have to type or tick, and of their sliders."""
    return [
        part
        for record in records
        for part in (
            [record.name, f"{record.name}-slider"] if record.kind is not bool else [record.name]
        )
    ]


def _tabs(page, count):
    """What the focus goes to, step by step; it has to show."""
    order = []
    for _ in range(count):
        page.press(Keys.TAB)
        order.append(
            page.run("return document.activeElement.id || document.activeElement.className")
        )
        outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", order[-1]
    return order


def test_sliders_move_with_the_arrow_keys(page):
    page.find("temperature-slider").send_keys(Keys.ARROW_RIGHT)
    page.wait()
    assert page.find("temperature").get_attribute("value") == "0.85"
    logit, scaled = (float(page.rows()[0]["cells"][cell]) for cell in (LOGIT, SCALED))
    assert scaled == pytest.approx(logit / 0.85, abs=0.012)  # both are rounded


def test_letters_press_the_buttons_but_not_while_typing(page):
    page.press("d")
    assert page.find("seed").get_attribute("value") == "8"
    page.press("t")
    assert page.find("count").get_attribute("aria-pressed") == "true"
    page.press("a")
    page.press("a")
    assert len(page.all("#text .token")) == 2
    page.press("u")
    assert len(page.all("#text .token")) == 1
    page.run(  # a key that is held down
        """const key = { key: "a", repeat: true, bubbles: true };
        document.body.dispatchEvent(new KeyboardEvent("keydown", key))"""
    )
    page.wait()
    assert len(page.all("#text .token")) == 1
    page.find("prompt").click()
    page.press("d")
    assert page.find("prompt").get_attribute("value") == f"{PROMPT}d"
    assert page.find("seed").get_attribute("value") == "8"
    for name, key in (("draw", "D"), ("count", "T"), ("append", "A"), ("undo", "U")):
        assert page.find(name).text.split()[-1] == key  # the hint


def test_every_input_has_a_name(page):
    names = page.run(
        """return [...document.querySelectorAll("input, textarea, button")].map((e) =>
             e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent)"""
    )
    rows = TOP + 1  # each has the name of a token
    assert len(names) == 9 + len(OFFERED) + len(SWEPT) + 2 * len(EDITS) + rows
    assert all(names[:-1])  # the last row is empty


@pytest.mark.parametrize(
    ("width", "scheme", "top_k"),
    [(360, "light", 40), (360, "dark", 40), (345, "light", 1), (320, "light", 1)],
)
def test_page_fits_a_phone(driver, server, width, scheme, top_k):
    """Also beside a scrollbar, and with the widest counts: all draws of one token."""
    page = Page(driver, server.url, width, 740, scheme)
    page.set(top_k=top_k)
    page.set(prompt="W" * 36)
    for _ in range(8):
        page.click("append")
    page.click("count")
    page.all("#text .token")[0].click()
    for folded in page.all("summary"):
        folded.click()
    whole, seen = page.run(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    )
    assert whole == seen <= width
    wide = page.run(
        """return [...document.querySelectorAll("main *")].filter((e) => {
             const { left, right } = e.getBoundingClientRect();
             const placed = getComputedStyle(e).position === "absolute";
             return !placed && (left < 0 || right > arguments[0]);
           }).map((e) => e.outerHTML)""",
        seen,
    )
    assert wide == []
    beyond = page.run(
        """return [...document.querySelectorAll("thead th, #rows tr:not(.empty) .number")]
           .filter((e) => {
             const text = document.createRange();
             text.selectNodeContents(e);
             const { right } = e.closest("th, td").getBoundingClientRect();
             return e.offsetWidth && text.getBoundingClientRect().right > right - 1;
           }).map((e) => e.textContent)"""
    )
    assert beyond == []  # no number or heading touches the next one
    assert page.problems() == []


def test_dark_and_light_follow_the_system(driver, server):
    brightness = {}
    for scheme in ("light", "dark"):
        page = Page(driver, server.url, scheme=scheme)
        page.set(top_k=5)
        brightness[scheme] = [
            page.brightness(selector, part)
            for selector, part in (
                ("body", "background-color"),
                ("body", "color"),
                (".dropped", "color"),
                ("tr.drawn", "color"),
                ("#kept", "color"),
            )
        ]
    for paper, *inks in brightness.values():
        for ink in inks:
            low, high = sorted((paper, ink))
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG's contrast of text
    assert brightness["light"][0] > 0.8
    assert brightness["dark"][0] < 0.05


def test_page_talks_to_its_own_server_alone(page, server):
    page.click("draw")
    assert set(page.resources()) == {f"{server.url}view"}
    page.run("fetch('http://localhost:9/').catch(() => { window.refused = true })")
    page.until("return window.refused === true")
    assert any("Content Security Policy" in line for line in page.problems())
