"""The soak and the fuzzer: that they find what is wrong, in runs that are short."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import torch

pytest.importorskip("numba", reason="needs the `cpu` extra")
pytest.importorskip("rich", reason="needs the `cli` extra")
pytest.importorskip("triton", reason="the fuzzer's module needs Triton")

import fuzz
import jobs
import properties
import soak
from calls import Call

from fused_sampler import sample


def short(**options):
    return soak.soak(**{"seed": 3, "tokens": 10**6, "seconds": 60, "threads": 2, **options})


def test_nothing_is_wrong_with_ours():
    report = short()
    assert report.faults == []
    assert report.tokens >= 10**6
    assert report.shares.sum() > 10**5
    assert report.repeated >= 1


def test_a_run_ends_in_time():
    start = time.monotonic()
    assert short(tokens=10**12, seconds=1).tokens > 0
    assert time.monotonic() - start < 30


def wrong_id(logits, **arguments):
    tokens = sample(logits, **arguments)
    tokens[-1] = logits.shape[1]
    return tokens


def dropped(logits, **arguments):
    filters = ("top_k", "top_p", "min_p", "typical_p", "top_h", "top_n_sigma")
    return sample(logits, **{n: v for n, v in arguments.items() if n not in filters})


def skewed(logits, **arguments):
    """Half of the draws are the first one again."""
    tokens = sample(logits, **arguments)
    tokens[..., ::2] = tokens[..., :1]
    return tokens


def too_hot(logits, **arguments):
    """By a percent: no call tells, all together do."""
    temperature = arguments.pop("temperature", None)
    temperature = torch.as_tensor(1.0 if temperature is None else temperature) * 1.01
    return sample(logits, temperature.float(), **arguments)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (wrong_id, "of a vocabulary"),
        (dropped, "that the filters dropped"),
        (skewed, "from its distribution"),
    ],
)
def test_wrong_tokens_are_found(draw, words, monkeypatch):
    monkeypatch.setattr(jobs, "_BY_TEXTBOOK", 0)  # which would tell all of them
    (fault,) = short(by=draw, threads=1).faults
    assert words in fault


def test_the_textbook_tells_more():
    (fault,) = short(by=too_hot, threads=1).faults
    assert "the textbook" in fault


def test_all_draws_together_tell_most(monkeypatch):
    monkeypatch.setattr(jobs, "_BY_TEXTBOOK", 0)
    monkeypatch.setattr(soak, "REPEATED", 10**9)
    shares = short().shares
    assert jobs.distance(shares, 1e-6)[0] <= jobs.distance(shares, 1e-6)[1]
    shares[: jobs.BINS // 2] += shares[: jobs.BINS // 2] // 50
    assert jobs.distance(shares, 1e-6)[0] > jobs.distance(shares, 1e-6)[1]


def test_other_tokens_the_second_time_are_found(monkeypatch):
    monkeypatch.setattr(jobs, "_BY_TEXTBOOK", 0)

    def another_seed(logits, **arguments):
        return sample(logits, **{**arguments, "seed": 1})

    faults = short(by=another_seed, threads=1).faults
    assert faults and all("one thread alone draws other tokens" in fault for fault in faults)


def test_memory_that_is_not_given_back_is_found():
    held = []

    def leaking(logits, **arguments):
        held.append(torch.ones(2**22))  # 16 MiB
        return sample(logits, **arguments)

    faults = short(by=leaking, tokens=3 * 10**6, threads=1).faults
    assert len(held) > 20
    assert [fault for fault in faults if "memory grew" in fault]


def test_a_round_of_the_fuzzer():
    seen: Counter[str] = Counter()
    fuzz.play(5, time.monotonic() + 8, seen)
    assert seen["served"] > 10


@pytest.mark.parametrize(
    ("replacement", "words"),
    [
        (lambda x, **arguments: 1 / 0, "ZeroDivisionError"),
        (lambda x, **arguments: torch.zeros(len(x)).long() + x.shape[-1], "tokens"),
        (lambda x, **arguments: x.zero_()[:, 0].long(), "an argument was written to"),
    ],
    ids=["another error", "an id out of range", "an argument written to"],
)
def test_the_fuzzer_finds(replacement, words, monkeypatch):
    monkeypatch.setattr(properties, "sample", replacement)
    monkeypatch.setattr(properties, "CALLS", [properties._sample, properties._mask_logits])
    call = Call(torch.randn(2, 9), {"seed": 1})
    with pytest.raises(properties.Broken, match=words):
        properties.check(call, ["torch", "cpu"])


def test_an_error_that_names_no_argument_is_found(monkeypatch):
    def refuses(x, **arguments):
        raise ValueError("something is wrong")

    monkeypatch.setattr(properties, "sample", refuses)
    monkeypatch.setattr(properties, "CALLS", [properties._sample, properties._mask_logits])
    with pytest.raises(properties.Broken, match="something is wrong"):
        properties.check(Call(torch.randn(2, 9), {"top_k": "x"}, ("top_k",)), ["torch", "cpu"])
