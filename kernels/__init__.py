"""Kernels: from logits to token in the same named steps, for GPUs by Triton, for CPUs by Numba.

1. summarize - one read of the logits writes a table: the maximum of each block of 64 ids and, where
   the row's whole mass matters, the sum of the block's integer weights.
2. select - the threshold of the filters, exactly, for a row that has one that is on:
   bracket  the table says between which values it lies;
   collect  the blocks that reach the lower one are read again, and what lies between is listed;
   refine   a smaller bracket, where that is more than the list holds;
   search   the largest listed value at which a measure, count or mass, reaches what is needed;
   settle   the sums in the table become those of what is kept.
3. draw - prefix sums of the kept masses find the block, and those of its 64 tokens the token.
4. write - for `softmax` and `mask_logits` alone, which return whole rows.

`gpu/launch.py` and `cpu/launch.py` take tensors, allocate and launch; each is a `Backend` of
`fused_sampler.dispatch`. Steps 2 and 3 are one launch on a GPU, before which many programs a row do
the first part of step 2 where it may be long (`gpu/rounds.py`). On a CPU one compiled function,
`cpu/rows.py`, takes a row through all steps; draws from rows without filters are told by near
masses there (`cpu/near.py`), unless their error could change one.

Masks, bias and penalties (`edit.py`) change what these steps read: on a GPU logits as they are
loaded, on a CPU a row in scratch memory.

All sums are of integers (`arithmetic.py`), so neither tile sizes nor splits nor the order of
programs or threads can change a token. Vocabulary shards would join at the table.
"""

from __future__ import annotations

import functools
import importlib
import os

import torch

OLDEST = {"triton": (3, 4), "numba": (0, 61)}


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
