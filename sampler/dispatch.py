"""Which implementation serves a call."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from . import fallback, kernels  # type: ignore[attr-defined]  # setup.py maps the folder


def choose_backend(backend: str, device: torch.device) -> ModuleType:
    """The module with `sample`, `softmax` and `mask_logits` for tensors on `device`.

    Raises ValueError with the reason and the remedy where the choice is not to be had.
    """
    if backend == "auto":
        gpu = device.type == "cuda" and kernels.unavailable(device) is None
        backend = "triton" if gpu else "torch"
    if backend == "torch":
        return fallback
    if backend != "triton":
        raise ValueError(f'backend is {backend!r}; choose "auto", "torch" or "triton".')
    reason = kernels.unavailable(device)
    if reason is not None:
        raise ValueError(f'backend "triton" is not available: {reason}')
    return importlib.import_module(f"{kernels.__name__}.gpu.launch")  # only now: it needs Triton
