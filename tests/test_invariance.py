"""What must not change a token: batch, row order, layout, padding, dtype, how often one asks."""

from __future__ import annotations

import pytest
import torch
from common import logits_of, real_logits

from fused_sampler import mask_logits, sample

PARAMS = [
    {},
    {"top_k": 20},
    {"top_p": 0.9},
    {"min_p": 0.05},
    {"temperature": 1.4, "top_k": 30, "top_p": 0.8, "min_p": 0.01},
]
pytestmark = pytest.mark.parametrize("params", PARAMS, ids=str)


def test_batch_and_row_order(params):
    x = real_logits()[:8]
    seeds = torch.arange(8) * 7919
    together = sample(x, seed=seeds, **params)
    alone = torch.stack(
        [sample(row, seed=int(s), **params) for row, s in zip(x, seeds, strict=True)]
    )
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    assert torch.equal(together, alone)
    assert torch.equal(sample(x[order], seed=seeds[order], **params), together[order])


def test_neighbours(params):
    x = logits_of("random", 5, 3000)
    seeds = torch.arange(5)
    tokens = sample(x, seed=seeds, **params)
    neighbours = logits_of("tied", 5, 3000, seed=9)
    neighbours[2] = x[2]
    mixed = sample(neighbours, seed=seeds, temperature=torch.tensor([0.0, 0, 1, 2, 0]), top_k=9)
    assert sample(neighbours, seed=seeds, **params)[2] == tokens[2]
    assert mixed[2] == sample(x, seed=seeds, top_k=9)[2]


def test_strided_rows(params):
    x = logits_of("random", 4, 6000)
    strided = x.view(2, 2, 6000)[:, -1]
    assert torch.equal(sample(strided, seed=1, **params), sample(strided.clone(), seed=1, **params))
    column = x.t().contiguous().t()  # vocabulary stride 4
    assert torch.equal(sample(column, seed=1, **params), sample(x, seed=1, **params))


@pytest.mark.parametrize("vocab, more", [(1000, 777), (1000, 9), (5000, 20_000)])
def test_padded_vocabulary(params, vocab, more):
    x = logits_of("random", 4, vocab)
    padded = torch.nn.functional.pad(x, (0, more), value=-torch.inf)
    assert torch.equal(sample(padded, seed=1, **params), sample(x, seed=1, **params))
    assert torch.equal(mask_logits(padded, **params)[:, :vocab], mask_logits(x, **params))


@pytest.mark.parametrize("number", [4, 40])
def test_many_samples_are_as_many_calls(params, number):
    x = logits_of("random", 3, 1000)
    many = sample(x, seed=5, num_samples=number, **params)
    assert many.shape == (3, number)
    assert torch.equal(many[:, :1], sample(x, seed=5, num_samples=1, **params)[:, None])
    assert torch.equal(many[:, :3], sample(x, seed=5, num_samples=3, **params))
    assert len({tuple(column) for column in many.T.tolist()}) > 1


def test_bf16_equals_its_values_in_fp32(params):
    x = logits_of("random", 6, 5000).bfloat16()
    assert torch.equal(sample(x, seed=3, **params), sample(x.float(), seed=3, **params))
    assert torch.equal(mask_logits(x, **params), mask_logits(x.float(), **params))


def test_threads(params):
    x = logits_of("random", 5, 70_000)
    threads = torch.get_num_threads()
    tokens = sample(x, seed=3, **params)
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(sample(x, seed=3, **params), tokens)
    finally:
        torch.set_num_threads(threads)


def test_step_and_seed_change_the_draw(params):
    x = logits_of("flat", 1, 1000)
    params = {name: value for name, value in params.items() if name not in ("top_k", "min_p")}
    by_step = {int(sample(x, seed=1, step=step, **params)) for step in range(20)}
    by_seed = {int(sample(x, seed=seed, **params)) for seed in range(20)}
    assert len(by_step) > 15 and len(by_seed) > 15
    steps = torch.tensor([4, 9])
    together = sample(x.expand(2, -1), seed=torch.tensor([1, 1]), step=steps, **params)
    assert together.tolist() == [int(sample(x, seed=1, step=int(step), **params)) for step in steps]
