"""The explorer's page in a headless Chromium: it shows what the library says of its inputs."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

pytest.importorskip("selenium", reason="needs Selenium")

from browser import Page, chromium
from explorer import PROMPT, request_of, serving
from scripted import scripted_model
from selenium.webdriver.common.keys import Keys
from tiny_model import save_tiny_model

from fused_sampler import mask_logits, sample, softmax
from fused_sampler.explorer.page import saved_page
from fused_sampler.explorer.text import Explorer
from fused_sampler.explorer.view import SAMPLES, TOP
from fused_sampler.filters.top_p import TOP_P
from fused_sampler.models.load import LoadedModel, load_model
from fused_sampler.params import TEMPERATURE
from fused_sampler.views.parameters import COMMON, EXPLORED, MORE, OFFERED, SWEPT

REQUEST = request_of(temperature=0.8, top_k=40, top_p=0.95, seed=7)
SAMPLING = REQUEST.sampling
TOKEN, LOGIT, SCALED, PROBABILITY, DRAWS = range(1, 6)  # cells of a row


@pytest.fixture(scope="module")
def driver():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder)
    return Explorer(load_model(str(folder)))


@pytest.fixture(scope="module")
def server(explorer, driver):
    with serving(explorer, REQUEST) as running:
        yield running


@pytest.fixture
def page(driver, server):
    """The page as it opens; it must have nothing to complain of when the test is done."""
    page = Page(driver, server.url)
    yield page
    assert page.problems() == []


@pytest.fixture(scope="module")
def logits(explorer):
    return next_logits(explorer, PROMPT)


def next_logits(explorer, text, appended=()):
    ids = explorer.loaded.tokenizer(text).input_ids + list(appended)
    with torch.no_grad():
        return explorer.loaded.model(torch.tensor([ids])).logits[0, -1]


def drawn(page):
    """The ids of the drawn rows."""
    return [row["id"] for row in page.rows() if row["kind"] == "drawn"]


# Charts


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


def _is_open(page, fold="more"):
    return page.find(fold).get_attribute("open") is not None


def test_filters_that_few_use_are_folded_away(page):
    shown = {record.name: page.find(record.name).is_displayed() for record in OFFERED}
    assert shown == {record.name: record in COMMON for record in OFFERED}
    assert page.text("more-name") == "More filters"
    page.find("more-name").send_keys(Keys.SPACE)
    assert all(page.find(record.name).is_displayed() for record in OFFERED)
    page.find("more-name").send_keys(Keys.SPACE)
    assert not _is_open(page)


def test_folded_filters_that_are_on_are_counted(page, logits):
    page.find("more-name").click()
    page.set(top_a="0.3", eta_cutoff="0.05")
    page.find("more-name").click()
    assert not _is_open(page)
    assert page.text("more-name") == "More filters 2 on"
    given = {**SAMPLING, "top_a": 0.3, "eta_cutoff": 0.05}
    assert drawn(page) == [int(sample(logits, **given, seed=7))]
    page.find("more-name").click()
    page.set(top_a="0", eta_cutoff="0.0")
    assert page.text("more-name") == "More filters"


@pytest.mark.parametrize("record", SWEPT[len(COMMON) :], ids=lambda record: record.name)
def test_folded_filters_show_where_one_is_on(driver, explorer, record):
    value = record.axis.high / 2
    with serving(explorer, request_of(**{record.name: value})) as server:
        page = Page(driver, server.url)
        assert _is_open(page) and page.text("more-name") == "More filters 1 on"
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
    assert _is_open(page)
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


# Penalties and bias

EDITS = {"repetition_penalty": 1.5, "dry_multiplier": 0.5, "logit_bias": {80: 3.0, 77: -math.inf}}
REPEATED = "qndqndqn"  # its tokens are among the best ones after it


@pytest.fixture
def edited(driver, explorer):
    """A page that opens with penalties and bias, and what its table has to show."""
    request = request_of(REPEATED, edits=EDITS, seed=7)
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
    assert _is_open(page, "edits") and not _is_open(page)
    assert page.text("edits-name") == "Penalties and bias 3 on"
    shown = {name: page.find(name).get_attribute("value") for name in (*EDITS, "dry_base")}
    assert shown == {
        "repetition_penalty": "1.5",
        "dry_multiplier": "0.5",
        "logit_bias": "80=3, 77=-inf",
        "dry_base": "1.75",
    }
    page.set(repetition_penalty=1, dry_multiplier=0, logit_bias="")
    assert page.text("edits-name") == "Penalties and bias"
    assert not any(_moved(page))


@pytest.mark.parametrize("record", EXPLORED, ids=lambda record: record.name)
def test_edit_sliders_change_what_the_library_changes(edited, explorer, record):
    page, _ = edited
    value = record.kind(record.axis.high / 2)
    page.drag(record.name, value)
    assert float(page.find(record.name).get_attribute("value")) == value
    view = explorer.view(request_of(REPEATED, edits={**EDITS, record.name: value}, seed=7))
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
    assert names[2].get_attribute("aria-label").endswith(f", id {order[2]}: give a bias")
    names[2].click()
    page.wait()
    assert _is_open(page, "edits")
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


# The draw


@pytest.mark.parametrize("seed", [0, 1, 2, 2**63 - 1])
def test_drawn_token_is_that_of_sample(page, logits, seed):
    page.set(seed=seed)
    token = int(sample(logits, **SAMPLING, seed=seed))
    assert drawn(page) == [token]
    [spelt] = [row["cells"][TOKEN] for row in page.rows() if row["id"] == token]
    assert page.text("drawn").endswith(f": {spelt} is drawn.")
    segment, mark = page.all(".segment.drawn")[0].rect, page.find("mark").rect
    # The mark stands in its segment, give or take the width of both lines.
    assert segment["x"] - 3 <= mark["x"] + 1 <= segment["x"] + segment["width"] + 3


def test_bar_is_cut_into_the_kept_tokens(page, explorer):
    page.set(top_k=5, top_p=1)
    rows = [row for row in explorer.view(request_of(temperature=0.8, top_k=5)).rows if row.kept]
    segments = page.run(
        """const track = document.getElementById("track");
        return [...track.children].map((e) => [e.style.left, e.style.width, e.title])"""
    )
    rows.sort(key=lambda row: row.start)
    assert len(segments) == len(rows) == 5
    for (left, width, title), row in zip(segments, rows, strict=True):
        assert float(left[:-1]) == pytest.approx(100 * row.start, abs=1e-3)  # CSS keeps 6 digits
        assert float(width[:-1]) == pytest.approx(100 * (row.end - row.start), abs=1e-3)
        assert title == f"{row.label}: {row.start:.4f} to {row.end:.4f}"


def test_draw_takes_the_next_seed(page, logits):
    found = []
    for seed in (8, 9, 10, 11):
        page.click("draw")
        assert page.find("seed").get_attribute("value") == str(seed)
        found += drawn(page)
    tokens = [int(sample(logits, **SAMPLING, seed=seed)) for seed in (8, 9, 10, 11)]
    assert found == tokens
    assert len(set(tokens)) > 1


def test_draw_at_the_last_seed_goes_on_with_the_first(page, logits):
    page.set(seed=2**63 - 1)
    page.click("draw")
    assert page.find("seed").get_attribute("value") == "0"
    assert drawn(page) == [int(sample(logits, **SAMPLING, seed=0))]


def test_spaces_around_a_number_do_not_count(troubled):
    troubled.set(seed=" 7 ", temperature=" 1.5 ")
    assert troubled.text("error") == ""
    assert troubled.find("seed").get_attribute("value") == " 7 "
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == "8"


def test_longest_seed_is_seen_whole(page):
    page.set(seed=2**63 - 1)
    seen = page.run(
        "const e = document.getElementById('seed'); return e.clientWidth - e.scrollWidth"
    )
    assert seen >= 0


def test_greedy_takes_the_best_and_shows_no_number(page):
    page.set(temperature=0)
    assert page.rows()[0]["kind"] == "drawn"
    assert page.text("drawn").startswith("Greedy: ")
    assert not page.find("mark").is_displayed()


def test_thousand_draws_are_those_of_sample(page, logits):
    assert {
        row["cells"][DRAWS].split(" / ")[0] for row in page.rows() if row["kind"] == "kept"
    } == {"\N{EN DASH}"}
    page.set(top_k=0, top_p=1)
    page.click("count")
    assert page.find("count").get_attribute("aria-pressed") == "true"
    tokens = sample(logits, temperature=0.8, seed=7, num_samples=SAMPLES)
    counts = tokens.bincount(minlength=257)
    order = logits.argsort(descending=True, stable=True)[:TOP]
    cells = [row["cells"][DRAWS].split(" / ") for row in page.rows()]
    assert [int(observed) for observed, _ in cells[:TOP]] == counts[order].tolist()
    others, expected = page.text("others-draws").split(" / ")
    assert sum(int(observed) for observed, _ in cells) + int(others) == SAMPLES
    total = sum(float(number) for _, number in cells) + float(expected)
    assert total == pytest.approx(SAMPLES, abs=0.05 * (len(cells) + 1))  # each is rounded
    best, *_ = rows = page.rows()
    for row in rows:  # bars and marks on one axis
        observed, expected = (float(number) for number in row["cells"][DRAWS].split(" / "))
        unit = best["bars"][3] / int(counts[best["id"]])
        assert row["bars"][3] == pytest.approx(observed * unit, abs=1e-3)  # CSS keeps 6 digits
        assert row["mark"] == pytest.approx(expected * unit, abs=0.06 * unit)  # rounded
    page.click("count")
    assert page.text("others-draws").startswith("\N{EN DASH}")


def test_call_in_python_is_shown(page):
    page.all(".draw summary")[0].click()
    call = "sample(logits, temperature=0.8, top_k=40, top_p=0.95, seed=7, step=0)"
    assert page.text("call") == call


def test_ids_that_cannot_be_spelled_are_told_and_never_drawn(driver, page, tmp_path):
    assert page.text("notes") == ""
    save_tiny_model(tmp_path, padding=71)
    padded = Explorer(load_model(str(tmp_path)))
    with serving(padded, request_of(temperature=3.0)) as server:
        page = Page(driver, server.url)
        note = "257 of 328 ids: 71 that the tokenizer cannot spell are forbidden."
        assert page.text("notes") == note
        for _ in range(8):
            page.click("append")
        assert page.text("error") == ""
        assert len(page.all("#text .token")) == 8


def test_generation_config_is_told(driver, tmp_path):
    model = save_tiny_model(tmp_path)
    model.generation_config.update(repetition_penalty=1.1, do_sample=True)
    model.save_pretrained(tmp_path)
    with serving(Explorer(load_model(str(tmp_path))), REQUEST) as server:
        page = Page(driver, server.url)
        note = "the model's generation config applies repetition_penalty 1.1"
        assert page.text("notes") == f"{note}."
        page.set(temperature=0)
        assert page.text("notes") == f"{note}."


# The text


def test_answer_of_a_chat_begins_a_line(driver, tmp_path):
    save_tiny_model(tmp_path)
    loaded = load_model(str(tmp_path))
    loaded.tokenizer.chat_template = "{{ messages[-1].content }}!"
    for system, after in ((None, ""), ("Hi", ", after the system message “Hi”")):
        request = replace(REQUEST, chat=True, system=system)
        with serving(Explorer(loaded), request) as server:
            page = Page(driver, server.url)
            assert page.text("model") == f"{loaded.name}, in a chat{after}"
            page.click("append")
            text = page.find("text").get_attribute("textContent")
            assert text.startswith(f"{PROMPT}\n")
            page.set(prompt="ab")
            assert page.text("error") == ""


def test_text_grows_by_the_drawn_tokens_and_shrinks_again(page, explorer):
    tokenizer, appended = explorer.loaded.tokenizer, []
    for step in range(4):
        logits = next_logits(explorer, PROMPT, appended)
        token = int(sample(logits, **SAMPLING, seed=7, step=step))
        assert drawn(page) == [token]
        appended.append(token)
        page.click("append")
        assert len(page.all("#text .token")) == step + 1
    whole = tokenizer.decode(tokenizer(PROMPT).input_ids + appended)
    pieces = explorer.view(REQUEST, tuple(appended)).pieces
    assert whole.startswith(PROMPT + "".join(pieces))
    shown = page.run(
        "return [...document.querySelectorAll('#text .token')].map((e) => e.textContent)"
    )
    shown = [text for text, piece in zip(shown[: len(pieces)], pieces, strict=True) if piece]
    assert shown == [piece for piece in pieces if piece]  # the others wait for their other half
    before = page.rows()
    page.click("append")
    page.click("undo")
    assert page.rows() == before
    for _ in range(6):  # more than there are
        page.click("undo")
    assert page.all("#text .token") == []


def test_quick_clicks_all_count(page):
    page.run("for (let i = 0; i < 5; i++) document.getElementById('append').click()")
    page.run("document.getElementById('undo').click()")
    page.wait()
    assert len(page.all("#text .token")) == 4


def test_appended_token_shows_its_alternatives(page):
    rows = page.rows()
    [token] = [row["cells"][TOKEN] for row in rows if row["kind"] == "drawn"]
    for _ in range(3):
        page.click("append")
    assert not page.find("alternatives").is_displayed()
    page.run("document.querySelector('#text .token').focus()")
    shown = [item.text.split("\n") for item in page.all("#alternatives li")]
    listed = [row for place, row in enumerate(rows) if place < 8 or row["kind"] == "drawn"]
    assert [item[0] for item in shown] == [row["cells"][TOKEN].strip() for row in listed]
    assert [item[1] for item in shown] == [row["cells"][PROBABILITY] for row in listed]
    assert [item[0] for item in shown if item[-1] == "drawn"] == [token]
    kinds = page.run(
        "return [...document.querySelectorAll('#alternatives li')].map((item) => item.className)"
    )
    assert kinds == [row["kind"].replace("kept", "") for row in listed]
    page.press(Keys.ESCAPE)
    assert not page.find("alternatives").is_displayed()
    page.all("#text .token")[1].click()
    page.click("back")
    assert len(page.all("#text .token")) == 1
    assert not page.find("alternatives").is_displayed()


def test_new_prompt_starts_anew(page, explorer):
    page.click("append")
    page.set(prompt="abc")
    assert page.all("#text .token") == []
    token = int(sample(next_logits(explorer, "abc"), **SAMPLING, seed=7))
    assert drawn(page) == [token]


def test_new_prompt_while_an_answer_is_on_its_way(page):
    page.click("append")
    page.run(
        """const real = window.fetch;
        const later = (...all) => new Promise((go) => setTimeout(go, 300)).then(() => real(...all));
        window.fetch = later;
        document.getElementById("append").click();"""
    )
    page.set(prompt="abc")
    assert page.all("#text .token") == []
    assert page.text("text").startswith("abc")


def test_half_characters_show_only_while_they_wait(driver, explorer):
    tokenizer = explorer.loaded.tokenizer
    ids = tokenizer("é\u6771!").input_ids
    halves = [f"<{piece}>" for piece in tokenizer.convert_ids_to_tokens(ids)]

    def answer(so_far):
        return torch.zeros(257).index_fill(0, torch.tensor(ids[so_far.shape[1] - len(PROMPT)]), 50)

    model = scripted_model(answer)
    with serving(Explorer(LoadedModel("scripted", model, tokenizer))) as server:
        page = Page(driver, server.url)
        for shown in (
            [],
            [halves[0]],
            ["", "é"],
            ["", "é", halves[2]],
            ["", "é", halves[2], halves[3]],
            ["", "é", "", "", "\u6771"],
        ):
            if shown:
                page.click("append")
            tokens = page.all("#text .token")
            assert [token.get_attribute("textContent") for token in tokens] == shown
            coming = "!" if len(shown) == 5 else halves[len(shown)]
            assert page.text("next") == coming
        assert 0 < tokens[2].rect["width"] < 8  # a mark
        tokens[2].click()
        assert page.all("#alternatives li.drawn .label")[0].text == halves[2]
        assert page.problems() == []


def test_long_prompt_leaves_the_table_in_reach(page):
    page.set(prompt="\n" * 46)
    page.click("append")
    height, top, end = page.run(
        "const e = document.getElementById('text');"
        "return [e.offsetHeight, e.scrollTop, e.scrollHeight - e.clientHeight]"
    )
    assert height <= 0.4 * 900 + 1
    assert 0 < end - 1 <= top  # the new token is seen


def test_line_breaks_and_markup_are_text(page):
    page.set(prompt="<b>a</b>\n  & c")
    assert page.run("return document.querySelector('#text span').textContent") == "<b>a</b>\n  & c"


# What goes wrong


@pytest.fixture
def troubled(driver, server):
    """A page of a test that brings about errors: a browser logs each refused request itself."""
    page = Page(driver, server.url)
    yield page
    assert [line for line in page.problems() if "Failed to load resource" not in line] == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", "-1", f"temperature is -1.0, out of range; {TEMPERATURE.remedy}."),
        ("top_k", "1.5", "top_k is '1.5', no whole number; use 0 to switch it off."),
        ("top_p", "-2", f"top_p is -2.0, out of range; {TOP_P.remedy}."),
        ("min_p", "x", "min_p is 'x', no number; use a number from 0 to 1; 0 switches it off."),
        ("seed", "", f"seed: '' is not a whole number from 0 to {2**63 - 1}."),
        ("prompt", "", "the prompt is empty; give some text to continue."),
    ],
)
def test_errors_show_and_go_away(troubled, name, value, words):
    good = troubled.find(name).get_attribute("value")
    rows = troubled.rows()
    troubled.set(**{name: value})
    assert troubled.find("error").get_attribute("role") == "alert"
    assert troubled.text("error") == words
    assert troubled.find(name).get_attribute("aria-invalid") == "true"
    assert "stale" in troubled.find("main").get_attribute("class")
    if name in SAMPLING and not re.match(r"[-\d]", value):
        assert float(troubled.find(f"{name}-slider").get_attribute("value")) == SAMPLING[name]
    troubled.set(**{name: good})
    assert not troubled.find("error").is_displayed()
    assert troubled.find(name).get_attribute("aria-invalid") == "false"
    assert "stale" not in troubled.find("main").get_attribute("class")
    assert troubled.rows() == rows


def test_text_that_is_full_can_be_taken_back(troubled):
    troubled.set(prompt="x" * 46)
    for _ in range(3):
        troubled.click("append")
    assert "46 tokens and 3 more are asked for" in troubled.text("error")
    troubled.click("append")  # does nothing
    troubled.click("undo")
    assert troubled.text("error") == ""
    assert len(troubled.all("#text .token")) == 1


def test_seed_that_is_wrong_is_not_counted_up(troubled):
    troubled.set(seed="x")
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == "x"
    assert troubled.text("error").startswith("seed: 'x' is not")


@pytest.mark.parametrize("seed", ["1_0", "\u0667"])
def test_seed_is_ascii_digits(troubled, seed):
    troubled.run(
        """const seed = document.getElementById("seed");
        seed.value = arguments[0];
        seed.dispatchEvent(new Event("input"))""",
        seed,
    )
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == seed
    assert troubled.text("error").startswith(f"seed: '{seed}' is not")


def test_draw_waits_until_the_other_fields_are_good(troubled):
    troubled.set(top_p="-2")
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == "7"
    assert troubled.text("error").startswith("top_p is -2.0, out of range")
    troubled.set(top_p="0.95")
    troubled.click("draw")
    assert troubled.find("seed").get_attribute("value") == "8"


def test_server_that_has_gone_is_told(troubled):
    troubled.offline(True)
    troubled.click("draw")
    assert troubled.text("error").startswith(
        "the server does not answer; run fused-sampler explore"
    )
    troubled.offline(False)
    troubled.click("draw")
    assert troubled.text("error") == ""
    assert troubled.find("seed").get_attribute("value") == "8"  # the draw that had no answer


# Who it is for


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
    unfolded += ["edits-name", *_with_sliders(EXPLORED), "logit_bias", *after]
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
    assert len(names) == 9 + len(OFFERED) + len(SWEPT) + 2 * len(EXPLORED) + rows
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


# A saved page


@pytest.fixture(scope="module")
def saved(explorer, tmp_path_factory, driver):
    path = tmp_path_factory.mktemp("saved") / "page.html"
    path.write_text(saved_page(explorer, REQUEST), encoding="utf-8")
    return path.as_uri()


def test_saved_page_needs_no_server(driver, saved, logits):
    page = Page(driver, saved)
    assert page.find("temperature").get_attribute("value") == "0.8"
    assert drawn(page) == [int(sample(logits, **SAMPLING, seed=7))]
    slider = page.find("temperature-slider")
    shown = []
    for key, temperature in ((Keys.ARROW_RIGHT, 1.0), (Keys.END, 5.0), (Keys.HOME, 0.0)):
        slider.send_keys(key)
        page.wait()
        assert page.find("temperature").get_attribute("value") == f"{temperature:g}"
        assert slider.get_attribute("aria-valuetext") == f"{temperature:g}"
        settings = {**SAMPLING, "temperature": temperature}
        assert drawn(page) == [int(sample(logits, **settings, seed=7))]
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
    assert _is_open(page) == ("top_a" in sampling)
    page.find("more-name").click()
    assert _is_open(page) != ("top_a" in sampling)
    assert page.problems() == []


def test_saved_page_says_what_it_holds(driver, saved):
    page = Page(driver, saved)
    note = page.text("saved-note")
    assert "22 temperatures" in note
    assert "Run fused-sampler explore" in note
    for name in ("draw", "count", "append", "undo"):
        assert not page.find(name).is_displayed()
    for record in (*SWEPT, *EXPLORED):
        assert page.find(f"{record.name}-slider").is_enabled() == (record is TEMPERATURE)
    assert not any(name.is_enabled() for name in page.all("#rows button"))
    rows = page.rows()
    page.set(prompt="abc", seed="8", top_k="1")  # read only
    page.press("a")
    assert page.rows() == rows
    assert page.find("prompt").get_attribute("value") == PROMPT
    assert page.problems() == []
