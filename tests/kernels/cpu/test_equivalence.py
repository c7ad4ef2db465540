"""The CPU kernels equal the textbook bit for bit, whatever the logits and parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from calls import calls
from common import KINDS, PARAMS, assert_same, logits_of, real_logits
from hypothesis import given, settings

from fused_sampler.contract import reference
from fused_sampler.params import resolve_rows

cpu = pytest.importorskip("fused_sampler.kernels.cpu.launch", reason="needs Numba")

SHAPES = [
    (3, 1),
    (2, 2),
    (3, 63),
    (2, 64),
    (3, 65),
    (8, 1000),
    (64, 130),
    (2, 32_000),
    (1, 128_256),
]


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_logits(kind, params):
    for batch, vocab in SHAPES[:-2]:
        assert_same(cpu, reference, logits_of(kind, batch, vocab), **params)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("batch, vocab", SHAPES[-2:])
def test_large_vocabularies(batch, vocab, params):
    for kind in ("random", "flat", "tied", "every other forbidden"):
        assert_same(cpu, reference, logits_of(kind, batch, vocab), **params)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_real_logits(params):
    assert_same(cpu, reference, real_logits()[::3], **params)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    for params in PARAMS.values():
        assert_same(cpu, reference, logits_of("random", 3, 5000).to(dtype), **params)


def test_every_parameter_per_row():
    x = logits_of("random", 12, 5000)
    assert_same(
        cpu,
        reference,
        x,
        temperature=torch.tensor([0, 1, 0.5, 1, 1, 1, 2, 1, 0, 1, 1, 1.3]),
        top_k=torch.tensor([0, 0, 7, 3, 0, 0, 5000, 900, 5, 0, 60, 1]),
        top_p=torch.tensor([1, 1, 0.9, 1, 0.5, 0.9, 1, 0.99, 0.1, 1, 0.8, 1]),
        min_p=torch.tensor([0, 0, 0.1, 0, 0, 0.2, 0, 0, 0, 0.3, 0, 0.5]),
        epsilon_cutoff=torch.tensor([0, 1e-3, 0, 0.1, 0, 1e-4, 0, 0, 0.2, 0, 0.01, 0.3]),
        seed=torch.arange(12) - 5,
    )


def test_layouts_of_memory():
    # A stale row beside each, a vocabulary cut out of a longer one, the last position of [B, S, V].
    wide = logits_of("random", 6, 4096)
    for x in (wide[::2], wide[:, 31:1031], wide.view(3, 2, 4096)[:, -1], wide.t()[:6, :6].t()):
        for params in PARAMS.values():
            assert_same(cpu, reference, x, **params)


def test_no_input_is_written():
    x = logits_of("forbidden", 4, 3000)
    before = x.clone()
    for params in PARAMS.values():
        assert_same(cpu, reference, x, **params)
    assert torch.equal(x, before)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999999])
@pytest.mark.parametrize("kind", KINDS)
def test_top_p_of_rows_that_are_sampled_for_a_bound(kind, top_p):
    for vocab in (4096, 8200):
        assert_same(cpu, reference, logits_of(kind, 2, vocab), top_p=top_p)


@pytest.mark.parametrize("temperature", [1e-4, 1e30, 1e38, 3e38])
@pytest.mark.parametrize("params", [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.5}, {"min_p": 1}])
def test_extreme_temperatures(temperature, params):
    for kind in ("random", "forbidden", "extreme", "tied"):
        for vocab in (2, 65, 200):
            x = logits_of(kind, 3, vocab)
            assert_same(cpu, reference, x, temperature=temperature, **params)
    tiny = torch.tensor([[0.0, -1e-45], [0.0, -1e-20]])
    assert_same(cpu, reference, tiny, temperature=temperature, **params)


@pytest.mark.parametrize("stride", [64, 640, 8 * 64, 1250 * 8, 2500 * 8])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_top_k_where_the_best_blocks_lie(stride, k):
    # Neighbours, all of one set of blocks, all in blocks that no set takes in.
    for start in (0, 20_000 - 64 * 3):
        x = logits_of("random", 2, 20_000)
        x[:, start::stride] += 30
        assert_same(cpu, reference, x, top_k=k, top_p=0.8)


def test_top_k_of_rows_far_apart_in_k():
    x = logits_of("tied", 6, 9000)
    assert_same(cpu, reference, x, top_k=torch.tensor([4, 5, 7, 140, 150, 8000]))


@pytest.mark.parametrize("temperature", [0.83, 0.01, 7.3])
@pytest.mark.parametrize("n", [3, 20])
def test_min_p_at_the_edge_of_a_token(n, temperature):
    x = logits_of("random", 200, 200)
    x -= x.amax(-1, keepdim=True)
    for logits in (x, x * 1e-3, x + 1000):
        rows = resolve_rows(logits, temperature=temperature, min_p=0.1)
        best = logits.topk(n + 1).values
        edge = (best[:, n] - best[:, 0]) * rows.c
        rows = replace(rows, filters={**rows.filters, "min_p": edge})
        masked = [backend.mask_logits(logits, rows) for backend in (cpu, reference)]
        assert torch.equal(*masked)


def test_a_filter_for_rows_in_the_middle():
    x = logits_of("random", 6, 5000)
    temperature = torch.tensor([1.0, 1, 0, 0, 1, 1])
    assert_same(cpu, reference, x, temperature=temperature, top_k=torch.tensor([0] * 4 + [5] * 2))
    assert_same(cpu, reference, x, temperature=temperature, top_k=torch.tensor([5] * 2 + [0] * 4))


def test_a_nucleus_that_ends_among_negligible_tokens():
    # Some 40 units of mass each: what rounding each one alone would lose moves the end by hundreds.
    x = -24 - torch.arange(20_000) * 1e-5
    x[0] = 0.0
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))].expand(2, -1)
    for dropped in (2e-7, 4e-7, 6e-7):
        assert_same(cpu, reference, x, top_p=1 - dropped)
        assert_same(cpu, reference, x, top_p=1 - dropped, top_k=19_000)


def test_a_bound_above_all_but_equal_tokens():
    x = torch.zeros(1, 128_256)
    x[0, 1] = -0.01
    assert_same(cpu, reference, x, top_p=0.999999)
    x = torch.full((1, 8200), -0.1)
    x[0, ::4] = 0.0
    assert_same(cpu, reference, x, top_p=0.9)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(calls())
def test_any_call(call):
    x, params = call
    assert_same(cpu, reference, x, **params)
