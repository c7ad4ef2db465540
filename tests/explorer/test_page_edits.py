"""Penalties and bias on the explorer's page: moved bars, and a click on a token."""

import math

import pytest
from browser import Page
from explorer import DRAWS, LOGIT, next_logits, request_of, serving
from selenium.webdriver.common.keys import Keys
from tiny_model import save_tiny_model

from fused_sampler import mask_logits
from fused_sampler.explorer.page import LONGEST_SLIDER
from fused_sampler.explorer.text import Explorer
from fused_sampler.explorer.view import TOP
from fused_sampler.models.load import load_model
from fused_sampler.views.parameters import EDITS

GIVEN = {"repetition_penalty": 1.5, "dry_multiplier": 0.5, "logit_bias": {80: 3.0, 77: -math.inf}}
REPEATED = "qndqndqn"  # its tokens are among the best ones after it


@pytest.fixture
def edited(driver, explorer):
    """A page that opens with penalties and bias, and what its table has to show."""
    request = request_of(REPEATED, edits=GIVEN, seed=7)
    with serving(explorer, request) as server:
        page = Page(driver, server.url)
        yield page, explorer.view(request)
        assert page.problems() == []


def _moved(page):
    """Of each row: its outlines' widths beside logit and probability, and what they say."""
    return page.run(
        """return [...document.querySelectorAll("#rows tr:not(.empty)")].map((row) =>
             [...row.querySelectorAll(".bar em:not([hidden])")].map((outline) =>
               [parseFloat(outline.style.width),
                outline.closest(".cell").querySelector(".unseen").textContent]))"""
    )


def test_edits_show_as_moved_bars(edited):
    page, view = edited
    assert any(row.logit is None for row in view.rows)  # the banned one stays in the table
    rows, moved = page.rows(), _moved(page)
    assert [row["id"] for row in rows] == [row.id for row in view.rows]
    unit = rows[0]["bars"][2] / view.rows[0].probability
    for row, outlines in zip(view.rows, moved, strict=True):
        if row.logit == row.logit_before:
            assert outlines == []
            continue
        (_, logit), (width, probability) = outlines
        before = " before penalties and bias: "
        assert logit == f"{before}{row.logit_before:.2f}"
        assert float(probability.removeprefix(before)) == pytest.approx(
            row.probability_before, rel=0.05
        )
        assert width == pytest.approx(unit * row.probability_before, abs=1e-3)
    assert sum(map(bool, moved)) >= 2
    assert page.find("moved").is_displayed()
    [banned] = [row for row in rows if row["id"] == 77]
    assert banned["cells"][DRAWS] == "cut: the bias"
    # Both logits on one axis, by the row that the bias moved.
    [(bars, [(end, _), _], row)] = [
        (line["bars"], outlines, row)
        for line, outlines, row in zip(rows, moved, view.rows, strict=True)
        if row.id == 80
    ]
    best = view.rows[0].logit
    unit = (100 - bars[0]) / (best - row.logit)
    assert 100 - end == pytest.approx(unit * (best - row.logit_before), rel=1e-3)


def test_page_without_edits_has_no_outlines(page):
    assert not any(_moved(page))
    assert not page.find("moved").is_displayed()
    assert page.text("edits-name") == "Penalties and bias"


def test_edits_that_are_on_open_their_fold(edited):
    page, _ = edited
    assert page.is_open("edits") and not page.is_open()
    assert page.text("edits-name") == "Penalties and bias 3 on"
    shown = {name: page.find(name).get_attribute("value") for name in (*GIVEN, "dry_base")}
    assert shown == {
        "repetition_penalty": "1.5",
        "dry_multiplier": "0.5",
        "logit_bias": "80=3, 77=-inf",
        "dry_base": "1.75",
    }
    page.set(repetition_penalty=1, dry_multiplier=0, logit_bias="")
    assert page.text("edits-name") == "Penalties and bias"
    assert not any(_moved(page))


