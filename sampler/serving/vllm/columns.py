"""DRY and texts as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ...edits.records import NUMBERS
from ..columns import columns_of
from ..extras import DRY_BREAKERS, DRY_NUMBERS


def dry_columns(asked: Sequence[dict[str, Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """DRY by row, and the ids of its breakers [B, n]."""
    columns = columns_of([NUMBERS[name] for name in DRY_NUMBERS], asked, device)
    if any(own.get(DRY_BREAKERS) for own in asked):
        columns[DRY_BREAKERS] = padded(own.get(DRY_BREAKERS, ()) for own in asked).to(device)
    return columns


def padded(texts: Iterable[Sequence[int]]) -> torch.Tensor:
    """int64 [n, L], -1 behind the last token of each."""
    columns = [torch.tensor(text, dtype=torch.int64) for text in texts]
    return pad_sequence(columns, batch_first=True, padding_value=-1)
