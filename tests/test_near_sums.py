"""Near sums: within the error they admit to, and never the reason for another token."""

from __future__ import annotations

import pytest
import torch
from common import KINDS, assert_same, logits_of, real_logits, run

from fused_sampler import batch, blocks, fallback, narrow, reference
from fused_sampler.mass import LOG2_E, exp2_parts


def _sums(x, temperature):
    """True and near block sums of all rows."""
    maxima = blocks.block_maxima(x)
    c = torch.full((len(x),), LOG2_E / temperature)
    arguments = x, range(len(x)), maxima, c
    return blocks.block_sums(*arguments), blocks.near_sums(*arguments)


@pytest.mark.parametrize("temperature", [0.05, 0.8, 20.0])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "invalid"])
def test_near_sums_admit_their_error(kind, temperature):
    for vocab in (1, 63, 64, 1000, 5000):
        true, near = _sums(logits_of(kind, 3, vocab), temperature)
        assert ((near - true).abs() <= blocks.near_error(true)).all()


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
    assert ((z.exp2().double() - ours).abs() <= 5 * 2**-24 * ours).all()


@pytest.mark.parametrize("params", [{}, {"temperature": 1.7}, {"top_p": 0.9}, {"top_p": 0.999}])
@pytest.mark.parametrize("signs", ["+", "-", "+-", "-+", "random"])
@pytest.mark.parametrize("units", [17, 2**18])
def test_no_error_that_is_admitted_changes_a_token(units, signs, params, monkeypatch):
    def error(mass):
        return (mass >> 24) * units

    def wrong_sums(*arguments):
        true = blocks.block_sums(*arguments)
        half = torch.arange(true.shape[-1]) * 2 >= true.shape[-1]
        sign = {
            "+": 1,
            "-": -1,
            "+-": torch.where(half, -1, 1),
            "-+": torch.where(half, 1, -1),
            "random": torch.randint(-1, 2, true.shape),
        }[signs]
        return true + sign * (error(true) // 16 * 15)  # the rest is for products of errors

    monkeypatch.setattr(batch, "near_sums", wrong_sums)
    monkeypatch.setattr(fallback, "near_error", error)
    monkeypatch.setattr(narrow, "near_error", error)
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
    for module in (fallback, narrow):
        monkeypatch.setattr(module, "near_error", lambda mass: mass // 40)
    x = logits_of("random", 3, 2000)
    x[1] = torch.arange(2000) * -30.0  # one token has all the mass: nothing to be unsure of
    tokens = [run(backend, x, info=False, **params).tokens for backend in (fallback, reference)]
    assert torch.equal(*tokens)
    assert sorted(set(asked)) == [0, 2]
