"""Rows that many programs select: each way to the threshold equals the reference, and is taken."""

from __future__ import annotations

import os

import pytest
import torch
from common import DEVICE, logits_of, real_logits
from triton_cases import SMALL, assert_equals_reference, on_device

from fused_sampler.benchmarks.counter import count_traffic
from fused_sampler.contract import reference
from fused_sampler.kernels.gpu import launch
from fused_sampler.params import resolve_rows

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities


def reads_by_launch(logits: torch.Tensor, **params) -> list[float]:
    """Planes of logits that each of the five launches reads."""
    if not INTERPRETED:
        pytest.skip("reads are counted in Triton's interpreter")
    with count_traffic(logits) as traffic:
        assert_equals_reference(logits, **params)
    kernels = [moved.kernel for moved in traffic.by_launch]
    assert kernels == [
        "_summarize_kernel",
        "_bracket_kernel",
        *["_round_kernel"] * 2,
        "_draw_kernel",
    ]
    return [moved.read_of_logits / logits.nbytes for moved in traffic.by_launch]


def with_outlier(x: torch.Tensor) -> torch.Tensor:
    x[:, 1000] = 1000.0
    return x


def with_masked_blocks(x: torch.Tensor, value: float) -> torch.Tensor:
    x[:, 6400:12_800] = value
    return x


LOGITS = {
    "random": lambda: logits_of("random", 1, 40_000),
    "flat": lambda: logits_of("flat", 1, 40_000),
    "real": lambda: real_logits()[:1].float(),
    "outlier": lambda: with_outlier(logits_of("random", 1, 40_000)),
    "masked blocks": lambda: with_masked_blocks(logits_of("random", 1, 40_000), -65504.0),
    "lowest blocks": lambda: with_masked_blocks(logits_of("random", 1, 40_000), torch.finfo().min),
    "tied": lambda: logits_of("tied", 1, 40_000),
    "all equal": lambda: logits_of("all equal", 1, 40_000),
    "bf16": lambda: logits_of("random", 1, 40_000).bfloat16(),
}
CASES = [
    {"top_p": 0.9},
    {"top_p": 0.95, "temperature": 1.4},
    {"top_p": 0.99},
    {"top_p": 0.9, "temperature": 100.0},
    {"top_k": 1000},
    {"top_k": 20_000},
    {"top_k": 3000, "min_p": 1e-3},
    {"typical_p": 0.9},
    {"typical_p": 0.3, "temperature": 1.4},
    {"typical_p": 0.99},
]


@pytest.mark.parametrize("kind", LOGITS)
def test_the_last_program_reads_no_logits_to_select(kind):
    """What the rounds leave is in the list; the draw reads the one block of its token."""
    logits = LOGITS[kind]()
    for params in CASES:
        reads = reads_by_launch(logits, **params)
        assert reads[0] == 1
        assert reads[1] == 0
        assert all(read <= 1 for read in reads[2:4])
        assert reads[4] == 64 / logits.shape[1], params


def test_a_row_that_needs_one_round_reads_nothing_in_the_second():
    reads = reads_by_launch(logits_of("random", 1, 40_000), top_k=200)
    assert 0 < reads[2] < 1
    assert reads[3] == 0


@pytest.mark.parametrize("params", [{"top_p": 0.999}, {"top_k": 5000, "top_p": 0.9}], ids=str)
def test_a_window_that_the_list_cannot_hold_is_narrowed_and_read_once(params):
    reads = reads_by_launch(logits_of("random", 1, 128_256), **params)
    assert reads[3] > 0.5
    assert 0.1 < reads[4] <= 1.01


def crowded_beside_a_bin() -> tuple[torch.Tensor, int]:
    """A row and a top-k: its bin holds fewer logits than the list, and what is hard by many more.

    Bins of 2**-8 over [6, 8) begin at sixteen blocks' maxima less than 8, so their edges are known.
    """
    vocab, blocks = 2**16, 2**10
    x = torch.full((blocks, 64), 2.0)
    x[:, 0] = (
        7.5  # the mean of the maxima, 0.5 above the lowest: bins from 5.5 to 9, or the largest
    )
    x[0, 0], x[1, 0] = 7.0, 8.0
    width = (8.0 - 5.5) / 256
    edge = 5.5 + 100 * width
    generator = torch.Generator().manual_seed(0)
    others = x[:, 1:].reshape(-1)
    inside = torch.rand(2000, generator=generator) * 0.8 + 0.1
    others[:2000] = edge + inside * width
    others[2000:12_000] = edge - torch.rand(10_000, generator=generator) * 0.02 * width
    x[:, 1:] = others.reshape(blocks, -1)
    return x.reshape(1, vocab), blocks + 1000


