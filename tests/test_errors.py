"""Bad input gets one sentence that names the argument, the value, the row and the remedy."""

from __future__ import annotations

import re
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fused_sampler import (
    FusedSampler,
    SamplingParams,
    dispatch,
    kernels,
    mask_logits,
    sample,
    softmax,
)

X = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])

LOGITS = {
    "integers": (torch.zeros(2, 3, dtype=torch.int64), TypeError, "logits have dtype torch.int64"),
    "complex": (torch.zeros(2, 3, dtype=torch.complex64), TypeError, "torch.complex64"),
    "fp64": (X.double(), TypeError, r"logits\.float\(\)"),
    "a list": ([[0.0, 1.0]], TypeError, "logits must be a torch.Tensor, got list"),
    "0-d": (torch.tensor(1.0), ValueError, r"logits have shape \[\]"),
    "3-d": (torch.zeros(2, 3, 4), ValueError, r"shape \[2, 3, 4\].*logits\[:, -1\]"),
    "no vocabulary": (torch.zeros(2, 0), ValueError, "vocabulary of 0"),
    "huge": (torch.zeros(1, 1).expand(1, 2**22 + 1), ValueError, "vocabulary of 4194305"),
}


@pytest.mark.parametrize("function", [sample, softmax, mask_logits])
@pytest.mark.parametrize("logits, error, words", LOGITS.values(), ids=LOGITS)
def test_logits_of_the_wrong_kind(function, logits, error, words):
    with pytest.raises(error, match=words):
        function(logits)


ARGUMENTS = [
    ({"temperature": -0.5}, ValueError, r"temperature is -0\.5, out of range; use 0 for greedy"),
    ({"temperature": float("nan")}, ValueError, "temperature is nan"),
    ({"temperature": float("inf")}, ValueError, "temperature is inf"),
    ({"temperature": 1e39}, ValueError, r"temperature is 1e\+39"),
    ({"temperature": "hot"}, TypeError, "temperature must be a number.*'hot'"),
    ({"temperature": True}, TypeError, "temperature must be a number.*True"),
    ({"temperature": torch.tensor([1, -1.0])}, ValueError, r"temperature is -1\.0 in row 1"),
    ({"temperature": torch.tensor([True, False])}, TypeError, "temperature must be a floating-p"),
    ({"temperature": torch.ones(3)}, ValueError, r"temperature has shape \[3\].*2 rows"),
    ({"temperature": torch.ones(2, 1)}, ValueError, r"temperature has shape \[2, 1\]"),
    ({"top_k": -1}, ValueError, "top_k is -1, out of range; use 0 to switch it off"),
    ({"top_k": 2.0}, TypeError, r"top_k must be an integer.*2\.0"),
    ({"top_k": torch.tensor([1.0, 2.0])}, TypeError, "top_k must be an integer tensor"),
    ({"top_k": torch.tensor([1, -7])}, ValueError, "top_k is -7 in row 1"),
    ({"top_p": -0.1}, ValueError, r"top_p is -0\.1.*from 0 to 1"),
    ({"top_p": float("nan")}, ValueError, "top_p is nan"),
    ({"top_p": torch.tensor([float("nan"), 1])}, ValueError, "top_p is nan in row 0"),
    ({"min_p": 1.5}, ValueError, r"min_p is 1\.5"),
    ({"min_p": -0.1}, ValueError, r"min_p is -0\.1"),
    ({"min_p": torch.tensor([0.0, 1.1])}, ValueError, r"min_p is 1\.1.* in row 1"),
    ({"seed": 2**64}, ValueError, f"seed is {2**64}; it must fit 64 bits"),
    ({"seed": -(2**63) - 1}, ValueError, "it must fit 64 bits"),
    ({"seed": 1.0}, TypeError, r"seed must be an integer.*1\.0"),
    ({"seed": torch.tensor([1, 2, 3])}, ValueError, r"seed has shape \[3\].*2 rows"),
    ({"seed": torch.tensor([1.0, 2.0])}, TypeError, "seed must be an int64 tensor"),
    ({"seed": 1, "generator": torch.Generator()}, ValueError, "pass one of them"),
    ({"step": -1}, ValueError, "step is -1"),
    ({"step": torch.tensor([0, -3])}, ValueError, "step is -3 in row 1"),
    ({"step": 0.5}, TypeError, r"step must be an integer.*0\.5"),
    ({"num_samples": 0}, ValueError, "num_samples is 0; ask for at least 1"),
    ({"num_samples": 2.0}, TypeError, "num_samples must be an integer"),
    ({"temperature": [0.5, 0.7]}, TypeError, r"temperature must be a number.*\[0\.5, 0\.7\]"),
    ({"generator": 5}, TypeError, "generator must be a torch.Generator, got 5"),
    ({"temperature": torch.ones(2, device="meta")}, TypeError, 'temperature is on device "meta"'),
    ({"top_k": torch.tensor([1, 2]).to_sparse()}, TypeError, r"top_k\.to_dense\(\)"),
    ({"seed": torch.tensor([1, 2], device="meta")}, TypeError, 'seed is on device "meta"'),
    ({"validate": np.ones(2)}, TypeError, r"validate must be True or False, got array"),
    ({"return_info": 1}, TypeError, "return_info must be True or False, got 1"),
    ({"return_info": True, "top_logprobs": torch.ones(2)}, TypeError, "top_logprobs must be an i"),
    ({"return_info": True, "return_ranks": "yes"}, TypeError, "return_ranks must be True or False"),
    ({"return_info": True, "return_kept": np.ones(2)}, ValueError, "return_kept is array"),
    ({"backend": "cuda"}, ValueError, "backend is 'cuda'; choose"),
]


