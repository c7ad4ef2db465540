"""What the explorer's page asks for, read from JSON and checked."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..views.numbers import SEED, Number
from ..views.request import FieldError, Request
from ..views.settings import SETTINGS
from .view import SAMPLES


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
    sampling = {setting.name: _read(state, setting.name, setting.number) for setting in SETTINGS}
    request = Request(prompt, None, sampling, _read(state, "seed", SEED))
    return State(request, tuple(appended), SAMPLES if state.get("count") else 0)


def _read(state: dict[str, Any], name: str, wanted: Number) -> Any:
    try:
        return wanted.read(str(state.get(name)))
    except ValueError as error:
        raise FieldError(name, f"{name.replace('_', '-')}: {error}") from error