@pytest.mark.parametrize("record", EDITS, ids=lambda record: record.name)
def test_edit_sliders_change_what_the_library_changes(edited, explorer, record):
    page, _ = edited
    page.click("append")  # some look at the output alone
    output = (explorer.view(request_of(REPEATED, edits=GIVEN, seed=7)).table.drawn_id,)
    value = record.kind(min(record.axis.high, LONGEST_SLIDER) / 2)
    page.drag(record.name, value)
    assert float(page.find(record.name).get_attribute("value")) == value
    edits = {**GIVEN, record.name: value}
    view = explorer.view(request_of(REPEATED, edits=edits, seed=7), output)
    assert [row["id"] for row in page.rows()] == [row.id for row in view.rows]
    shown = [row["cells"][LOGIT].partition(" ")[0] for row in page.rows()]
    logits = [row.logit for row in view.rows]
    assert shown == ["\N{EN DASH}" if x is None else f"{x:.2f}" for x in logits]


def test_slider_of_a_whole_number_has_whole_steps(edited):
    page, _ = edited
    page.find("dry_allowed_length-slider").send_keys(Keys.ARROW_RIGHT)
    page.wait()
    assert page.find("dry_allowed_length").get_attribute("value") == "3"


def test_click_on_a_token_gives_it_a_bias(troubled, logits):
    page = troubled  # a bias is wrong while it is typed
    order = logits.argsort(descending=True).tolist()
    names = page.all("#rows button")
    assert names[2].get_attribute("title").endswith(f", id {order[2]}: give a bias")
    names[2].click()
    page.wait()
    assert page.is_open("edits")
    assert page.find("logit_bias").get_attribute("value") == f"{order[2]}=-2"
    [row] = [row for row in page.rows() if row["id"] == order[2]]
    assert row["cells"][LOGIT].startswith(f"{logits[order[2]] - 2:.2f}")
    page.press("9")  # the value is selected
    assert page.rows()[0]["id"] == order[2]
    page.all("#rows button")[1].click()  # the best one before
    page.wait()
    page.press("-inf")
    field = page.find("logit_bias")
    assert field.get_attribute("value") == f"{order[2]}=9, {order[0]}=-inf"
    assert {row["cells"][DRAWS] for row in page.rows() if row["id"] == order[0]} == {
        "cut: the bias"
    }
    page.all("#rows button")[0].click()  # which has a bias
    page.press("1")
    assert field.get_attribute("value") == f"{order[2]}=1, {order[0]}=-inf"
    page.set(logit_bias="5=1,")  # another is begun
    best = page.rows()[0]["id"]
    page.all("#rows button")[0].click()
    page.wait()
    assert field.get_attribute("value") == f"5=1, {best}=-2"


def test_bias_that_is_wrong_is_told(troubled):
    troubled.find("edits-name").click()
    troubled.set(logit_bias="5=x")
    assert troubled.text("error").startswith("logit_bias is '5=x'; give ID=VALUE")
    assert troubled.find("logit_bias").get_attribute("aria-invalid") == "true"
    troubled.set(logit_bias="999=1")
    assert troubled.text("error") == "logit_bias names token 999; the model's ids end at 256."
    troubled.set(logit_bias="")
    assert troubled.text("error") == ""


def test_penalty_of_the_generation_config_is_what_the_page_opens_with(driver, tmp_path):
    model = save_tiny_model(tmp_path)
    model.generation_config.update(repetition_penalty=1.5, do_sample=True)
    model.save_pretrained(tmp_path)
    own = Explorer(load_model(str(tmp_path)))
    with serving(own, request_of(REPEATED)) as server:
        page = Page(driver, server.url)
        assert page.find("repetition_penalty").get_attribute("value") == "1.5"
        opened = page.rows()
        assert page.text("notes").endswith("applies repetition_penalty 1.5.")
        page.set(temperature=0.9)
        logits = [[row["cells"][LOGIT] for row in rows[:TOP]] for rows in (page.rows(), opened)]
        assert logits[0] == logits[1]
        page.set(repetition_penalty=1)
        assert page.text("notes") == ""
        off = mask_logits(next_logits(own, REPEATED)).sort(descending=True).values
        shown = [row["cells"][LOGIT].partition(" ")[0] for row in page.rows()]
        assert shown[:TOP] == [f"{logit:.2f}" for logit in off[:TOP].tolist()]
        assert page.problems() == []
