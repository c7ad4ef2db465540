"""Rows that sit on an edge: the last unit of mass, the end of a bracket, overflow."""

from __future__ import annotations

import math

import pytest
import torch
from common import DEVICE
from triton_cases import CASES, SMALL, assert_equals_reference, each_row, on_device, settled

from fused_sampler import sample
from fused_sampler.contract import reference
from fused_sampler.contract.reference import BlockTable
from fused_sampler.kernels.gpu import launch
from fused_sampler.params import resolve_rows

UNIT = 1.4426950408889634  # fp32(log2 e): at this temperature c is 1, and 2**-k the weight of -k


def mass_of(x):
    table = BlockTable(x[None], torch.ones(1))
    return int(table.scale(table.weights.sum(-1)).sum())


def of_mass(mass):
    """Logits from -6 down that add exactly this mass: powers of two, none rounded in its block."""
    x = torch.full((2, 64), -math.inf)
    for k in range(34):
        x[k // 17, k] = k - 40.0 if mass >> k & 1 else -math.inf
    return torch.cat([x.flatten(), torch.full((mass >> 34,), -6.0)])


@pytest.mark.parametrize("extra", [{}, {"top_k": 200}])
@pytest.mark.parametrize("sizes", [{"list": 512, "groups": 64}, {"list": 64, "groups": 16}])
def test_a_nucleus_to_the_last_unit_of_mass(sizes, extra, monkeypatch):
    """60 equal logits, and exactly half the mass down to them."""
    monkeypatch.setattr(launch, "SIZES", SMALL._replace(**sizes))
    head = torch.full((128,), -math.inf)
    head[0], head[64:124], head[124] = 0.0, -5.3719, -5.1137
    for spare in (-1, 0, 1):
        logits = torch.cat([head, of_mass(mass_of(head) + spare)])[None].to(DEVICE)
        if not extra:
            assert (settled(logits, temperature=UNIT, top_p=0.5)[3] > 62) == (spare > 0)
        assert_equals_reference(logits, temperature=UNIT, top_p=0.5, **extra)
        assert_equals_reference(logits.flip(1), temperature=UNIT, top_p=0.5, **extra)


def test_a_nucleus_to_the_last_unit_beside_surely_kept_logits(monkeypatch):
    """The next lower logit is listed too, so the search has to tell the two apart."""
    monkeypatch.setattr(launch, "SIZES", SMALL._replace(list=64, groups=64))
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        crowd = -5.37 - 0.25 * torch.rand(7, 64, generator=generator)
        crowd[:, :20] += 3
        last = crowd[:, 20:].flatten().sort(descending=True).values[200]
        crowd[crowd < last] = -math.inf
        best, below = torch.full((2, 64), -math.inf)
        best[0], below[0] = 0.0, last - 1e-6
        head = torch.cat([best, crowd.flatten()])
        mass = mass_of(head)
        rest = of_mass(2 * mass - mass_of(torch.cat([head, below])))
        logits = torch.cat([head, below, rest])[None].to(DEVICE)
        assert int(settled(logits, temperature=UNIT, top_p=0.5)[3]) == 342
        assert_equals_reference(logits, temperature=UNIT, top_p=0.5)


@pytest.mark.parametrize("groups", [16, 32])
def test_a_crowd_just_below_the_best_of_each_block(groups, monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL._replace(groups=groups))
    logits = torch.full((2, 2048), -1.0, device=DEVICE)
    logits[:, ::64] = 0.0
    assert_equals_reference(logits, **each_row([{"top_p": p} for p in (0.1, 0.2)]))


def test_a_crowd_of_hardly_any_mass():
    logits = torch.full((2, 17 * 64), -29.5, device=DEVICE)
    logits[:, ::64], logits[:, :64], logits[:, 0] = -29.4, -math.inf, 0.0
    cases = [{"temperature": UNIT, "top_p": 1 - k * 2**-24} for k in (10, 20)]
    assert_equals_reference(logits, **each_row(cases))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_threshold_at_the_end_of_its_bracket(dtype, monkeypatch):
    """Two neighbouring values share the row, and the nucleus is the larger one."""
    monkeypatch.setattr(launch, "SIZES", SMALL._replace(list=64, groups=32))
    logits = torch.full((1, 2000), 1.0 - torch.finfo(dtype).eps / 2, dtype=dtype, device=DEVICE)
    logits[:, ::2], logits[:, :64] = 1.0, -3.0
    assert_equals_reference(logits, top_p=0.3)
    assert_equals_reference(logits, top_k=500)


def test_min_p_after_each_other_filter(monkeypatch):
    """And kept counts of unfiltered rows in several splits, which `programs=64` makes."""
    monkeypatch.setattr(launch, "SIZES", SMALL._replace(programs=64))
    on = [{"top_k": k, "top_p": p, "min_p": 0.3} for k in (0, 10, 20, 400) for p in (1.0, 0.99)]
    assert_equals_reference(on_device("random", len(on), 1000), **each_row(on))
    assert_equals_reference(on_device("random", len(CASES), 1000), **each_row(CASES))


def test_negative_zero_ties_with_zero():
    logits = torch.tensor([[-1.0, -0.0, 0.0, -0.0]] * 2, device=DEVICE)
    assert_equals_reference(logits, **each_row([{"temperature": 0.0}, {"top_k": 1}]))


def test_groups_with_blocks_that_keep_nothing(monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL)
    logits = on_device("random", len(CASES), 4031)
    logits.unfold(1, 64, 128).sub_(8)
    assert_equals_reference(logits, **each_row(CASES))


def test_differences_that_overflow_at_a_temperature_as_large():
    """x - m overflows fp32 where x - m_b and m_b - m do not: such tokens have mass."""
    logits = torch.full((1, 640), -3e38, device=DEVICE)
    logits[:, ::64], logits[:, 0] = 0.0, 3e38
    for p in (0.1, 0.3, 0.9):
        assert_equals_reference(logits, temperature=3.4e38, top_p=p)


@pytest.mark.parametrize("before", [{}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.02}], ids=str)
@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_epsilon_at_the_edge_of_a_token(before, temperature, monkeypatch):
    """Just below its probability among what the earlier filters keep a token stays, and above not.

    Apart from rounding, which is the reference's too: 2e-6 is more than that.
    """
    monkeypatch.setattr(launch, "SIZES", SMALL)
    logits = on_device("random", 1, 1000) * 0.3  # every filter before leaves more than nine
    rows = resolve_rows(logits, temperature=temperature, **before)
    kept = reference.kept_set(logits, rows)
    p = (logits / temperature).double().masked_fill(~kept, -math.inf).softmax(-1)
    edges = p[0].sort(descending=True).values[[1, 4, 8]]
    cutoffs = [float(edge * factor) for edge in edges for factor in (1 - 2e-6, 1, 1 + 2e-6)]
    cases = [{"temperature": temperature, "epsilon_cutoff": e, **before} for e in cutoffs]
    logits = logits.expand(len(cases), -1)
    counts = settled(logits, **each_row(cases))[3].tolist()
    assert counts[::3] == [2, 5, 9] and counts[2::3] == [1, 4, 8]
    assert_equals_reference(logits, **each_row(cases))


