"""The kernels equal the reference: tokens, kept sets, counts, whatever logits, rows and tiles."""

from __future__ import annotations

import pytest
import torch
from common import DEVICE, KINDS, real_logits
from triton_cases import (
    CASES,
    INTERPRETED,
    LARGE_VOCABULARIES,
    SMALL,
    assert_equals_reference,
    each_row,
    on_device,
    settled,
)

from fused_sampler import FusedSampler, mask_logits, sample, softmax
from fused_sampler.contract import reference
from fused_sampler.kernels.gpu import launch
from fused_sampler.params import resolve_rows


def some(turn: int, parts: int) -> list[dict[str, float]]:
    """A part of the cases, in turn: the interpreter takes its time. On a GPU all."""
    return CASES[turn % parts :: parts] if INTERPRETED else CASES


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_logits(kind, monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL)
    turn = KINDS.index(kind)
    for vocab, parts in ((65, 3), (1000, 1)):
        cases = [*some(turn, parts), {"top_k": vocab - 1}, {"top_k": vocab, "min_p": 1e-9}]
        assert_equals_reference(on_device(kind, len(cases), vocab), **each_row(cases))


@pytest.mark.parametrize("vocab", [1, 2, 63, 64])
def test_small_vocabularies(vocab, monkeypatch):
    for turn, kind in enumerate(("random", "tied", "every other forbidden")):
        cases = some(turn, 3)
        assert_equals_reference(on_device(kind, len(cases), vocab), **each_row(cases))


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 64])
def test_batches(batch, monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL)
    cases = (CASES * 5)[:batch]
    assert_equals_reference(on_device("random", batch, 130), **each_row(cases))


@pytest.mark.parametrize("vocab", LARGE_VOCABULARIES)
def test_large_vocabularies(vocab):
    """One row a case and vocabulary in the interpreter; on a GPU every kind and case."""
    cases = [{"top_k": 50, "top_p": 0.9, "temperature": 0.8}, {"top_p": 0.95}, {"min_p": 0.02}]
    kinds = ("random", "flat", "tied") if INTERPRETED else KINDS
    cases = cases if INTERPRETED else CASES
    for number, kind in enumerate(kinds):
        turned = cases[number % 3 :] + cases[: number % 3]
        turned = turned[:1] if INTERPRETED else turned
        assert_equals_reference(on_device(kind, len(turned), vocab), **each_row(turned))


@pytest.mark.parametrize("vocab", [128_256, 262_144])
def test_unfiltered_and_greedy_rows_of_large_vocabularies(vocab):
    cases = [{"temperature": 0.7}, {"temperature": 0.0}, {"top_k": 1000}]
    assert_equals_reference(on_device("random", 3, vocab), **each_row(cases))


def test_real_logits():
    logits = real_logits().to(DEVICE)[::2]
    assert_equals_reference(logits, **each_row([{"top_p": 0.9, "temperature": 0.8}, *CASES][:10]))
    assert_equals_reference(logits.float(), top_p=0.95)


def test_more_than_the_list_holds(monkeypatch):
    """Brackets that have to be narrowed, by count and by mass, and then close on ties."""
    monkeypatch.setattr(launch, "SIZES", SMALL._replace(list=64, tile=16))
    for kind in ("flat", "tied", "extreme", "descending"):
        cases = [{"top_p": 0.9}, {"top_k": 1000}, {"top_k": 1000, "top_p": 0.5}, {"top_k": 1998}]
        assert_equals_reference(on_device(kind, len(cases), 2000), **each_row(cases))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL)
    for turn, kind in enumerate(("random", "flat", "tied", "forbidden")):
        cases = some(turn, 4)
        logits = on_device(kind, len(cases), 1000, dtype)
        assert_equals_reference(logits, **each_row(cases))
        ours = settled(logits, **each_row(cases))
        for half, full in zip(ours, settled(logits.float(), **each_row(cases)), strict=True):
            assert torch.equal(half, full)


