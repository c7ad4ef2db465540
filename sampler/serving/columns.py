"""Columns and tables for the draw, from what the host knows of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..filters import Parameter


def upload(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A column [B] where the logits are, for which the host does not wait."""
    column = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type == "cpu":
        return column
    return column.pin_memory().to(device, non_blocking=True)


def columns_of(
    records: Iterable[Parameter], asked: Sequence[Mapping[str, Any]], device: torch.device
) -> dict[str, torch.Tensor]:
    """A column [B] of each parameter that one of the rows asks for; off in the others."""
    columns = {}
    for record in records:
        if any(record.name in own for own in asked):
            dtype = torch.int64 if record.kind is int else torch.float32
            values = [own.get(record.name, record.off) for own in asked]
            columns[record.name] = upload(values, dtype, device)
    return columns
