"""What an engine does before its first step."""

from __future__ import annotations

import sys
from typing import Any

import torch

from ...edits.history import History
from ...edits.records import NUMBERS
from ...warmup import warmup
from .asked import PENALTIES


def compile_ahead(vocab: int, device: torch.device) -> None:
    """The kernels of what requests ask for most, before the first of them waits."""
    row = {"temperature": 0.5, "seed": 1, "step": 0}
    tokens = {"history": History(torch.zeros(1, 1, dtype=torch.int64)).to(device)}
    sets: list[dict[str, Any]] = [{}, tokens | {name: NUMBERS[name].off for name in PENALTIES}]
    if device.type != "cpu":  # whose kernels are the same for all
        sets += [{"top_k": 50}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}]
    for arguments in sets:
        columns: dict[str, Any] = {
            name: value if isinstance(value, History) else torch.tensor([value], device=device)
            for name, value in (row | arguments).items()
        }
        warmup(vocab, device=device, **columns)
    let_vllm_look_at_llvmlite()


def let_vllm_look_at_llvmlite() -> None:
    """Without this a CPU engine that starts after Numba was loaded, as a second one does, fails.

    vLLM asks every object of every module for its `__dict__`. llvmlite's library, which Numba
    loads, answers to any name with a function of that name; now it has something to say.
    """
    module = sys.modules.get("llvmlite.binding.ffi")
    known = getattr(getattr(module, "lib", None), "_fntab", None)
    if isinstance(known, dict):
        known.setdefault("__dict__", {})
