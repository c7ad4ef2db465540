"""One row alone: its own way to a token gives the token of the batch's way."""

from __future__ import annotations

import pytest
import torch
from common import KINDS, logits_of, real_logits, run

from fused_sampler import fallback, single
from fused_sampler.batch import Batch
from fused_sampler.contract import draws as draws_module
from fused_sampler.contract import reference
from fused_sampler.contract.draws import resolve_draws
from fused_sampler.params import resolve_rows

PARAMS = {
    "temperature": {"temperature": 0.8},
    "hot": {"temperature": 40.0},
    "top-k 1": {"top_k": 1},
    "top-k": {"top_k": 50, "temperature": 1.3},
    "top-k and top-p": {"top_k": 30, "top_p": 0.9},
    "top-k and a small top-p": {"top_k": 30, "top_p": 1e-9},
    "top-k and min-p": {"top_k": 30, "min_p": 0.05},
    "top-k and min-p 1": {"top_k": 5, "min_p": 1.0, "temperature": 1e30},
    "min-p": {"min_p": 0.1, "temperature": 0.9},
    "top-k, top-p and min-p": {"top_k": 60, "top_p": 0.8, "min_p": 0.02, "temperature": 2.0},
}


def _rows(kind, vocab):
    return real_logits() if kind == "real" else logits_of(kind, 12, vocab)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("kind", [*KINDS, "real"])
def test_the_token_of_a_row_alone(kind, params):
    for vocab in (100, 1920, 4100):  # 1920 = 30 * 64: as many blocks as the best that are asked for
        x = _rows(kind, vocab)
        for seed in (1, 2):
            expected = run(reference, x, torch.full((len(x),), seed), 1, False, **params).tokens
            for row, token in zip(x, expected, strict=True):
                alone = run(fallback, row[None], torch.tensor([seed]), 1, False, **params).tokens
                assert torch.equal(alone[0], token)


def _draw(x, **params):
    draws = resolve_draws(7, 0, 1, None, 1, x.device)
    return single.draw(Batch.of(x, resolve_rows(x, **params)), draws)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_the_way_is_taken(params):
    assert _draw(logits_of("random", 1, 9000), **params) is not None
    assert _draw(real_logits()[:1].float(), **params) is not None


@pytest.mark.parametrize(
    "params", [{"temperature": 0.0}, {"top_p": 0.4}, {"min_p": 1e-9}, {"top_k": 1000}]
)
def test_what_is_left_to_the_way_of_batches(params):
    assert _draw(logits_of("random", 1, 9000), **params) is None


def test_ties_and_invalid_rows_are_left_to_the_way_of_batches():
    x = logits_of("random", 1, 9000)
    for place in (3, 8000):
        tied = x.clone()
        tied[0, [5, place]] = 20.0
        assert _draw(tied, top_k=1) is None
        assert _draw(tied, top_k=3, top_p=0.1) is None
    for bad in (torch.nan, torch.inf):
        invalid = x.clone()
        invalid[0, 17] = bad
        assert _draw(invalid) is None
        assert _draw(invalid, top_k=5) is None


def test_differences_beyond_fp32_at_a_temperature_as_large():
    x = torch.full((1, 9000), -3.4e38)
    x[0, [7, 150]] = torch.tensor([3e38, -3.3e38])
    for params in ({"top_k": 2}, {"top_k": 2, "top_p": 0.99}, {"min_p": 0.121}):
        for seed in range(30):
            tokens = [
                run(backend, x, seed, 1, False, temperature=3e38, **params).tokens
                for backend in (fallback, reference)
            ]
            assert torch.equal(*tokens)


def _place_numbers(monkeypatch):
    """Makes `U` the seed."""
    halves = lambda seed, *_: ((seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF)  # noqa: E731
    monkeypatch.setattr(draws_module, "random_bits", halves)
    monkeypatch.setattr(single, "random_bits", halves)


@pytest.mark.parametrize("params", [{}, {"top_k": 10}, {"top_k": 10, "top_p": 0.8}, {"min_p": 0.3}])
def test_numbers_at_the_edge_of_a_token(params, monkeypatch):
    _place_numbers(monkeypatch)
    for row in logits_of("random", 20, 700 if not params else 9000):
        x = row[None]
        rows = resolve_rows(x, **params)
        table = reference.BlockTable(x, rows.c)
        upto = reference.cumulative_mass(table, reference.kept_set(x, rows))[0]
        edges = upto[63::64] if not params else upto.unique()
        numbers = {2**64 - 1}
        for edge in edges.tolist():
            first = -(-edge * 2**64 // int(upto[-1]))  # the least U whose r is not below the edge
            numbers |= {number for number in (first - 1, first) if 0 <= number < 2**64}
        for number in numbers:
            seed = torch.tensor([number - 2**64 if number >= 2**63 else number])
            one, other = (run(b, x, seed, 1, False, **params).tokens for b in (fallback, reference))
            assert torch.equal(one, other)


def test_min_p_at_the_edge_of_a_token():
    for row in logits_of("random", 40, 9000):
        x = row[None]
        rows = resolve_rows(x, temperature=0.83, top_k=50, min_p=0.1)
        best = row.topk(30).values
        edge = ((best - best[0]) * rows.c)[20:21].clone()
        batch = Batch.of(x, rows._replace(min_p_log2=edge))
        for seed in range(3):
            draws = resolve_draws(seed, 0, 1, None, 1, x.device)
            alone = single.draw(batch, draws)
            assert alone is None or alone == reference.sample(x, batch.rows, draws, False).tokens


def test_a_tiny_temperature_takes_the_first_of_equals():
    x = torch.zeros(1, 9000)
    x[0, [6000, 40]] = 9.0
    assert _draw(x, temperature=1e-6, top_k=3) is None
    assert int(run(fallback, x, 1, 1, False, temperature=1e-6, top_k=3).tokens) == 40


@pytest.mark.parametrize(
    "params", [{}, {"top_k": 40}, {"top_k": 12, "top_p": 0.9}, {"min_p": 0.05}]
)
def test_no_error_that_is_admitted_changes_the_token(params, monkeypatch):
    monkeypatch.setattr(single, "_FLOAT_ERROR", 2e-3)
    monkeypatch.setattr(single, "ROW_ERROR", 2e-3)
    x = logits_of("random", 1500, 9000 if params else 1000)
    tokens = run(reference, x, torch.arange(1500), 1, False, **params).tokens
    left = 0
    for row, (logits, token) in enumerate(zip(x, tokens, strict=True)):
        draws = resolve_draws(torch.tensor([row]), 3, 1, None, 1, x.device)
        rows = resolve_rows(logits[None], **params)
        # No z lies below -25, of the 12 best below -6, so that no mass is wrong by 2e-3.
        wrong = 1 + (4e-4 if "top_p" in params else 1e-4) * (-1) ** row
        batch = Batch.of(logits[None], rows._replace(c=rows.c * wrong))
        alone = single.draw(batch, draws)
        assert alone is None or torch.equal(alone[0], token)
        left += alone is None
    assert 0 < left < 900


@pytest.mark.parametrize(
    "top_p, kept", [(0.8, 2), (6 / 7 - 4e-6, None), (6 / 7, None), (6 / 7 + 4e-6, None), (0.9, 3)]
)
def test_top_p_at_the_edge_of_a_token_is_not_sure(top_p, kept):
    masses = [0.0, -1.0, -2.0]  # powers of two: 1, 1/2, 1/4
    assert single._count_kept(masses, resolve_rows(torch.zeros(1, 4), top_p=top_p)) == kept
