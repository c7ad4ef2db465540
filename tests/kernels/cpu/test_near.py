"""Near masses decide no draw that the contract's integers would decide otherwise."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from common import logits_of, real_logits

from fused_sampler import sample
from fused_sampler.contract.mass import EXP2_COEFFICIENTS
from fused_sampler.contract.philox import multiply_high, random_bits
from fused_sampler.contract.reference import BlockTable
from fused_sampler.params import resolve_rows

pytest.importorskip("fused_sampler.kernels.cpu.launch", reason="needs Numba")
near = sys.modules["fused_sampler.kernels.cpu.near"]

STEPS = 60_000


def many_equal(vocab):
    """Thousands of tokens of almost equal mass in a tenth of the blocks."""
    x = torch.full((1, vocab), -9.0)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, vocab - 64, 640):
        x[0, start : start + 64] = 1e-3 * torch.randn(64, generator=generator)
    return x


ROWS = {
    "random": logits_of("random", 1, 50_000),
    "real": real_logits()[:1].float(),
    "many equal": many_equal(40_000),
    "a short block": many_equal(12_837),
    "light tail": torch.cat([torch.zeros(1, 1), torch.full((1, 2**18), -26.0)], dim=1),
    "masked by a number": logits_of("masked by a number", 1, 9000),
    "forbidden": logits_of("forbidden", 1, 9000),
}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.9])
@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_draws_next_to_an_edge_between_tokens(x, temperature):
    """Of all steps, those whose number lies closest to where one token ends and the next begins."""
    table = BlockTable(x, resolve_rows(x, temperature=temperature).c)
    upto = table.cumulative_mass(table.x > -torch.inf)[0]
    steps = torch.arange(STEPS)
    r = multiply_high(*random_bits(torch.tensor(5), steps, torch.tensor(0), 0), upto[-1])
    token = torch.searchsorted(upto, r, right=True)
    before = torch.where(token > 0, upto[(token - 1).clamp(min=0)], 0)
    distance = torch.minimum(r - before, upto[token] - r)
    closest = distance.argsort()[:200]
    drawn = sample(
        x.expand(len(closest), -1),
        temperature,
        seed=torch.full((len(closest),), 5),
        step=steps[closest],
        backend="cpu",
    )
    assert torch.equal(drawn, token[closest])
    some = torch.arange(0, STEPS, 300)
    seeds = torch.full((len(some),), 5)
    drawn = sample(x.expand(len(some), -1), temperature, seed=seeds, step=some, backend="cpu")
    assert torch.equal(drawn, token[some])


def test_few_draws_equal_many():
    """Four draws a row are tried with near masses, five take the exact ones."""
    for x in ROWS.values():
        few, many = (sample(x, seed=9, num_samples=n, backend="cpu") for n in (4, 5))
        assert torch.equal(few, many[:, :4])


def test_the_polynomial_is_within_what_the_error_takes_it_for():
    f = np.linspace(-0.5, 0.5, 200_001)
    coefficients = [near._D4, near._D3, near._D2, near._D1, near._D0]
    error = np.abs(np.polyval(np.array(coefficients, dtype=np.float64), f) / 2**f - 1).max()
    exact = np.abs(np.polyval(EXP2_COEFFICIENTS[::-1], f) / 2**f - 1).max()
    assert error < 3.9e-6 and exact < 2e-7
