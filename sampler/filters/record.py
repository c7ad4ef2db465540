"""What there is to know of a sampling parameter and of a filter, in one record each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def log2_column(values: torch.Tensor, vocab: int) -> torch.Tensor:
    """fp32 log2(value); -inf is off."""
    return values.double().log2().float()


def share_column(values: torch.Tensor, vocab: int) -> torch.Tensor:
    """fp64 (an fp32 value, widened), at most 1, which is off."""
    return values.double().clamp(max=1.0)


@dataclass(frozen=True)
class Axis:
    """The values worth a look, which a sweep runs over and a slider offers.

    `high` is inf for the size of the vocabulary. `log`: closer together towards `low`.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Parameter:
    """A parameter's name, range and words. Everything that offers or checks it reads this."""

    name: str  # as Hugging Face spells it
    kind: type  # int or float
    low: float
    high: float  # included, like `low`
    off: float  # switches it off, as None does
    help: str  # one sentence, for command lines
    remedy: str  # what to pass instead of a value that is refused
    axis: Axis
    needs: str = ""  # a parameter without which it does nothing


@dataclass(frozen=True)
class Filter(Parameter):
    """A filter keeps the logits from a threshold up, which its rule finds (contract section 4).

    hf: Hugging Face's warper and the attribute of it that holds the value, if it has one.
    column: values in range, int64 or fp32 `[n]`, and the vocabulary's size, to what kernels read.
    keep: the textbook's rule. From the row's table, what the earlier filters kept (bool
        `[B, N * 64]`) and the column `[B, 1]`: what this filter alone would keep of that.
    """

    hf: tuple[str, str] | None = None
    column: Callable[[torch.Tensor, int], torch.Tensor] = field(kw_only=True)
    keep: Callable[[BlockTable, torch.Tensor, Any], torch.Tensor] = field(kw_only=True)