def test_a_list_that_is_too_short_for_what_lies_beside_a_bin():
    """The bins had told that the list would do, so nothing else was counted."""
    logits, k = crowded_beside_a_bin()
    assert_equals_reference(logits.to(DEVICE), top_k=k)
    shares = (logits[0] / 100).softmax(0).sort(descending=True).values.cumsum(0)
    assert_equals_reference(logits.to(DEVICE), temperature=100.0, top_p=shares[k].item())


@pytest.mark.parametrize(
    ("seed", "counts"),
    [(9, [383, 144, 143, 119]), (13, [132, 133, 266, 90]), (33, [158, 275, 53, 84])],
)
def test_lists_that_are_too_short_by_a_few(seed, counts, monkeypatch):
    monkeypatch.setattr(launch, "SIZES", SMALL)
    logits = logits_of("descending", 4, 1000, seed=seed).to(DEVICE)
    assert_equals_reference(logits, top_k=torch.tensor(counts, device=DEVICE))


def test_rows_of_a_batch_that_need_nothing_are_left_alone():
    x = logits_of("random", 6, 5000)
    x[4, 77] = torch.nan
    x[5] = -torch.inf
    assert_equals_reference(
        x,
        temperature=torch.tensor([0.0, 0.8, 1.0, 1.2, 1.0, 1.0]),
        top_k=torch.tensor([0, 0, 4000, 50, 0, 900]),
        top_p=torch.tensor([0.5, 1.0, 1.0, 1.0, 0.9, 0.9]),
        min_p=torch.tensor([0.0, 0.05, 0.0, 0.0, 0.0, 0.0]),
        epsilon_cutoff=torch.tensor([0.0, 0.0, 1e-4, 0.0, 0.0, 0.0]),
    )


@pytest.mark.parametrize(("splits", "dtype"), [(7, torch.float32), (1, torch.bfloat16)], ids=str)
def test_many_thresholds(splits, dtype, monkeypatch):
    """Small lists and bins, so that windows overflow: all ways to a threshold, at many places."""
    monkeypatch.setattr(launch, "SIZES", SMALL._replace(list=64, splits=splits))
    share = torch.linspace(0.01, 0.999, 6)
    for kind in ("random", "flat", "tied", "descending"):
        logits = on_device(kind, 6, 1500, dtype)
        assert_equals_reference(logits, top_p=share.to(logits.device))
        assert_equals_reference(logits, top_k=(share * 1500).long().to(logits.device))


def test_thresholds_between_most_logits_and_one_far_above():
    """What lies beyond the last bin weighs more than its end tells."""
    x = logits_of("random", 1, 20_000)
    x[:, 6400:8600] = torch.linspace(25.2, 25.8, 2200)  # in the last of eight parts of the bins
    x[:, 777] = 100.0
    upto = (x / 10).double().softmax(-1).sort(descending=True).values.cumsum(-1)
    share = upto[0, 200:2201:500].float()
    x = x.expand(len(share), -1).to(DEVICE)
    assert_equals_reference(x, top_p=share.to(DEVICE), temperature=10.0)


def test_masses_that_are_rounded_down_before_they_reach_what_is_needed():
    """A list's tokens are weighed one by one, and together they may weigh less than they seem to.

    For such a threshold p asks for a little more than the mass down to a token: the next is kept.
    """
    x = on_device("random", 1, 2048)
    table = reference.BlockTable(x, resolve_rows(x).c)
    values = x[0].sort(descending=True).values
    above = torch.stack([table.mass(x >= value)[0] for value in values])
    total = above[-1].double()
    share = (above.double() / total).float()
    needed = (share.double() * total).ceil().long()
    close = (needed > above) & (needed - above < torch.arange(1, 2049, device=x.device) // 4)
    assert close.sum() >= 3
    share = share[close & (share < 1)]
    assert_equals_reference(x.expand(len(share), -1), top_p=share)
