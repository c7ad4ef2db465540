"""The text on the explorer's page: it grows by the drawn tokens, and shrinks again."""

from dataclasses import replace

import torch
from browser import Page
from explorer import PROBABILITY, PROMPT, REQUEST, SAMPLING, TOKEN, next_logits, serving
from scripted import scripted_model
from selenium.webdriver.common.keys import Keys
from tiny_model import save_tiny_model

from fused_sampler import sample
from fused_sampler.explorer.text import Explorer
from fused_sampler.models.load import LoadedModel, load_model


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
        assert page.drawn() == [token]
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
    assert page.drawn() == [token]


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
