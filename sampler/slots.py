"""Tables instead of rows: parameters that stay where they are, and a number for each row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from .ids import check_plain


class Slots(NamedTuple):
    """Which line of the tables each row has."""

    numbers: torch.Tensor  # int32 [B], beside the logits
    size: int  # S: lines of a table


def resolve_slots(
    slots: Any, tensors: Iterable[Any], logits: torch.Tensor, validate: bool
) -> Slots:
    """Check `slots` for logits [B, V], and that the tables among `tensors` have one size.

    `validate=False` leaves the numbers unread; one out of range then acts as the nearest.
    """
    batch = len(logits)
    if not isinstance(slots, torch.Tensor) or slots.dtype not in (torch.int32, torch.int64):
        found = slots.dtype if isinstance(slots, torch.Tensor) else repr(slots)
        raise TypeError(f"slots must be an int32 tensor of line numbers, got {found}.")
    check_plain("slots", slots)
    if slots.shape != (batch,):
        raise ValueError(
            f"slots have shape {list(slots.shape)} but logits have {batch} rows; pass [{batch}]."
        )
    tables = (value for value in tensors if isinstance(value, torch.Tensor))
    sizes = sorted({table.numel() for table in tables} - {1})
    if len(sizes) > 1:
        raise ValueError(
            f"slots number the lines of tables, but these have {sizes[0]} and {sizes[1]} lines; "
            "pass tables of one size, or numbers."
        )
    size = sizes[0] if sizes else 1
    if batch and size == 0:
        raise ValueError("slots number the lines of tables, but one has no line; pass some values.")
    slots = slots.detach().to(logits.device)
    if not validate:
        slots = slots.clamp(0, size - 1)
    elif sizes and batch and not 0 <= int(slots.min()) <= int(slots.max()) < size:
        row = int(((slots < 0) | (slots >= size)).nonzero()[0])
        raise ValueError(
            f"slots is {int(slots[row])} in row {row}, but the tables have {size} lines; number "
            "them from 0."
        )
    return Slots((slots if sizes else torch.zeros_like(slots)).int().contiguous(), size)
