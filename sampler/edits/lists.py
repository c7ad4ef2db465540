"""Lists of tokens and a value of each: bias, and bans of stop ids until there are enough tokens."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from ..ids import check_ids
from .history import END


class Entries(NamedTuple):
    """A value of some of the tokens of each row."""

    ids: torch.Tensor  # int32 [B, n], ascending; END behind the last
    values: torch.Tensor  # [B, n]


def bias_entries(logit_bias: Any, logits: torch.Tensor, validate: bool) -> Entries:
    """fp32 values to be added, from `{token: bias}` or a tensor of ids and one of values."""
    if isinstance(logit_bias, Mapping):
        items = tuple(logit_bias.items())
        entries = _of_numbers(items, logits.shape[-1], logits.device)
        return Entries(*(column.expand(len(logits), -1) for column in entries))
    if not isinstance(logit_bias, tuple) or len(logit_bias) != 2:
        raise TypeError(f"logit_bias must be {{token: bias}} or (ids, values), got {logit_bias!r}.")
    ids, values = logit_bias
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        raise TypeError("logit_bias must hold a tensor of ids and one of floating-point values.")
    if values.shape != getattr(ids, "shape", None):
        raise ValueError(
            f"logit_bias has ids {list(getattr(ids, 'shape', []))} but values "
            f"{list(values.shape)}; pass a value for each id."
        )
    ids = ids_by_row("logit_bias", ids, logits, validate)
    values = (values if values.dim() == 2 else values[None]).float().to(logits.device)
    if validate:
        _check_bias(ids, values.expand(ids.shape))
    return _ordered(ids, values.expand(ids.shape))


@functools.lru_cache(maxsize=64)
def _of_numbers(items: tuple[tuple[Any, Any], ...], vocab: int, device: torch.device) -> Entries:
    """[1, n]; kept because a decoding loop asks for the same again."""
    for token, value in items:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"logit_bias of token {token!r} is {value!r}; pass a number.")
    ids = _checked("logit_bias", [token for token, _ in items], 1, vocab, validate=True)
    values = torch.tensor([[value for _, value in items]], dtype=torch.float32, device="cpu")
    _check_bias(ids, values)
    return Entries(*(column.to(device) for column in _ordered(ids, values)))


def _check_bias(ids: torch.Tensor, values: torch.Tensor) -> None:
    """Raise for a value that is none, and for an id that a row has twice."""
    wrong = ~(values < torch.inf) & (ids >= 0)
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"logit_bias of token {int(ids[row, place])} is {values[row, place]}; pass a finite "
            "number, or -inf to ban it."
        )
    ordered = ids.sort(dim=1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, place = twice.nonzero()[0].tolist()
        raise ValueError(
            f"logit_bias holds token {int(ordered[row, place])} twice in row {row}; pass one value."
        )


def ban_until(stop_ids: Any, enough: torch.Tensor, logits: torch.Tensor, validate: bool) -> Entries:
    """-inf for the stop ids in rows that have not `enough` tokens, bool [B]; else 0."""
    if stop_ids is None:
        raise ValueError("min_tokens bans stop_ids for a while; pass these ids as well.")
    ids = ids_by_row("stop_ids", stop_ids, logits, validate)
    values = torch.zeros(ids.shape, device=logits.device)
    return _ordered(ids, values.masked_fill(~enough[:, None], -torch.inf))


def _ordered(ids: torch.Tensor, values: torch.Tensor) -> Entries:
    """By id; -1 stands for none, and of equal ids the first counts."""
    ids, order = ids.masked_fill(ids < 0, END).int().sort(dim=1, stable=True)
    values = values.gather(1, order)
    again = ids[:, 1:] == ids[:, :-1]
    ids[:, 1:] = ids[:, 1:].masked_fill(again, END)
    ids, order = ids.sort(dim=1)
    return Entries(ids, values.gather(1, order))


def together(one: Entries, other: Entries) -> Entries:
    """Both lists as one; an id of both has the sum of its values."""
    ids, order = torch.cat((one.ids, other.ids), dim=1).sort(dim=1)
    values = torch.cat((one.values, other.values), dim=1).gather(1, order)
    again = ids[:, 1:] == ids[:, :-1]
    more = torch.nn.functional.pad(values[:, 1:].masked_fill(~again, 0.0), (0, 1))
    return _ordered(ids.masked_fill(ids == END, -1), values + more)


def ids_by_row(name: str, ids: Any, logits: torch.Tensor, validate: bool) -> torch.Tensor:
    """int64 [B, n], -1 for none, from a list for all rows or a tensor [n] or [B, n]."""
    batch, vocab = logits.shape
    return _checked(name, ids, batch, vocab, validate).to(logits.device).expand(batch, -1)


def _checked(name: str, ids: Any, batch: int, vocab: int, validate: bool) -> torch.Tensor:
    """int64 [1 or B, n], where they are."""
    if not isinstance(ids, torch.Tensor):
        listed = isinstance(ids, Iterable)
        if not listed or any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
            raise TypeError(f"{name} must be token ids, got {ids!r}.")
        ids = torch.tensor(list(ids), dtype=torch.int64, device="cpu")
    check_ids(name, ids, batch, vocab, validate)
    return (ids if ids.dim() == 2 else ids[None]).long()
