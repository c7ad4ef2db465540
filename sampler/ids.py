"""Tensors and token ids that are given: the errors that name what is wrong with them."""

from __future__ import annotations

from typing import Any

import torch


def check_plain(name: str, values: torch.Tensor) -> None:
    """Raise TypeError for a tensor that holds no values, or not one after another."""
    if values.layout is not torch.strided:
        raise TypeError(f"{name} has layout {values.layout}; pass {name}.to_dense().")
    if values.is_meta:
        raise TypeError(f'{name} is on device "meta", which holds no values; pass one that does.')


def check_kind_of_ids(name: str, ids: Any) -> None:
    """Raise TypeError where this is no tensor of integers."""
    if not isinstance(ids, torch.Tensor) or ids.dtype not in (torch.int64, torch.int32):
        found = ids.dtype if isinstance(ids, torch.Tensor) else repr(ids)
        raise TypeError(f"{name} must be an int64 or int32 tensor of token ids, got {found}.")
    check_plain(name, ids)


def check_ids(name: str, ids: Any, batch: int, vocab: int, validate: bool = True) -> None:
    """Raise where these are no token ids, `[n]` for every row or `[B, n]`; -1 stands for none.

    `validate=False` does not look at the values.
    """
    check_kind_of_ids(name, ids)
    if ids.dim() not in (1, 2) or (ids.dim() == 2 and len(ids) not in (1, batch)):
        raise ValueError(
            f"{name} has shape {list(ids.shape)} but logits have {batch} rows; pass [n] for all of "
            f"them or [{batch}, n]."
        )
    if validate:
        check_range_of_ids(name, ids, vocab)


def check_range_of_ids(name: str, ids: torch.Tensor, vocab: int) -> None:
    """Raise where an id `[n]` or `[B, n]` is none of the vocabulary."""
    wrong = (ids < -1) | (ids >= vocab)
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        where = f" in row {place[0]}" if ids.dim() == 2 else ""
        raise ValueError(
            f"{name} holds {int(ids[tuple(place)])}{where}; token ids go from 0 to "
            f"{vocab - 1}, and -1 stands for none."
        )
