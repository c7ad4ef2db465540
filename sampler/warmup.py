"""Compiling ahead: what a first call would wait for."""

from __future__ import annotations

from typing import Any

import torch

from .api import mask_logits, sample, softmax
from .edits.arguments import EDITS
from .params import PARAMETERS


def warmup(
    vocab: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    batch: int = 1,
    backend: str = "auto",
    **arguments: Any,
) -> None:
    """Compile the kernels for logits `[batch, vocab]` of this dtype on this device.

    Calls `sample`, with and without `return_info`, `softmax` and `mask_logits` once, so that no
    later call waits: engines want that, and a CUDA graph cannot be captured without it. What is
    compiled is kept on disk, for other processes too.

    Args:
        vocab: V, the width of the logits. Triton's kernels depend on it, the CPU's do not.
        dtype: fp32, bf16 or fp16.
        device: where the logits will be.
        batch: rows, as many as a parameter tensor among the arguments has.
        backend: as in `sample`.
        arguments: parameters, edits, `slots`, `seed`, `step`, `num_samples` and `replacement` of
            later calls. Triton's kernels depend on which filters and edits are given, on which
            arguments are numbers and which tensors, on whether these are tables, and on whether
            several draws are without replacement; other values do not matter. The CPU's are the
            same for all but for edits: any of them.

    Raises as `sample` does.
    """
    logits = torch.zeros(batch, vocab, dtype=dtype, device=device)
    arguments["backend"] = backend
    for info in (False, True):
        sample(logits, **arguments, return_info=info)
    named = ("params", "backend", "slots", *PARAMETERS, *EDITS)
    mask_logits(logits, **{name: arguments[name] for name in named if name in arguments})
    params, slots = arguments.get("params"), arguments.get("slots")
    temperature = arguments.get("temperature") if params is None else params.temperature
    if slots is not None and isinstance(temperature, torch.Tensor) and temperature.numel() > 1:
        temperature = temperature[slots.long()]  # softmax takes no tables
    softmax(logits, temperature, backend=backend)
