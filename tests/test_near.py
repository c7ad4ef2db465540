"""Near masses: within the error they admit to, and never the reason for another token."""

from __future__ import annotations

import itertools

import pytest
import torch
from common import KINDS, assert_same, logits_of, real_logits, run

from fused_sampler import batch, blocks, fallback, narrow, near, shortlist
from fused_sampler.contract import reference
from fused_sampler.contract.mass import BEST_MASS, BEST_WEIGHT, LOG2_E, exp2_parts
from fused_sampler.params import resolve_rows


def _sums(x, temperature):
    """True and near block sums of all rows, in units of each block's best token."""
    maxima = blocks.block_maxima(x)
    c = torch.full((len(x),), LOG2_E / temperature)
    arguments = x, range(len(x)), maxima, c
    return blocks.block_sums(*arguments).double() / BEST_WEIGHT, blocks.near_sums(*arguments)


def _group(x, temperature):
    return batch.Batch.of(x, resolve_rows(x, temperature))


VALID = [kind for kind in KINDS if kind != "invalid"]


@pytest.mark.parametrize("temperature", [0.05, 0.8, 20.0])
@pytest.mark.parametrize("kind", VALID)
def test_masses_are_within_their_error(kind, temperature):
    for vocab in (1, 63, 64, 1000, 5000):
        x = logits_of(kind, 3, vocab)
        true, near_ones = _sums(x, temperature)
        assert ((near_ones - true).abs() <= 17 * 2**-24 * true)[true > 0].all()

        group = _group(x, temperature)
        table = reference.BlockTable(x, group.rows.c)
        true = table.scale(table.weights.sum(-1)).cumsum(-1) / BEST_MASS
        error = near.ROW_ERROR * true + true.shape[-1] / BEST_MASS  # each is rounded down
        assert ((near.block_masses(group).cumsum(-1) - true).abs() <= error).all()

        true = table.scale(table.weights.cumsum(-1)).flatten(1) / BEST_MASS
        block_max = group.maxima.repeat_interleave(64, -1)
        tokens = near.token_masses(table.x.flatten(1), block_max, group.row_max, group.rows.c)
        inside = tokens.view_as(table.x).cumsum(-1).flatten(1)
        # A sum that holds a block's best token, as every kept set of a block does.
        best = table.weights.cummax(-1).values.flatten(1) == BEST_WEIGHT
        error = near.TOKEN_ERROR * true + 1 / BEST_MASS
        assert ((inside - true).abs() <= error)[best].all()


def test_rows_that_share_a_buffer_leave_nothing_behind(monkeypatch):
    x = logits_of("random", 5, 1000)  # its last block is short
    together = _sums(x, 0.8)
    monkeypatch.setattr(blocks, "CHUNK", 2000)  # two rows at a time
    for sums, expected in zip(_sums(x, 0.8), together, strict=True):
        assert torch.equal(sums, expected)


def test_exp2_is_as_near_as_the_error_assumes():
    # Every 61st of the fp32 numbers from -49 to -2**-26.
    ends = torch.tensor([2.0**-26, 49.0]).view(torch.int32).tolist()
    z = -torch.arange(*ends, 61, dtype=torch.int32).view(torch.float32)
    mantissa, exponent = exp2_parts(z)
    ours = torch.ldexp(mantissa.double(), exponent.double() - 24)
    assert ((z.exp2().double() - ours).abs() <= 6 * 2**-24 * ours).all()


@pytest.mark.parametrize(
    "params", [{}, {"top_p": 0.9}, {"top_p": 0.999}, {"top_k": 40, "top_p": 0.9}]
)
@pytest.mark.parametrize("signs", ["+", "-", "+-", "-+", "random"])
@pytest.mark.parametrize("error", [2.0**-20, 2.0**-6])
def test_no_error_that_is_admitted_changes_a_token(error, signs, params, monkeypatch):
    def wrong(function):
        def masses(*arguments):
            true = function(*arguments)
            half = torch.arange(true.shape[-1]) * 2 >= true.shape[-1]
            sign = {
                "+": 1,
                "-": -1,
                "+-": torch.where(half, -1, 1),
                "-+": torch.where(half, 1, -1),
                "random": torch.randint(-1, 2, true.shape),
            }[signs]
            return true * (1 + sign * error * 0.9)  # the rest is for products of errors

        return masses

    patches = {name: wrong(getattr(near, name)) for name in ("block_masses", "token_masses")}
    patches |= {"ROW_ERROR": error, "TOKEN_ERROR": error}
    for module, (name, patch) in itertools.product((near, narrow, shortlist), patches.items()):
        monkeypatch.setattr(module, name, patch, raising=False)
    torch.manual_seed(0)
    for kind in ("random", "flat", "tied", "forbidden"):
        x = logits_of(kind, *((6, 5000) if "top_p" in params else (1000, 200)))
        assert_same(fallback, reference, x, num_samples=1, **params)
    assert_same(fallback, reference, real_logits()[::4], num_samples=4, **params)


@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}])
def test_true_sums_where_near_ones_do_not_tell(params, monkeypatch):
    asked = []
    true_sums = batch.block_sums

    def block_sums(logits, rows, *arguments):
        asked.extend(rows)
        return true_sums(logits, rows, *arguments)

    monkeypatch.setattr(batch, "block_sums", block_sums)
    for module in (near, shortlist):
        monkeypatch.setattr(module, "ROW_ERROR", 1 / 40)
    x = logits_of("random", 3, 2000)
    x[1] = torch.arange(2000) * -30.0  # one token has all the mass: nothing to be unsure of
    tokens = [run(backend, x, info=False, **params).tokens for backend in (fallback, reference)]
    assert torch.equal(*tokens)
    assert sorted(set(asked)) == [0, 2]
