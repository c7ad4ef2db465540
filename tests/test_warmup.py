"""`warmup`: after it no call compiles anything."""

from __future__ import annotations

import sys

import pytest
import torch

from fused_sampler import History, SamplingParams, mask_logits, sample, softmax, warmup

pytest.importorskip("numba", reason="needs the `cpu` extra")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_later_call_compiles(dtype):
    from fused_sampler.kernels.cpu.rows import sample_rows

    warmup(5, dtype)
    compiled = list(sample_rows.signatures)
    x = torch.randn(3, 70).to(dtype)
    sample(x, 0.8, top_k=5, top_p=0.9, min_p=0.01, epsilon_cutoff=0.01, seed=torch.arange(3))
    sample(x, return_info=True, num_samples=3)
    softmax(x), mask_logits(x, top_p=0.5)
    assert sample_rows.signatures == compiled


def test_edits_are_compiled_with_any_of_them():
    from fused_sampler.kernels.cpu.rows import sample_rows

    warmup(70, logit_bias={0: 1.0})
    compiled = list(sample_rows.signatures)
    past = History(torch.zeros(1, 3, dtype=torch.int64))
    edits = {"allowed": torch.ones(70, dtype=torch.bool), "history": past, "dry_multiplier": 1.0}
    sample(torch.randn(70), **edits), mask_logits(torch.randn(70), top_k=3, **edits)
    assert sample_rows.signatures == compiled


def test_every_kernel_is_called_as_it_will_be(monkeypatch):
    module = sys.modules[warmup.__module__]
    calls = []
    for name in ("sample", "softmax", "mask_logits"):
        monkeypatch.setattr(module, name, lambda *args, _name=name, **kw: calls.append((_name, kw)))
    params = SamplingParams(top_k=5)
    warmup(100, batch=2, backend="torch", params=params, seed=3)
    both = {"params": params, "backend": "torch"}
    assert calls == [
        ("sample", {**both, "seed": 3, "return_info": False}),
        ("sample", {**both, "seed": 3, "return_info": True}),
        ("mask_logits", both),
        ("softmax", {"backend": "torch"}),
    ]


def test_tables_with_slots():
    table = torch.tensor([0.5, 0.7, 0.9])
    for temperature in (table, 0.5, table[:1], None):
        slots = torch.tensor([2, 0], dtype=torch.int32)
        warmup(70, batch=2, temperature=temperature, top_p=table, slots=slots)
    warmup(70, params=SamplingParams(temperature=table), slots=torch.zeros(1, dtype=torch.int32))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="top_p is -1"):
        warmup(100, top_p=-1.0)
    with pytest.raises(ValueError, match="vocabulary of 0"):
        warmup(0)
