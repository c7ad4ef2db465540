"""Draws without replacement: the same on every backend, and what the contract's section 5 says."""

from __future__ import annotations

import math

import pytest
import torch
from common import DEVICE, KINDS, PARAMS, logits_of
from scipy.stats import chi2
from triton_cases import INTERPRETED, SMALL, each_row

from fused_sampler import FusedSampler, replay, sample
from fused_sampler.contract import reference
from fused_sampler.contract.draws import resolve_draws
from fused_sampler.contract.mass import BLOCK, scale_sums
from fused_sampler.contract.philox import random_bits
from fused_sampler.kernels.gpu import launch
from fused_sampler.params import resolve_rows

CASES = list(PARAMS.values())
SIX = torch.tensor([[1.0, 3.0, 3.0, -torch.inf, 0.5, 2.0]])


def told(logits, backend, num_samples, **params):
    """All that a call tells, of rows that may run out of tokens."""
    return sample(
        logits,
        backend=backend,
        num_samples=num_samples,
        replacement=False,
        return_info=True,
        validate=False,
        **{"seed": 3, "step": 2, **params},
    )


def assert_equals_textbook(logits, backend, num_samples, **params):
    ours = told(logits, backend, num_samples, **params)
    theirs = told(logits, "torch", num_samples, **params)
    for name, one, other in zip(ours._fields[:4], ours[:4], theirs[:4], strict=True):
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name
    alone = sample(
        *(logits,),
        **{"seed": 3, "step": 2, **params},
        backend=backend,
        num_samples=num_samples,
        replacement=False,
        validate=False,
    )
    assert torch.equal(alone, ours.tokens)
    return ours


