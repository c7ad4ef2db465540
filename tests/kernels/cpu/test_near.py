"""Near masses decide no draw that the contract's integers would decide otherwise."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from common import logits_of, real_logits

from fused_sampler import sample
from fused_sampler.contract import spread as exact
from fused_sampler.contract.mass import EXP2_COEFFICIENTS
from fused_sampler.contract.philox import multiply_high, random_bits
from fused_sampler.contract.reference import BlockTable
from fused_sampler.params import resolve_rows

launch = pytest.importorskip("fused_sampler.kernels.cpu.launch", reason="needs Numba")
near = sys.modules["fused_sampler.kernels.cpu.near"]
arithmetic = sys.modules["fused_sampler.kernels.cpu.arithmetic"]
compiling = sys.modules["fused_sampler.kernels.cpu.compiling"]
memory = sys.modules["fused_sampler.kernels.cpu.memory"]
space = sys.modules["fused_sampler.kernels.cpu.space"]
spread = sys.modules["fused_sampler.kernels.cpu.spread"]
summarize = sys.modules["fused_sampler.kernels.cpu.summarize"].summarize

STEPS = 60_000
TEMPERATURES = [0.01, 0.3, 1.0, 1.9, 40.0]


def many_equal(vocab, every=640, light=-9.0, seed=0):
    """Thousands of tokens of almost equal mass, in one block of ten."""
    x = torch.full((1, vocab), light)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, vocab - 64, every):
        x[0, start : start + 64] = 1e-3 * torch.randn(64, generator=generator)
    return x


def cut_short(vocab):
    """A row whose memory goes on with tokens that would win."""
    x = many_equal(vocab + 64)
    x[0, vocab:] = 9.0
    return x[:, :vocab]


ROWS = {
    "random": logits_of("random", 1, 50_000),
    "bf16": logits_of("random", 1, 50_000, seed=1).bfloat16(),
    "real, fp16": real_logits()[:1],
    "many equal": many_equal(40_000),
    "many equal, wide": many_equal(2**18),
    "a short block": cut_short(12_837),
    "a block of one": cut_short(6401),
    "few blocks": many_equal(2**16, every=2**14, light=-20.0),
    "light tail": torch.cat([torch.zeros(1, 1), torch.full((1, 2**18), -26.0)], dim=1),
    "masses of 2**-40": torch.cat([torch.zeros(1, 7), torch.full((1, 2**17), -27.72)], dim=1),
    "far from zero": logits_of("random", 1, 9000) + 30_000,
    "masked by a number": logits_of("masked by a number", 1, 9000),
    "forbidden": logits_of("forbidden", 1, 9000),
}


@compiling.device
def lay_out(kind, address, vocab, c, scratch):
    """A row as the compiled entry sees it, its blocks summarized."""
    num_blocks = (vocab + arithmetic.BLOCK - 1) // arithmetic.BLOCK
    lines = space.divide_space(scratch, num_blocks, 1)
    words = memory.pointer(address, kind)
    best = summarize(words, vocab, c, lines.maxima, lines.sums, False)
    maximum = arithmetic.value_of(best)
    return space.Row(words, vocab, num_blocks, maximum, c, 0), lines  # no filters are read


@compiling.device
def near_masses(kind, address, vocab, c, scratch):
    row, lines = lay_out(kind, address, vocab, c, scratch)
    return near.near_sums(row, lines)


@compiling.device
def near_draws(kind, address, vocab, c, scratch, bits, tokens):
    row, lines = lay_out(kind, address, vocab, c, scratch)
    mass = near.near_sums(row, lines)
    for i in range(len(bits)):
        tokens[i] = near.draw_near(row, lines, mass, bits[i])


@compiling.device
def near_variance(kind, address, vocab, c, scratch):
    row, _ = lay_out(kind, address, vocab, c, scratch)
    return spread.near_variance(row)


class Masses:
    """The masses of a row [1, V]: the contract's and, of groups of blocks, the near ones."""

    def __init__(self, x, temperature=None):
        c = resolve_rows(x, temperature=temperature).c
        self.x, self.table = x, BlockTable(x, c)
        self.upto = self.table.cumulative_mass(self.table.x > -torch.inf)[0]  # int64 [N * 64]
        self.total = int(self.upto[-1])
        blocks = -(-x.shape[1] // 64)
        self.groups = -(-blocks // near.GROUP)
        self.near_at = 24 * blocks // 8
        self.scratch = np.zeros(44 * blocks + 64, dtype=np.uint8)
        kind = launch._KINDS[x.dtype]
        self.row = kind, x.data_ptr(), x.shape[1], np.float32(c[0]), self.scratch.ctypes.data

    def near_prefixes(self):
        """Near masses of the groups up to each, as shares of the row's."""
        mass = near_masses(*self.row)
        lines = self.scratch[: len(self.scratch) // 8 * 8].view(np.float64)
        return lines[self.near_at : self.near_at + self.groups].cumsum() / mass

    def prefixes(self):
        """The same of the contract."""
        ends = (torch.arange(1, self.groups + 1) * 64 * near.GROUP).clamp(max=len(self.upto)) - 1
        return self.upto[ends].double().numpy() / self.total

    def draw(self, bits):
        """Tokens by near masses for the random bits, Python integers; UNSURE among them."""
        tokens = np.empty(len(bits), dtype=np.int64)
        near_draws(*self.row, np.array(bits, dtype=np.uint64), tokens)
        return tokens

    def bits_beside_edges(self, distance, number=300):
        """Random bits whose `r` lies that share of the mass beside the end of a token."""
        ends = self.upto.unique()
        picked = ends[torch.linspace(0, len(ends) - 1, number).long()].tolist()
        places = [end + side * int(distance * self.total) for end in picked for side in (-1, 0, 1)]
        return [-(-r * 2**64 // self.total) for r in places if 0 <= r < self.total]

    def tokens(self, bits):
        """The contract's."""
        r = torch.tensor([u * self.total >> 64 for u in bits])
        return torch.searchsorted(self.upto, r, right=True).numpy()


def worst_for_the_polynomial(vocab=2**16):
    """Half of the mass are ones, half another value: all of a half err to the same side."""
    for z in np.linspace(-6, -0.1, 60):
        x = torch.full((1, vocab), float(z * np.log(2)))
        x[0, : int(vocab * 2**z / (1 + 2**z))] = 0.0
        yield x


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_the_error_is_within_its_bound(x, temperature):
    masses = Masses(x, temperature)
    assert np.abs(masses.near_prefixes() - masses.prefixes()).max() < near.ERROR


def test_the_error_is_within_its_bound_at_its_worst():
    rows = [*worst_for_the_polynomial(), torch.full((1, 2**20), -26.9)]
    rows[-1][0, 0] = 0.0
    for x in rows:
        masses = Masses(x)
        assert np.abs(masses.near_prefixes() - masses.prefixes()).max() < near.ERROR


def test_the_error_is_within_its_bound_in_the_largest_vocabulary():
    for light in (-15.0, -27.7, -30.0):
        x = torch.full((1, 2**22), light)
        x[0, : 2**21 : 4096] = torch.linspace(-3, 0, 512)
        masses = Masses(x)
        assert np.abs(masses.near_prefixes() - masses.prefixes()).max() < near.ERROR


@pytest.mark.parametrize("distance", [0, 1e-9, 1e-6, 1e-5, 3e-5, 7e-5, 9e-5, 1.5e-4, 1e-3])
def test_random_bits_at_and_beside_the_edges_of_tokens(distance):
    for x in ROWS.values():
        for temperature in (0.3, 1.0, 1.9):
            masses = Masses(x, temperature)
            bits = masses.bits_beside_edges(distance)
            drawn = masses.draw(bits)
            sure = drawn != near.UNSURE
            assert (drawn[sure] == masses.tokens(bits)[sure]).all()
            if distance < 3e-5:  # r may lie on the other side
                assert not sure.any()


def test_most_draws_are_sure():
    masses = Masses(ROWS["real, fp16"])
    bits = [(2 * i + 1) * 2**53 for i in range(1024)]
    assert (masses.draw(bits) != near.UNSURE).mean() > 0.7


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.9])
@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_draws_next_to_an_edge_between_tokens(x, temperature):
    """Of all steps, those whose number lies closest to where one token ends and the next begins."""
    upto = Masses(x, temperature).upto
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


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4])
def test_few_draws_equal_many(num_samples):
    """Four draws a row are tried with near masses, five take the exact ones."""
    for x in ROWS.values():
        rows = x.expand(40, -1)
        few, many = (sample(rows, seed=9, num_samples=n, backend="cpu") for n in (num_samples, 5))
        assert torch.equal(few.view(40, -1), many[:, :num_samples])


@pytest.mark.parametrize("temperature", [3e38, 1e36, 1e34])
def test_differences_beyond_fp32(temperature):
    # From the row's best -1e38 is infinitely far in fp32, from its block's and that from the best
    # it is not: at such a temperature it has a quarter of the best one's mass.
    x = torch.full((1, 6400), -3e38)
    x[0, :2560] = -1e38
    x[0, :2560:64] = 1e38
    x[0, 0] = 3e38
    rows = x.expand(50, -1)
    drawn = [sample(rows, temperature, seed=1, backend=name) for name in ("cpu", "torch")]
    assert torch.equal(*drawn)


def test_the_polynomial_is_within_what_the_error_takes_it_for():
    f = np.linspace(-0.5, 0.5, 200_001)
    coefficients = [near._D4, near._D3, near._D2, near._D1, near._D0]
    error = np.abs(np.polyval(np.array(coefficients, dtype=np.float64), f) / 2**f - 1).max()
    exact = np.abs(np.polyval(EXP2_COEFFICIENTS[::-1], f) / 2**f - 1).max()
    assert error < 3.9e-6 and exact < 2e-7


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-4, 1e4, 1e9])
@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_the_variance_is_within_its_bound(x, scale):
    for far in (None, -1e2, -1e4, 1e3):  # a logit that widens the units of its block, and the row's
        row = x.float() * scale
        if far is not None:
            row[0, 77] = far * scale
        masses = Masses(row)
        value, error = near_variance(*masses.row)
        variance = float(
            exact.variance(masses.table.blocks(masses.table.x), masses.table.block_max)
        )
        assert abs(value - variance) <= error * variance
    if scale == 1.0 and x.std() < 100:
        assert error < 1e-5  # sure enough to be of use