SIZES = {
    "one tile": {"rows": 64, "groups": 4096, "list": 2048, "tile": 64},
    "tiny": {
        "rows": 1,
        "programs": 1,
        "groups": 16,
        "list": 128,
        "tile": 1,
        "round_tile": 2,
        "splits": 5,
    },
    "a program a tile": {"rows": 2, "programs": 10**6, "groups": 32},
    "a program a row": {"rows": 4, "programs": 1, "list": 256, "tile": 8, "splits": 1},
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_tile_sizes_change_nothing(sizes, monkeypatch):
    cases = [{"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}, {"min_p": 0.01}, {"temperature": 1.4}]
    cases += [{"typical_p": 0.8}, {"top_n_sigma": 2.0, "eta_cutoff": 0.01}, {"top_h": 0.7}]
    logits = on_device("random", len(cases), 3000)
    before = settled(logits, **each_row(cases))
    monkeypatch.setattr(launch, "SIZES", launch.SIZES._replace(**sizes))
    for one, other in zip(before, settled(logits, **each_row(cases)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(not INTERPRETED, reason="only the interpreter has an order of programs")
@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_the_order_of_programs_changes_nothing(order, monkeypatch):
    from interpreter import program_order

    monkeypatch.setattr(launch, "SIZES", SMALL)
    cases = [{"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}, {"temperature": 0.0}, {"min_p": 0.01}]
    cases += [{"typical_p": 0.8}, {"top_h": 0.7, "xtc_probability": 1.0}]
    logits, params = on_device("random", len(cases), 2000), each_row(cases)
    with program_order("forward") as numbers:
        before = [*settled(logits, **params), softmax(logits, backend="triton")]
    assert numbers == sorted(numbers)
    with program_order(order) as numbers:
        after = [*settled(logits, **params), softmax(logits, backend="triton")]
    assert numbers != sorted(numbers)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


def test_layouts(monkeypatch):
    """The last position of [B, S, V], rows that do not start aligned, and one row of many."""
    monkeypatch.setattr(launch, "SIZES", SMALL)
    states = on_device("random", 4 * 3, 1001).view(4, 3, 1001)
    shifted = on_device("random", 4, 1024).flatten()[3:-5].as_strided((3, 1000), (1017, 1))
    for logits in (states[:, -1], shifted, states[:, 1, :999]):
        assert_equals_reference(logits, **each_row(CASES[: len(logits)]))
        for one, other in zip(
            settled(logits, top_p=0.9), settled(logits.contiguous(), top_p=0.9), strict=True
        ):
            assert torch.equal(one, other)


def test_numbers_and_tensors_are_one(monkeypatch):
    """A number goes to the kernels by value, a tensor by address."""
    monkeypatch.setattr(launch, "SIZES", SMALL)
    logits = on_device("random", 3, 1000)
    for case in ({"temperature": 0.0}, {"temperature": 1.0}, CASES[-2], {"top_k": 1, "min_p": 1.0}):
        by_value = settled(logits, **case)
        for one, other in zip(by_value, settled(logits, **each_row([case] * 3)), strict=True):
            assert torch.equal(one, other)
        mixed = {**case, "top_p": torch.full((3,), case.get("top_p", 1.0), device=DEVICE)}
        for one, other in zip(by_value, settled(logits, **mixed), strict=True):
            assert torch.equal(one, other)


def test_masked_logits_and_probabilities(monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL)
    cases = [{"temperature": 0.0}, {"temperature": 3.0}, {"top_k": 5}, {"top_p": 0.9}]
    for kind in ("random", "forbidden", "invalid", "extreme", "tied"):
        logits, params = on_device(kind, len(cases), 1000), each_row(cases)
        rows = resolve_rows(logits, **params)
        masked = launch.mask_logits(logits, rows)
        assert torch.equal(masked.nan_to_num(7), reference.mask_logits(logits, rows).nan_to_num(7))
        ours, theirs = launch.softmax(logits, rows), reference.softmax(logits, rows)
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours[rows.greedy].nan_to_num(7), theirs[rows.greedy].nan_to_num(7))


def test_draws_of_one_call_and_of_many():
    logits = on_device("random", 3, 300)
    together = sample(logits, top_k=40, seed=5, step=2, num_samples=4, backend="triton")
    assert torch.equal(
        together, sample(logits, top_k=40, seed=5, step=2, num_samples=4, backend="torch")
    )
    seeds = torch.tensor([7, -1, 2**62], device=DEVICE)
    each = sample(logits, seed=seeds, step=torch.arange(3, device=DEVICE), backend="triton")
    for row in range(3):
        alone = sample(logits[row], seed=seeds[row : row + 1], step=row, backend="triton")
        assert alone == each[row]


def test_a_sampler_module():
    logits = on_device("random", 2, 500)
    ours, theirs = (
        FusedSampler(top_k=5, temperature=2.0, seed=3, backend=name).to(DEVICE)
        for name in ("triton", "torch")
    )
    drawn = torch.stack([ours(logits) for _ in range(6)])
    assert torch.equal(drawn, torch.stack([theirs(logits) for _ in range(6)]))
    assert len(drawn.unique()) > 2
    assert int(ours.step) == 6


def test_invalid_rows():
    logits = on_device("invalid", 4, 200)
    tokens = sample(logits, top_p=0.9, backend="triton", validate=False)
    assert tokens.tolist()[0] == tokens.tolist()[2] == tokens.tolist()[3] == -1
    assert 0 <= tokens[1] < 200
    for function in (sample, softmax, mask_logits):
        with pytest.raises(ValueError, match="logits row 0 forbids every token"):
            function(logits, backend="triton")


def test_no_rows():
    logits = on_device("random", 1, 200)[:0]
    assert sample(logits, backend="triton").shape == (0,)
    for function in (softmax, mask_logits):
        assert function(logits, backend="triton").shape == (0, 200)
