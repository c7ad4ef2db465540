"""Numbers as users type them, on the command line or into the explorer's page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from ..filters import Parameter
from .parameters import LOGIT_BIAS
from .request import FieldError, check_field

# One way to spell a number, so that a page in a browser and Python agree on what is one.
_SPELLINGS = {int: r"-?[0-9]+", float: r"[0-9.eE+-]+", bool: "[01]"}
_LARGEST = torch.finfo(torch.float32).max
_KINDS = {int: "whole number", float: "number", bool: "0 or 1"}


class Number(NamedTuple):
    """A whole number from `low` to `high`."""

    low: int
    high: float = math.inf

    def read(self, text: str) -> int:
        """The number that `text` spells. Raises ValueError, which says what is wanted."""
        value = _spelled(int, text)
        if value is None or not self.low <= value <= self.high:
            high = "up" if self.high == math.inf else f"to {self.high}"
            raise ValueError(f"{text!r} is not a whole number from {self.low} {high}")
        return value


SEED = Number(0, 2**63 - 1)


def read_parameter(record: Parameter, text: str) -> Any:
    """The value of a sampling parameter. Raises `FieldError`, in the library's words."""
    value = _spelled(record.kind, text)
    if value is None:
        message = f"{record.name} is {text!r}, no {_KINDS[record.kind]}; {record.remedy}."
        raise FieldError(record.name, message)
    check_field(record.name, value)
    return value


def read_bias(text: str) -> dict[int, float]:
    """The biases that `ID=VALUE, ...` spells, none of them where it is empty.

    Raises `FieldError`, which says which is wrong.
    """
    biases: dict[int, float] = {}
    for entry in text.split(",") if text.strip() else ():
        token, value = _bias(entry.strip())
        if token in biases:
            raise FieldError(LOGIT_BIAS, f"logit_bias holds token {token} twice; give one value.")
        biases[token] = value
    return biases


def _bias(entry: str) -> tuple[int, float]:
    token, _, value = (part.strip() for part in entry.partition("="))
    number = -math.inf if value == "-inf" else _spelled(float, value)
    if number is None or number > _LARGEST or not re.fullmatch("[0-9]{1,9}", token):
        message = f"logit_bias is {entry!r}; give ID=VALUE, such as 42=-1.5, or 42=-inf to ban it."
        raise FieldError(LOGIT_BIAS, message)
    return int(token), number


def write_bias(biases: Mapping[int, float]) -> str:
    """As `read_bias` reads it."""
    return ", ".join(f"{token}={value:g}" for token, value in biases.items())


def _spelled(kind: type, text: str) -> Any:
    """The finite number that `text` spells, None where it spells none."""
    if re.fullmatch(_SPELLINGS[kind], text):
        with suppress(ValueError):  # "1e", or more digits than Python reads
            value = kind(int(text) if kind is bool else text)
            return None if value in (math.inf, -math.inf) else value
    return None


def label(name: str) -> str:
    """A parameter's name as options and figures spell it."""
    return name.replace("_", "-")
