"""Triton kernels: from logits to token in two launches and one read.

1. `summarize.py` - one program a stretch of a row. Reads the logits, once, and writes a table: the
   maximum of each block of 64 and, where the whole row's mass matters (no filter, or top-p without
   top-k), the sum of the block's integer weights. 1 plane read (a plane = all logits once, in their
   own dtype), 0.035 of an fp32 plane written.
2. `draw.py` - one program a row. Reads the table: the row's maximum, the blocks' masses.
   - A filter's threshold, exactly (`select.py`): the table says between which values it lies
     (`table.py`); the few blocks that reach the lower one are read again, and what lies between
     goes to a list (`collect.py`, `candidates.py`); too much for it is narrowed down first
     (`narrow.py`); a bisection of the list ends it (`search.py`). Top-k: 64 k / V of a plane. Top-p
     on real logits at T <= 1: on average 0.2 to 1.2 planes. Min-p alone: the blocks it keeps
     something of.
   - The draw: a prefix sum over the masses of what is kept finds the block, and 64 logits are read
     again to find the token in it.
3. `write.py` - for `softmax` and `mask_logits` alone, which return whole rows: 1 plane written.

All sums are of integers (`_math.py`, the contract's arithmetic), so neither tile sizes nor splits
nor the order of programs can change a token. `launch.py` allocates and launches, and holds the
table of launch parameters. To add a filter that keeps the logits from a threshold up: its threshold
belongs in `select.py`, beside min-p's; a token bitmask or penalties change what `summarize.py` and
`collect.py` read, in `widen` of `_math.py`; vocabulary shards join at the table.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

import torch

OLDEST = {"triton": (3, 4), "numba": (0, 61)}


def load(backend: str) -> Any:
    """The module with `sample`, `softmax` and `mask_logits`; imports Triton or Numba."""
    folder = {"triton": "gpu", "cpu": "cpu"}[backend]
    return importlib.import_module(f".{folder}.launch", __name__)


def unavailable(backend: str, device: torch.device) -> str | None:
    """Why "triton" or "cpu" cannot serve tensors on `device`, with the remedy; None if it can."""
    if backend == "cpu":
        return _unusable("numba", "pip install 'fused-sampler[cpu]'")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return (
            f'the logits are on device "{device.type}", and Triton kernels run on GPUs ("cuda"); '
            'move them there, or use backend="cpu", "torch" or "auto".'
        )
    return _unusable("triton", "pip install 'fused-sampler[triton]'")


@functools.cache
def _unusable(package: str, install: str) -> str | None:
    try:
        version = importlib.import_module(package).__version__
    except ImportError:
        return f'{package} is not installed; {install}, or use backend="torch".'
    oldest = OLDEST[package]
    if tuple(map(int, version.split(".")[:2])) < oldest:
        wanted = ".".join(map(str, oldest))
        return f'{package} {version} is older than {wanted}; upgrade it, or use backend="torch".'
    return None
