"""What vLLM's engine does before its first step."""

from __future__ import annotations

import sys

import torch

from ...edits.history import History
from ...edits.records import NUMBERS
from ..ahead import compile_ahead
from .asked import PENALTIES


def prepare(vocab: int, device: torch.device) -> None:
    """Compile what requests ask for most, penalties among it."""
    tokens = History(torch.zeros(1, 1, dtype=torch.int64)).to(device)
    compile_ahead(vocab, device, {"history": tokens} | {n: NUMBERS[n].off for n in PENALTIES})
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