@pytest.mark.parametrize("kind", ["random", "flat", "all equal", "tied", "forbidden", "invalid"])
def test_epsilon_beside_every_other_filter(kind, monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL)
    cutoffs = (0.0, 1e-9, 1 / 1000, 1.001 / 1000, 0.03, 1 - 2**-24)
    others = [*CASES[:7], {"top_k": 300, "top_p": 0.7}, {"top_p": 0.95, "min_p": 0.01}]
    cases = [{**other, "epsilon_cutoff": e} for other in others for e in cutoffs]
    assert_equals_reference(on_device(kind, len(cases), 1000), **each_row(cases))


def test_epsilon_of_numbers_and_of_half_precision(monkeypatch):
    """A number that is off is not compiled in; one that is on comes by value."""
    monkeypatch.setattr(launch, "SIZES", SMALL)
    logits = on_device("random", 2, 1000, torch.bfloat16)
    for case in ({"epsilon_cutoff": 0.004}, {"top_k": 20, "epsilon_cutoff": 0.04}, {"top_k": 20}):
        assert_equals_reference(logits, **case)


@pytest.mark.parametrize("vocab", [4096, 262_144])
def test_the_mass_that_epsilon_is_a_share_of_is_a_power_of_two(vocab):
    """So its logarithm is exact, and the cutoff the probability of each token: all stay."""
    logits = torch.zeros(3, vocab, device=DEVICE)
    cutoffs = torch.tensor([1 / vocab, 0.99999 / vocab, 1.00001 / vocab], device=DEVICE)
    assert settled(logits, epsilon_cutoff=cutoffs)[3].tolist() == [vocab] * 3
    logits[:, ::2] = -1e-5
    assert settled(logits, epsilon_cutoff=cutoffs)[3].tolist() == [vocab // 2, vocab, vocab // 2]


@pytest.mark.parametrize("word", [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1])
def test_seeds_and_steps_of_any_width(word):
    logits = on_device("random", 3, 200)
    for call in ({"seed": word, "step": 3}, {"seed": 3, "step": word}):
        call |= {"num_samples": 8, "xtc_probability": 0.5, "xtc_threshold": 0.01}
        ours = sample(logits, **call, backend="triton")
        assert torch.equal(ours, sample(logits, **call, backend="torch"))
