"""The explorer's page by keyboard, on a phone, in the dark, and for a screen reader."""

import pytest
from browser import Page
from explorer import LOGIT, PROMPT, SCALED, TOKEN
from selenium.webdriver.common.keys import Keys

from fused_sampler.explorer.view import AHEAD
from fused_sampler.views.numbers import label
from fused_sampler.views.parameters import COMMON, EDITS, MORE, SWEPT


def test_everything_is_reached_with_the_keyboard(page):
    """In the order of the page, each with a focus that shows."""
    page.click("append")
    page.click("look")
    page.find("prompt").click()
    before, common = ["token", "back", "close", *["card"] * AHEAD, ""], _with_sliders(COMMON)
    after = ["seed", "draw", "count", "look", "append", "undo", "keys"]
    after += [""] * len(page.rows())  # the names of the tokens; the other "" is the call
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
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        name, outline = page.run(
            """const e = document.activeElement;
            return [e.id || e.className, getComputedStyle(e).outlineStyle]"""
        )
        assert outline == "solid", name
        order.append(name)
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


def test_letters_can_be_left_to_other_programs(page):
    """Whoever dictates, or types with one key that sticks, presses none by mistake."""
    page.find("keys").click()
    page.run("document.activeElement.blur()")
    page.press("d", "a", "t", "l")
    assert page.find("seed").get_attribute("value") == "7"
    assert page.all("#text .token") == []
    assert not any(hint.is_displayed() for hint in page.all(".buttons kbd"))
    page.find("keys").click()
    page.run("document.activeElement.blur()")
    page.press("d")
    assert page.find("seed").get_attribute("value") == "8"


def test_arrow_keys_go_along_the_text(page):
    """So that the tab key goes from any token to what can be done with it."""
    for _ in range(3):
        page.click("append")
    page.find("prompt").click()
    tokens = page.all("#text .token")
    page.press(Keys.TAB)
    for key, place in (
        (None, 2),
        (Keys.ARROW_RIGHT, 2),
        (Keys.ARROW_LEFT, 1),
        (Keys.HOME, 0),
        (Keys.ARROW_LEFT, 0),
        (Keys.END, 2),
        (Keys.ARROW_LEFT, 1),
    ):
        if key:
            page.press(key)
        assert page.driver.switch_to.active_element == tokens[place]
        assert page.text("alternatives-title").startswith(f"New token {place + 1}, ")
    page.press(Keys.TAB)
    assert page.focus() == "back"
    page.press(Keys.ENTER)
    assert len(page.all("#text .token")) == 1


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.ESCAPE])
def test_focus_goes_back_where_the_alternatives_close(page, key):
    page.click("append")
    page.find("prompt").click()
    page.press(Keys.TAB, Keys.TAB, Keys.TAB)
    assert page.focus() == "close"
    page.press(key)
    assert page.driver.switch_to.active_element == page.all("#text .token")[0]
    assert not page.find("alternatives").is_displayed()


def test_unfolded_filters_are_seen(driver, server):
    """The box that scrolls begins with them, where it is lower than all of them."""
    page = Page(driver, server.url, height=600)
    for fold in ("more", "edits"):
        page.find(f"{fold}-name").send_keys(Keys.ENTER)
        top = f"document.getElementById('{fold}-name').getBoundingClientRect().top"
        box = page.find("parameters")
        page.until(f"return Math.abs({top} - {box.rect['y']} + window.scrollY) < 8")
    assert page.find("repetition_penalty").is_displayed()


def _exposed(page):
    """What a screen reader finds, in its order: role, name and description."""
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    page.driver.execute_cdp_cmd("Accessibility.disable", {})
    by_id, found, left = {node["nodeId"]: node for node in nodes}, [], [nodes[0]["nodeId"]]
    while left:
        node = by_id[left.pop()]
        left += [i for i in reversed(node.get("childIds", ())) if i in by_id]
        if not node["ignored"]:
            parts = (node.get(key, {}).get("value", "") for key in ("role", "name", "description"))
            found.append(tuple(part.strip() for part in parts))
    return found


