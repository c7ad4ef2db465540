"""Sampling parameters: checked once, then one value a row."""

from __future__ import annotations

import functools
import math
import numbers
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch

from .contract.mass import LOG2_E

GREEDY_BELOW = 9.999999747378752e-06  # 1e-5 in fp32, so that every precision agrees
Parameter = float | int | torch.Tensor | None


@dataclass(frozen=True)
class SamplingParams:
    """What to draw from. Each value is a number, a `[B]` tensor (one value a row) or None (off).

    temperature: divides the logits; in [0, inf), below 1e-5 greedy; off value 1.
    top_k: keep the k largest logits and all ties of the k-th; off values 0 and k >= V.
    top_p: keep the smallest set of best tokens that holds the mass p; in [0, inf), off from 1 on.
    min_p: keep tokens at least min_p times as probable as the best; in [0, 1], off value 0.

    The filters apply in this order, each to what the earlier ones kept (contract section 4).
    """

    temperature: Parameter = 1.0
    top_k: Parameter = 0
    top_p: Parameter = 1.0
    min_p: Parameter = 0.0

    def __post_init__(self) -> None:
        for name in PARAMETERS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, torch.Tensor):
                check_number(name, value)


PARAMETERS = tuple(field.name for field in fields(SamplingParams))


class Rows(NamedTuple):
    """The parameters of a batch as the backends read them, `[B]` tensors.

    What was given as a plain number stays on the CPU, expanded from one element, so that a kernel
    can take it by value; what was given as a tensor stands beside the logits.
    """

    temperature: torch.Tensor  # fp32
    c: torch.Tensor  # fp32: log2(e) / temperature, IEEE division
    top_k: torch.Tensor  # int64 in [1, V]; V = off
    top_p: torch.Tensor  # fp64 (widened fp32) in [0, 1]; 1 = off
    min_p_log2: torch.Tensor  # fp32: log2(min_p); -inf = off

    @property
    def greedy(self) -> torch.Tensor:
        return self.temperature < GREEDY_BELOW

    def to(self, device: torch.device) -> Rows:
        """All of them beside logits on `device`; on the CPU they are there already."""
        if device.type == "cpu":
            return self
        return Rows(*(value.to(device) for value in self))

    def select(self, index: Any) -> Rows:
        """The rows that `index` names."""
        return Rows(*(value[index] for value in self))


def resolve_rows(
    logits: torch.Tensor,
    temperature: Parameter = 1.0,
    top_k: Parameter = 0,
    top_p: Parameter = 1.0,
    min_p: Parameter = 0.0,
    validate: bool = True,
) -> Rows:
    """Check the parameters and give each row of `logits` [B, V] its own.

    `validate=False` leaves the values of parameter tensors unread, so that nothing waits for the
    device; a value out of range then acts as the nearest one in range.
    """
    batch, vocab = logits.shape
    values = temperature, top_k, top_p, min_p
    if all(value is None or isinstance(value, (int, float)) for value in values):
        rows = _scalar_rows(*values, batch, vocab)  # type: ignore[arg-type]
        if type(rows.c) is not torch.Tensor:  # of a mode for fake tensors: not to be kept
            _scalar_rows.cache_clear()
        return rows
    params = SamplingParams(*values)
    for name in PARAMETERS:
        value = getattr(params, name)
        if isinstance(value, torch.Tensor):
            _check_tensor(name, value, batch, validate)
    return _build_rows(params, batch, vocab, logits.device)


@functools.lru_cache(maxsize=64, typed=True)
def _scalar_rows(
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    batch: int,
    vocab: int,
) -> Rows:
    """`Rows` of plain numbers, kept because a decoding loop asks for the same again."""
    params = SamplingParams(temperature, top_k, top_p, min_p)
    return _build_rows(params, batch, vocab, torch.device("cpu"))


def _build_rows(params: SamplingParams, batch: int, vocab: int, device: torch.device) -> Rows:
    def per_row(value: Parameter, off: float, highest: float) -> torch.Tensor:
        dtype = torch.int64 if isinstance(off, int) else torch.float32
        if not isinstance(value, torch.Tensor):
            value = min(off if value is None else value, highest)  # may be beyond the dtype
            return torch.full((1,), type(off)(value), dtype=dtype, device="cpu")
        value = value.detach().to(device=device, dtype=dtype).reshape(-1)
        return value.nan_to_num(nan=off).clamp(0, highest)  # matters to unchecked values only

    temperature = per_row(params.temperature, 1.0, _FP32_MAX)
    top_k = per_row(params.top_k, 0, vocab)
    top_p = per_row(params.top_p, 1.0, 1.0).double()
    min_p = per_row(params.min_p, 0.0, 1.0).double()
    c = torch.full_like(temperature, LOG2_E) / temperature
    top_k = top_k.masked_fill(top_k == 0, vocab)
    values = temperature, c, top_k, top_p, min_p.log2().float()
    return Rows(*(value.expand(batch) for value in values))


_RULES = {  # name: (lower bound, upper bound, what a user should do)
    "temperature": (0.0, math.inf, "use 0 for greedy decoding or a finite positive number"),
    "top_k": (0, math.inf, "use 0 to switch it off"),
    "top_p": (0.0, math.inf, "use a number from 0 to 1; 1 switches it off"),
    "min_p": (0.0, 1.0, "use a number from 0 to 1; 0 switches it off"),
}
_FP32_MAX = torch.finfo(torch.float32).max


def check_number(name: str, value: object, where: str = "") -> None:
    """Raise where a number is of the wrong kind or out of range for this parameter."""
    lower, upper, remedy = _RULES[name]
    kind = numbers.Integral if name == "top_k" else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "an integer" if name == "top_k" else "a number"
        raise TypeError(f"{name} must be {wanted}, a [B] tensor or None, got {value!r}; {remedy}.")
    finite = name in ("top_k", "top_p") or value <= _FP32_MAX  # type: ignore[operator]
    if not (lower <= value <= upper and finite):  # type: ignore[operator]
        raise ValueError(f"{name} is {value}{where}, out of range; {remedy}.")


def _check_tensor(name: str, value: torch.Tensor, batch: int, validate: bool) -> None:
    integer = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if not integer and (name == "top_k" or not value.is_floating_point()):
        wanted = "an integer" if name == "top_k" else "a floating-point"
        raise TypeError(f"{name} must be {wanted} tensor, got {value.dtype}; convert it first.")
    if value.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"{name} has shape {list(value.shape)} but logits have {batch} rows; "
            f"pass a number or a tensor of shape [{batch}]."
        )
    if validate:
        lower, upper, _ = _RULES[name]
        words = value.detach().reshape(-1).to(torch.int64 if integer else value.dtype)
        good = (words >= lower) & (words <= upper)
        if name == "temperature":
            good &= words <= _FP32_MAX
        if not good.all():
            row = int((~good).nonzero()[0])
            check_number(name, words[row].item(), where=f" in row {row}")
