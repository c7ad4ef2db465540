"""What an engine does before its first step."""

from __future__ import annotations

from typing import Any

import torch

from ...warmup import warmup


def compile_ahead(vocab: int, device: torch.device) -> None:
    """The kernels of what requests ask for most, before the first of them waits."""
    row = {"temperature": 0.5, "seed": 1, "step": 0}
    sets: list[dict[str, float]] = [{}]
    if device.type != "cpu":  # whose kernels are the same for all
        sets += [{"top_k": 50}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}]
    for filters in sets:
        columns: dict[str, Any] = {
            name: torch.tensor([value], device=device) for name, value in (row | filters).items()
        }
        warmup(vocab, device=device, **columns)