def test_the_kernels_need_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        ValueError, match=r'"triton" is not available: .* device "cpu".*backend="cpu"'
    ):
        sample(torch.zeros(1, 4), backend="triton")


@pytest.mark.parametrize("version, words", [(None, "not installed"), ("3.3.1", "older than 3.4")])
def test_the_kernels_need_a_recent_triton(monkeypatch, version, words):
    module = None if version is None else SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "triton", module)
    kernels._unusable.cache_clear()
    try:
        reason = kernels.unavailable("triton", torch.device("cuda"))
        assert re.search(rf"triton.*{words}; (pip install|upgrade)", reason)
    finally:
        kernels._unusable.cache_clear()


def test_what_a_cuda_graph_cannot_hold_is_refused():
    step, seed = torch.zeros((), dtype=torch.int64), 3
    for arguments, words in [
        ((seed, 5, None, False), "step is 5 .* tensor on the GPU"),
        ((None, step, None, False), "pass seed"),
        ((seed, step, torch.Generator(), False), "pass seed"),
        ((seed, step, None, True), "pass validate=False"),
    ]:
        with pytest.raises(ValueError, match=words):
            dispatch._check_capture(*arguments)
    dispatch._check_capture(seed, step, None, False)


@pytest.mark.parametrize("arguments, error, words", ARGUMENTS, ids=lambda v: str(v)[:40])
def test_arguments_out_of_range(arguments, error, words):
    with pytest.raises(error, match=words):
        sample(X, **arguments)


@pytest.mark.parametrize("field", ["temperature", "top_k", "top_p", "min_p"])
def test_params_are_checked_when_made(field):
    for make in (SamplingParams, FusedSampler):
        with pytest.raises(ValueError, match=f"{field} is -2"):
            make(**{field: -2})


INVALID = {
    "NaN": (float("nan"), "logits row 1 holds NaN at token 2"),
    "+inf": (float("inf"), r"logits row 1 holds \+inf at token 2"),
}


@pytest.mark.parametrize(
    "params", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}, {"temperature": 0}]
)
@pytest.mark.parametrize("value, words", INVALID.values(), ids=INVALID)
def test_invalid_rows(value, words, params):
    x = torch.zeros(3, 100)
    x[1, 2] = value
    with pytest.raises(ValueError, match=words):
        sample(x, seed=0, **params)
    tokens = sample(x, seed=0, validate=False, **params)
    assert tokens[1] == -1
    valid = torch.tensor([0, 2])
    assert tokens[valid].tolist() == sample(torch.zeros(3, 100), seed=0, **params)[valid].tolist()
    info = sample(x, seed=0, validate=False, return_info=True, **params)
    assert info.kept[1] == 0 and info.logprobs[1].isnan() and info.raw_logprobs[1].isnan()
    assert not info.logprobs[valid].isnan().any() and not info.raw_logprobs[valid].isnan().any()
    for function in (softmax, mask_logits):
        with pytest.raises(ValueError, match=words):
            function(x)


