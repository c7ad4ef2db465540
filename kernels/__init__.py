"""Triton kernels: from logits to token in two launches and one read."""

from __future__ import annotations

import functools
import importlib
import os

import torch


def unavailable(device: torch.device) -> str | None:
    """Why the kernels cannot serve tensors on `device`, with the remedy; None if they can."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return (
            f'the logits are on device "{device.type}", and Triton kernels run on GPUs ("cuda"); '
            'move them there, or use backend="torch" or "auto".'
        )
    return _unusable_triton()


@functools.cache
def _unusable_triton() -> str | None:
    try:
        version = importlib.import_module("triton").__version__
    except ImportError:
        return 'Triton is not installed; pip install triton, or use backend="torch".'
    if tuple(map(int, version.split(".")[:2])) < (3, 4):
        return f'Triton {version} is too old; pip install "triton>=3.4", or use backend="torch".'
    return None