def test_screen_reader_finds_names_for_all(page):
    page.click("append")
    page.click("look")
    page.all("#text .token")[0].click()
    for fold in ("more-name", "edits-name"):
        page.find(fold).click()
    found = _exposed(page)
    of_role = {role: [name for r, name, _ in found if r == role] for role, _, _ in found}
    names = [label(record.name) for record in (*SWEPT, *EDITS)]
    assert of_role["slider"] == names
    fields = ["Prompt", *names, "logit-bias", "seed"]
    assert [name.split()[0] for name in of_role["textbox"]] == fields
    assert of_role["checkbox"] == ["temperature-last", "letter keys press these"]
    rows, cards = page.rows(), page.cards()
    described = {name: told for role, name, told in found if role == "button"}
    for row in rows:
        assert described[row["cells"][TOKEN]].endswith(f", id {row['id']}: give a bias")
    assert len(of_role["button"]) == 1 + 2 + len(cards) + 5 + len(rows)
    assert all(name for role in ("button", "region") for name in of_role[role])
    assert of_role["table"] == ["The best tokens, and the drawn one"]
    assert of_role["image"] == [f"Cumulative bar. {page.text('drawn')}"]
    assert of_role["columnheader"][2:] == [
        *(head.text.replace("\n", " ") for head in page.all("thead th")[2:])
    ]
    [drawn] = [row for row in page.all("#rows tr") if row.get_attribute("class") == "drawn"]
    assert drawn.get_attribute("textContent").endswith(" drawn")  # not by its colour alone


def test_changes_are_told(page):
    """A screen reader says what is in these, whenever it changes."""
    told = page.run(
        """return [...document.querySelectorAll("[role=status], [role=alert], [aria-live]")]
           .map((e) => e.id)"""
    )
    assert told == ["alternatives", "kept", "drawn", "ahead-told", "error"]
    before = page.text("kept")
    page.set(top_k=3)
    assert page.text("kept") != before
    page.click("look")
    labels = " ".join(card["label"] for card in page.cards())
    assert page.run("return document.getElementById('ahead-told').textContent.trim()") == (
        f"Ahead: {labels}"
    )


def test_field_that_is_wrong_says_why(troubled):
    troubled.set(top_p="x")
    troubled.driver.execute_cdp_cmd("Accessibility.enable", {})
    query = {"accessibleName": "top-p 1 is off", "role": "textbox"}
    root = troubled.driver.execute_cdp_cmd("DOM.getDocument", {})["root"]["nodeId"]
    [node] = troubled.driver.execute_cdp_cmd(
        "Accessibility.queryAXTree", {"nodeId": root, **query}
    )["nodes"]
    troubled.driver.execute_cdp_cmd("Accessibility.disable", {})
    properties = {one["name"]: one["value"] for one in node["properties"]}
    assert properties["invalid"]["value"] == "true"
    [message] = properties["errormessage"]["relatedNodes"]
    assert message["idref"] == "error"


def test_sliders_stand_where_their_parameters_do(page):
    """At the value that switches each off, which is a step of it."""
    page.set(**{record.name: record.off for record in COMMON})
    found = page.run(
        """return Object.fromEntries([...document.querySelectorAll("[type=range]")]
             .map((slider) => [slider.id, Number(slider.value)]))"""
    )
    assert found == {f"{record.name}-slider": record.off for record in (*SWEPT, *EDITS)}


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
    page.click("look")
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
    small = page.run(
        """const alone = "button:not(#text .token), summary, #keys-name, input:not(#keys)";
        return [...document.querySelectorAll(alone)].filter((e) => {
          const { width, height } = e.getBoundingClientRect();
          return e.offsetWidth && (width < 24 || height < 24);
        }).map((e) => e.outerHTML)"""
    )
    assert small == []  # for a finger: WCAG's 24 pixels; the text's own tokens may be less
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
                ("kbd", "color"),
                ("tr.drawn", "color"),
                ("#kept", "color"),
                *SHAPES,
            )
        ]
    for paper, *inks in brightness.values():
        for place, ink in enumerate(inks):
            low, high = sorted((paper, ink))
            least = 4.5 if place < len(inks) - len(SHAPES) else 3  # WCAG's contrasts
            assert (high + 0.05) / (low + 0.05) >= least
    assert brightness["light"][0] > 0.8
    assert brightness["dark"][0] < 0.05


SHAPES = (
    ("#prompt", "border-top-color"),
    ("#top_k", "border-top-color"),
    (".kept .bar i", "background-color"),
    (".drawn .bar i", "background-color"),
    (".segment", "border-right-color"),
)


def test_colours_of_the_system_leave_the_bars(driver, server):
    page = Page(driver, server.url, forced="active")
    page.set(top_k=5, temperature=2)
    page.click("look")

    def shade(selector):
        return page.brightness(selector, "background-color")

    paper = shade("body")
    for shape in (".kept .bar i", ".drawn .bar i", ".kept .bar b", ".card i", ".card b"):
        assert shade(shape) != paper, shape
    assert shade(".drawn .bar i") != shade(".kept .bar i")
    assert shade(".segment.drawn") != shade(".segment:not(.drawn)")
    assert shade("#look") != shade("#count")  # which is not pressed


def test_page_talks_to_its_own_server_alone(page, server):
    page.click("draw")
    assert set(page.resources()) == {f"{server.url}view"}
    page.run("fetch('http://localhost:9/').catch(() => { window.refused = true })")
    page.until("return window.refused === true")
    assert any("Content Security Policy" in line for line in page.problems())