def test_a_row_that_forbids_every_token():
    x = torch.zeros(2, 100)
    x[1] = -torch.inf
    with pytest.raises(ValueError, match=r"logits row 1 forbids every token \(all -inf\)"):
        sample(x, top_p=0.5)
    assert sample(x, validate=False, top_p=0.5)[1] == -1


@pytest.mark.parametrize(
    "name, odd, nearest",
    [
        ("temperature", [-1.0, torch.inf, torch.nan], [0.0, 3e38, 1.0]),
        ("top_k", [-1, 99, 2], [0, 0, 2]),
        ("top_p", [1.5, -0.5, torch.nan], [1.0, 0.0, 1.0]),
        ("min_p", [1.5, -0.5, torch.nan], [1.0, 0.0, 0.0]),
    ],
)
def test_validate_false_takes_values_out_of_range_as_the_nearest(name, odd, nearest):
    x = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [1.0, 1.5, 1.2]])
    others = [{}, {"top_k": 2}] if name != "top_k" else [{}, {"top_p": 0.9}]
    for other in others:
        given = sample(x, seed=0, validate=False, **{name: torch.tensor(odd)}, **other)
        assert (
            given.tolist() == sample(x, seed=0, **{name: torch.tensor(nearest)}, **other).tolist()
        )


def test_an_empty_batch_is_no_error():
    empty = torch.empty(0, 50)
    assert sample(empty).shape == (0,) and sample(empty).dtype == torch.int64
    assert sample(empty, num_samples=3, top_p=0.5).shape == (0, 3)
    assert softmax(empty).shape == mask_logits(empty, top_k=3).shape == (0, 50)
    info = sample(empty, return_info=True, top_k=torch.zeros(0, dtype=torch.int64))
    assert info.kept.shape == info.logprobs.shape == (0,)


def test_a_bad_parameter_of_an_empty_batch():
    with pytest.raises(ValueError, match="temperature is -1"):
        sample(torch.empty(0, 5), temperature=torch.tensor(-1.0))


def test_numbers_of_other_kinds():
    plain = sample(X, 0.5, top_k=2, seed=3, step=1, num_samples=2)
    assert torch.equal(
        sample(
            X,
            Fraction(1, 2),
            top_k=np.int64(2),
            top_p=1e39,
            seed=np.int64(3),
            step=np.int64(1),
            num_samples=2,
        ),
        plain,
    )
    assert torch.equal(
        sample(X, 0.5, top_k=torch.tensor([2, 2], dtype=torch.uint16), seed=3, step=1), plain[:, 0]
    )


def test_off_values():
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    plain = sample(x, seed=1)
    off = {
        "temperature": [None, 1],
        "top_k": [None, 50, 51, 10**30],
        "top_p": [None, 1, 7.5],
        "min_p": [None, 0],
    }
    for name, values in off.items():
        for value in values:
            assert torch.equal(sample(x, seed=1, **{name: value}), plain), (name, value)
    assert torch.equal(mask_logits(x, None, top_k=None, top_p=None, min_p=None), x)


@pytest.mark.parametrize(
    "logits, words",
    [
        ([1.0, 2.0], r"got list; pass torch\.as_tensor\(logits\)"),
        (torch.eye(2).to_sparse(), r"torch\.sparse_coo; pass logits\.to_dense\(\)"),
    ],
    ids=["list", "sparse"],
)
def test_what_is_no_plain_tensor(logits, words):
    with pytest.raises(TypeError, match=words):
        sample(logits)


def test_names_that_are_none():
    with pytest.raises(TypeError, match="no argument 'topk'; did you mean top_k"):
        sample(X, topk=3)
    with pytest.raises(TypeError, match="no argument 'seeds'; the parameters are temperature"):
        sample(X, seeds=3)
    with pytest.raises(TypeError):
        SamplingParams(0.8)
