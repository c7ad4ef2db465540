"""The draws ahead on the explorer's page: what the seed gives at the next steps."""

import pytest
from browser import Page
from explorer import PROMPT, REQUEST, SAMPLING, next_logits, request_of, serving
from selenium.webdriver.common.keys import Keys
from tiny_model import POSITIONS

from fused_sampler import sample
from fused_sampler.explorer.page import saved_page
from fused_sampler.explorer.view import AHEAD


def library(explorer, seed=7, prompt=PROMPT, **changed):
    """The ids that `sample` draws, one after the other."""
    ids = []
    for step in range(AHEAD):
        logits = next_logits(explorer, prompt, ids)
        ids.append(int(sample(logits, **{**SAMPLING, **changed}, seed=seed, step=step)))
    return ids


def labels(explorer, ids):
    """As the table spells them."""
    pieces = explorer.loaded.tokenizer.convert_ids_to_tokens(ids)
    texts = [explorer.loaded.tokenizer.decode([i]) for i in ids]
    return [f"<{p}>" if "\ufffd" in t else repr(t) for p, t in zip(pieces, texts, strict=True)]


def shown(page):
    return [card["label"] for card in page.cards()]


def test_cards_show_the_draws_of_the_next_steps(page, explorer):
    assert page.cards() == []
    page.click("look")
    assert page.find("look").get_attribute("aria-pressed") == "true"
    assert shown(page) == labels(explorer, library(explorer))
    for card, draw in zip(page.cards(), explorer.view(REQUEST, ahead=AHEAD).ahead, strict=True):
        assert card["told"] == f"{draw.end - draw.start:.4f}, {draw.kept} kept"
        assert card["title"] == f"Step {draw.step}, U = {draw.u:.4f}: append up to here"
        assert card["part"] == pytest.approx([100 * draw.start, 100 * draw.u], abs=1e-3)
    page.click("look")
    assert page.cards() == []


def test_cards_follow_seed_filters_and_text(page, explorer):
    page.press("l")
    page.press("d")
    assert shown(page) == labels(explorer, library(explorer, seed=8))
    page.drag("top_k", 4)
    assert shown(page) == labels(explorer, library(explorer, seed=8, top_k=4))
    page.set(prompt="abc")
    ids = library(explorer, seed=8, top_k=4, prompt="abc")
    assert shown(page) == labels(explorer, ids)
    page.click("append")
    assert shown(page)[:-1] == labels(explorer, ids[1:])
    page.set(temperature=0)
    assert "nothing left to chance" in page.cards()[0]["title"]
    assert not any(card["marked"] for card in page.cards())


def test_press_on_a_card_appends_up_to_it(page, explorer):
    page.click("look")
    ids = library(explorer)
    page.all(".card")[2].send_keys(Keys.ENTER)
    page.wait()
    tokens = [button.get_attribute("title") for button in page.all("#text .token")]
    assert tokens == [f"{name}: show its alternatives" for name in labels(explorer, ids[:3])]
    assert shown(page)[:2] == labels(explorer, ids[3:])


def test_input_does_not_wait_for_the_draws_ahead(page, explorer):
    page.run(  # each answer takes a while
        """const real = window.fetch;
        window.asked = [];
        window.fetch = async (url, options) => {
          window.asked.push(JSON.parse(options.body).appended.length);
          await new Promise((go) => setTimeout(go, 100));
          return real(url, options);
        };
        document.getElementById("look").click();
        setTimeout(() => document.getElementById("draw").click(), 250);"""
    )
    page.until("return document.getElementById('seed').value === '8'")
    page.wait()
    assert shown(page) == labels(explorer, library(explorer, seed=8))
    asked = page.run("return window.asked")
    assert asked[-AHEAD:] == [*range(AHEAD)]
    assert asked[:-AHEAD] in ([1, 2], [1, 2, 3])  # not all of the first seed's


def test_draws_ahead_are_of_one_seed(page, explorer):
    """An input may change while the next draw waits to be asked for."""
    page.run(
        """const real = window.fetch;
        window.asked = [];
        window.fetch = (url, options) => {
          window.asked.push(JSON.parse(options.body).appended.length);
          return real(url, options);
        };
        document.getElementById("look").click();
        const seed = document.getElementById("seed");
        seed.value = "8";
        seed.dispatchEvent(new Event("input"));"""
    )
    page.wait()
    assert shown(page) == labels(explorer, library(explorer, seed=8))
    assert page.run("return window.asked") == [*range(AHEAD)]


def test_text_that_ends_has_no_draws_after_it(driver, explorer):
    prompt = "x" * (POSITIONS - 2)
    with serving(explorer, request_of(prompt)) as server:
        page = Page(driver, server.url)
        page.click("look")
        *_, last = page.cards()
        assert len(page.cards()) == 2
        assert last["told"].endswith(" kept; the model holds no longer text")
        assert len(page.all(".card:enabled")) == 2
        told = page.run("return document.getElementById('ahead-told').textContent")
        assert told.endswith(" the model holds no longer text")
        assert page.problems() == []


def test_saved_page_holds_the_draws_ahead(driver, explorer, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(saved_page(explorer, REQUEST), encoding="utf-8")
    page = Page(driver, path.as_uri())
    assert shown(page) == labels(explorer, library(explorer))
    page.find("temperature-slider").send_keys(Keys.END)
    page.wait()
    assert shown(page) == labels(explorer, library(explorer, temperature=5.0))
    assert page.all(".card:enabled") == []
    assert page.resources() == page.problems() == []
