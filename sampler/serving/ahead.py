"""What an engine does before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..warmup import warmup


def compile_ahead(vocab: int, device: torch.device, *more: Mapping[str, Any]) -> None:
    """The kernels of what requests ask for most, before the first of them waits.

    And those of calls with `more` arguments, each: numbers, which become columns, and others.
    """
    row = {"temperature": 0.5, "seed": 1, "step": 0}
    sets: list[Mapping[str, Any]] = [{}, *more]
    if device.type != "cpu":  # whose kernels are the same for all filters
        sets += [{"top_k": 50}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}]
    for arguments in sets:
        columns: dict[str, Any] = {
            name: torch.tensor([value], device=device) if isinstance(value, (int, float)) else value
            for name, value in (row | dict(arguments)).items()
        }
        warmup(vocab, device=device, **columns)
