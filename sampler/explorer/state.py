"""What the explorer's page asks for, read from JSON and checked."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import typer

from ..views.request import Request
from .view import SAMPLES

_FP32_MAX = torch.finfo(torch.float32).max
# Of each number: its kind, the lowest and the highest, and what is wanted.
_NUMBERS: dict[str, tuple[type, float, float, str]] = {
    "temperature": (float, 0, _FP32_MAX, "a finite number from 0 up; 0 is greedy"),
    "top_k": (int, 0, math.inf, "a whole number from 0 up; 0 switches it off"),
    "top_p": (float, 0, 1, "a number from 0 to 1; 1 switches it off"),
    "min_p": (float, 0, 1, "a number from 0 to 1; 0 switches it off"),
    "seed": (int, 0, 2**63 - 1, f"a whole number from 0 to {2**63 - 1}"),
}
# One way to spell a number, so that the page and Python agree on what is one.
_SPELLINGS = {int: r"[0-9]+", float: r"[0-9.eE+-]+"}


class FieldError(ValueError):
    """A value that cannot be used; `field` names it."""

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field


class State(NamedTuple):
    """The arguments of `Explorer.view`."""

    request: Request
    appended: tuple[int, ...]
    samples: int


def read_state(body: bytes) -> State:
    """The state that the page sent. Numbers come as they were typed. Raises `FieldError`."""
    try:
        state = json.loads(body)
    except (ValueError, RecursionError):  # bad UTF-8 and brackets without end too
        state = None
    if not isinstance(state, dict):
        raise FieldError(None, "the request is no JSON object; reload the page")
    prompt, appended = state.get("prompt"), state.get("appended", [])
    if not isinstance(prompt, str):
        raise FieldError("prompt", f"prompt is {prompt!r}; give text")
    if not isinstance(appended, list) or not all(type(token) is int for token in appended):
        raise FieldError(None, f"appended is {appended!r}; give a list of token ids")
    numbers = {name: _number(name, state.get(name)) for name in _NUMBERS}
    try:
        request = Request(prompt, None, **numbers)
    except typer.BadParameter as error:
        raise FieldError("prompt", error.message) from error  # the numbers are good
    return State(request, tuple(appended), SAMPLES if state.get("count") else 0)


def _number(name: str, given: Any) -> Any:
    kind, low, high, wanted = _NUMBERS[name]
    if re.fullmatch(_SPELLINGS[kind], str(given)):
        with suppress(ValueError):
            value = kind(str(given))
            if low <= value <= high:
                return value
    raise FieldError(name, f"{name.replace('_', '-')} is {str(given)!r}; give {wanted}")
