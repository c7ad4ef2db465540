"""The main cases under pytest-benchmark, to compare commits by. No part of `make test`.

    pytest benchmarks --benchmark-only --benchmark-autosave
    pytest benchmarks --benchmark-only --benchmark-compare

A group is one case at one place; it holds Hugging Face's sampling, ours, and one read of the
logits, so that a slower machine shows in all three.
"""

import pytest
import torch

from fused_sampler.benchmarks.cases import REAL_VOCAB, make_logits, row_params
from fused_sampler.benchmarks.kept_sets import Contract
from fused_sampler.benchmarks.measure import enter, read_once
from fused_sampler.benchmarks.ours import Ours
from fused_sampler.benchmarks.peers import PEERS
from fused_sampler.benchmarks.report import MAIN_CASES

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PLACES = (
    ("random", 128_256, 1),
    ("random", 128_256, 8),
    ("random", 128_256, 64),
    ("real", REAL_VOCAB, 8),
    ("real", REAL_VOCAB, 64),
)
SAMPLERS = (Ours(), PEERS["hugging-face"])


def timed(benchmark, draw, logits, group):
    def call():
        draw(logits)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize(DEVICE)

    benchmark.group = group
    benchmark.pedantic(call, warmup_rounds=2, rounds=20)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
@pytest.mark.parametrize(("kind", "vocab", "batch"), PLACES)
@pytest.mark.parametrize("case", MAIN_CASES)
def test_sample(benchmark, case, kind, vocab, batch, sampler):
    logits = make_logits(kind, batch, vocab, device=DEVICE)
    params = row_params(case, batch, DEVICE)
    entrant = enter(sampler, [logits], params, Contract(logits, params))
    assert entrant.draw, entrant.note  # a wrong result is not timed
    timed(benchmark, entrant.draw, logits, f"{case}, {kind}, V={vocab}, B={batch}")


@pytest.mark.parametrize(("kind", "vocab", "batch"), PLACES)
@pytest.mark.parametrize("case", MAIN_CASES)
def test_floor(benchmark, case, kind, vocab, batch):
    logits = make_logits(kind, batch, vocab, device=DEVICE)
    timed(benchmark, read_once, logits, f"{case}, {kind}, V={vocab}, B={batch}")
