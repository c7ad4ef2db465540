"""Columns and tables for the draw, from what the host knows of requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ...edits.records import NUMBERS
from ...filters import Parameter
from .asked import DRY_BREAKERS, EXTRA_DRY


def upload(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A column [B] where the logits are, for which the host does not wait."""
    column = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type == "cpu":
        return column
    return column.pin_memory().to(device, non_blocking=True)


def columns_of(
    records: Iterable[Parameter], asked: Sequence[dict[str, Any]], device: torch.device
) -> dict[str, torch.Tensor]:
    """A column [B] of each parameter that one of the rows asks for; off in the others."""
    columns = {}
    for record in records:
        if any(record.name in own for own in asked):
            dtype = torch.int64 if record.kind is int else torch.float32
            values = [own.get(record.name, record.off) for own in asked]
            columns[record.name] = upload(values, dtype, device)
    return columns


def dry_columns(asked: Sequence[dict[str, Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """DRY by row, and the ids of its breakers [B, n]."""
    columns = columns_of([NUMBERS[name] for name in EXTRA_DRY], asked, device)
    if any(own.get(DRY_BREAKERS) for own in asked):
        columns[DRY_BREAKERS] = padded(own.get(DRY_BREAKERS, ()) for own in asked).to(device)
    return columns


def padded(texts: Iterable[Sequence[int]]) -> torch.Tensor:
    """int64 [n, L], -1 behind the last token of each."""
    columns = [torch.tensor(text, dtype=torch.int64) for text in texts]
    return pad_sequence(columns, batch_first=True, padding_value=-1)
