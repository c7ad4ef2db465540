"""The explorer's page draws what the library draws, and shows how."""

import pytest
from browser import Page
from explorer import DRAWS, REQUEST, SAMPLING, TOKEN, request_of, serving
from tiny_model import save_tiny_model

from fused_sampler import sample
from fused_sampler.explorer.text import Explorer
from fused_sampler.explorer.view import SAMPLES, TOP
from fused_sampler.models.load import load_model


@pytest.mark.parametrize("seed", [0, 1, 2, 2**63 - 1])
def test_drawn_token_is_that_of_sample(page, logits, seed):
    page.set(seed=seed)
    token = int(sample(logits, **SAMPLING, seed=seed))
    assert page.drawn() == [token]
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
        found += page.drawn()
    tokens = [int(sample(logits, **SAMPLING, seed=seed)) for seed in (8, 9, 10, 11)]
    assert found == tokens
    assert len(set(tokens)) > 1


def test_draw_at_the_last_seed_goes_on_with_the_first(page, logits):
    page.set(seed=2**63 - 1)
    page.click("draw")
    assert page.find("seed").get_attribute("value") == "0"
    assert page.drawn() == [int(sample(logits, **SAMPLING, seed=0))]


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