def one_by_one(logits, num_samples, seed, step, **params):
    """Tokens [B, num_samples] by Python's integers: a walk through the ids that are left.

    Weights and scales are the table's, and the kept set the textbook's; the rest is written anew.
    """
    rows = resolve_rows(logits, **params)
    draws = resolve_draws(seed, step, 1, None, len(logits), logits.device)
    kept = reference.kept_set(logits, rows, draws)
    table = reference.BlockTable(logits, rows.c)
    found = []
    for b in range(len(logits)):
        weights = {i: int(table.weights[b, i // BLOCK, i % BLOCK]) for i in kept[b].nonzero()[:, 0]}
        weights = {int(i): weight for i, weight in weights.items()}
        order = sorted(
            (i for i in range(logits.shape[1]) if logits[b, i] > -torch.inf),
            key=lambda i, b=b: (-float(logits[b, i]), i),
        )
        tokens = []
        for draw in range(num_samples):
            if rows.greedy[b]:
                tokens.append(order[draw] if draw < len(order) else -1)
                continue
            high, low = (int(w) for w in random_bits(*map(torch.tensor, (seed, step, b, draw))))
            total = walk(table, b, weights, math.inf)[1]
            token = walk(table, b, weights, ((high << 32 | low) * total) >> 64)[0]
            weights.pop(token, None)
            tokens.append(token)
        found.append(tokens)
    return torch.tensor(found)


def walk(table, b, weights, r):
    """The first id at which the masses of these weights pass `r`, or -1, and the mass up to it."""
    before, of_block, block = 0, 0, -1
    mass = 0
    for i in sorted(weights):
        if i // BLOCK != block:
            before, of_block, block = mass, 0, i // BLOCK
        of_block += weights[i]
        parts = torch.tensor(of_block), table.mantissa[b, block], table.exponent[b, block]
        mass = before + int(scale_sums(*parts))
        if mass > r:
            return i, mass
    return -1, mass


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_logits_on_the_cpu(kind):
    for vocab, num_samples in ((1, 2), (65, 70), (300, 5)):
        logits = logits_of(kind, len(CASES), vocab)
        assert_equals_textbook(logits, "cpu", num_samples, **on_cpu(CASES))


def on_cpu(cases):
    return {name: values.cpu() for name, values in each_row(cases).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_logits_on_the_gpu(kind, monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL)
    place = KINDS.index(kind) % 5
    cases = [{"temperature": 0.0}, *CASES[place::5]] if INTERPRETED else CASES
    for vocab, num_samples in ((65, 8), (1100, 3)):  # 1,100: two blocks a group
        logits = logits_of(kind, len(cases), vocab).to(DEVICE)
        assert_equals_textbook(logits, "triton", num_samples, **each_row(cases))


def test_blocks_of_one_group(monkeypatch):
    """The sums in memory count where a group of the table is several blocks."""
    monkeypatch.setattr(launch, "SIZES", SMALL)
    logits = logits_of("flat", 4, 1100).to(DEVICE)
    logits[:, 128:] = -torch.inf
    cases = [{}, {"top_k": 20}, {"temperature": 0.0}, {"typical_p": 0.9}]
    assert_equals_textbook(logits, "triton", 24, **each_row(cases))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_half_precision(backend, dtype):
    cases = [{"temperature": 0.0}, {"top_p": 0.9}, {"temperature": 2.0}]
    for kind in ("random", "forbidden"):
        logits = logits_of(kind, 3, 200).to(DEVICE, dtype)
        half = assert_equals_textbook(logits, backend, 9, **each_row(cases))
        full = told(logits.float(), backend, 9, **each_row(cases))
        for one, other in zip(half[:4], full[:4], strict=True):
            assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))


def test_large_vocabularies():
    logits = torch.cat([logits_of(kind, 1, 140_000) for kind in ("random", "flat", "tied")])
    cases = on_cpu([{"temperature": 0.8}, {"top_p": 0.9}, {"temperature": 0.0}])
    assert_equals_textbook(logits, "cpu", 20, **cases)
    assert_equals_textbook(logits.to(DEVICE), "triton", 3, **each_row([*CASES[:1], *CASES[5:7]]))


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
@pytest.mark.parametrize("kind", ["random", "tied", "few allowed", "one-hot", "all equal"])
def test_one_token_after_another(kind, backend):
    for params in ({}, {"temperature": 0.0}, {"top_k": 7, "temperature": 3.0}, {"top_p": 0.8}):
        logits = logits_of(kind, 2, 70, seed=5)
        expected = one_by_one(logits, 80, 11, 4, **params)
        ours = told(logits.to(DEVICE), backend, 80, seed=11, step=4, **params).tokens.cpu()
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
def test_a_permutation_of_what_is_kept(backend):
    """Every kept token once, and then none; the first is that of a draw with replacement."""
    logits = logits_of("random", 3, 100).to(DEVICE)
    params = {"top_k": 20, "temperature": 4.0, "seed": 5, "step": 2}
    output = told(logits, backend, 30, return_kept="ids", **params)
    kept = output.kept_ids.view(3, 20)
    assert torch.equal(output.tokens[:, :20].sort(-1).values, kept.long())
    assert output.kept.tolist() == [20] * 3
    assert (output.tokens[:, 20:] == -1).all()
    assert output.logprobs[:, 20:].isnan().all() and output.raw_logprobs[:, 20:].isnan().all()
    assert torch.equal(output.tokens[:, 0], sample(logits, backend=backend, **params))
    fewer = sample(logits, backend=backend, num_samples=6, replacement=False, **params)
    assert torch.equal(fewer, output.tokens[:, :6])


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
def test_one_draw_is_the_same_either_way(backend):
    logits = logits_of("random", 4, 200).to(DEVICE)
    for params in ({"top_p": 0.9}, {"temperature": 0.0}, {}):
        with_, without = (
            sample(logits, seed=1, backend=backend, replacement=r, **params) for r in (True, False)
        )
        assert torch.equal(with_, without)


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
def test_greedy_rows_give_the_best_in_order(backend):
    """Equal ones by their ids, filters ignored, and no token that is forbidden."""
    output = told(SIX.to(DEVICE), backend, 6, temperature=0.0, top_k=1)
    assert output.tokens.tolist() == [[1, 2, 5, 0, 4, -1]]
    assert output.kept.tolist() == [1]
    assert output.logprobs[0, :5].tolist() == [0.0] + [-math.inf] * 4
    assert output.raw_logprobs[0, 0] == output.raw_logprobs[0, 1] > output.raw_logprobs[0, 2]
    assert output.logprobs[0, 5].isnan() and output.raw_logprobs[0, 5].isnan()
    zeros = torch.tensor([-0.0, 0.0, -0.0], device=DEVICE)  # one value
    assert told(zeros, backend, 3, temperature=0.0).tokens.tolist() == [0, 1, 2]


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
def test_log_probabilities_are_those_of_the_kept_tokens(backend):
    """Not conditional: `replay` gives the same for each token."""
    logits = logits_of("random", 3, 100).to(DEVICE)
    cases = each_row([{"top_p": 0.9, "temperature": 0.8}, {"temperature": 0.0}, {"typical_p": 0.9}])
    output = told(logits, backend, 5, **cases)
    for draw in range(5):
        tokens = output.tokens[:, draw]
        again = replay(logits, tokens, backend=backend, seed=3, step=2, **cases)
        assert torch.equal(again.logprobs.nan_to_num(7), output.logprobs[:, draw].nan_to_num(7))
        assert torch.equal(
            again.raw_logprobs.nan_to_num(7), output.raw_logprobs[:, draw].nan_to_num(7)
        )


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
def test_all_that_can_be_asked_for(backend):
    logits = logits_of("random", 3, 100).to(DEVICE)
    logits[2, 7] = torch.nan
    params = each_row([{"top_k": 3}, {"temperature": 0.0}, {}])
    asked = {
        "top_logprobs": 4,
        "return_ranks": True,
        "return_entropy": True,
        "return_kept": "bitmask",
        "logprob_ids": torch.tensor([0, -1]),
    }
    output = told(logits, backend, 5, **params, **asked)
    assert output.ranks[:, 3:].tolist() == [[0, 0], [4, 5], [0, 0]]
    assert sorted(output.ranks[0, :3].tolist()) == [1, 2, 3]
    plain = sample(
        logits, **params, seed=3, step=2, backend=backend, validate=False, return_info=True, **asked
    )
    for name in ("top_ids", "top_logprobs", "entropy", "kept_bitmask", "id_logprobs", "kept"):
        one, other = getattr(output, name), getattr(plain, name)
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name


def test_pairs_follow_their_distribution():
    """Chi-squared of ordered pairs: the second token from what the first leaves."""
    logits = torch.tensor([0.0, 1.0, -0.5, 0.7, 0.2])
    p = (logits / 0.9).double().softmax(-1)
    rows = 40_000
    drawn = sample(
        logits.expand(rows, -1), 0.9, seed=1, num_samples=2, replacement=False, backend="cpu"
    )
    counts = torch.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25).view(5, 5).double()
    expected = rows * p[:, None] * p[None, :] / (1 - p[:, None])
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert counts.diagonal().sum() == 0
    statistic = ((counts - expected) ** 2 / expected)[off_diagonal].sum()
    assert statistic < chi2.isf(1e-4, 19)


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
def test_rows_with_too_few_tokens_are_named(backend):
    logits = torch.cat([torch.zeros(1, 6), SIX]).to(DEVICE)
    draw = {"num_samples": 6, "replacement": False, "seed": 0, "backend": backend}
    for temperature in (1.0, 0.0):
        with pytest.raises(
            ValueError, match=r"row 1 can give 5 different tokens, but num_samples is 6.*validate="
        ):
            sample(logits, temperature, **draw)
    with pytest.raises(ValueError, match="row 0 can give 2 different tokens"):
        sample(logits[1:], **{**draw, "top_k": 2})
    logits[0, 4] = torch.nan
    with pytest.raises(ValueError, match="row 0 holds NaN at token 4"):
        sample(logits, **draw)
    tokens = sample(logits, **draw, validate=False)
    assert (tokens[0] == -1).all() and (tokens[1] == -1).tolist() == [False] * 5 + [True]


@pytest.mark.parametrize("replacement", [0, 1, None, "no", torch.tensor(False)])
def test_a_replacement_of_another_kind(replacement):
    with pytest.raises(TypeError, match="replacement must be True or False"):
        sample(SIX, num_samples=2, replacement=replacement)


def test_a_sampler_module():
    logits = logits_of("random", 2, 50)
    sampler = FusedSampler(top_k=9, seed=4)
    first, second = (sampler(logits, num_samples=3, replacement=False) for _ in range(2))
    for step, drawn in enumerate((first, second)):
        again = sample(logits, top_k=9, seed=4, step=step, num_samples=3, replacement=False)
        assert torch.equal(drawn, again)


def test_the_threads_of_a_call():
    """Rows are shared among threads; each has scratch memory of its own."""
    logits = logits_of("random", 40, 5000)
    alone = sample(logits, 1.5, seed=2, num_samples=8, replacement=False, backend="cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shared = sample(logits, 1.5, seed=2, num_samples=8, replacement=False, backend="cpu")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(shared, alone)


def test_a_compiled_function():
    logits = logits_of("random", 3, 100)

    def draw(logits):
        return sample(logits, 2.0, seed=1, num_samples=3, replacement=False, return_info=True)

    with_graph, without = torch.compile(draw, fullgraph=True, backend="eager")(logits), draw(logits)
    for one, other in zip(with_graph[:4], without[:4], strict=True):
        assert torch.equal(one, other)
