"""What the explorer's page asks for, read from JSON and checked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

from ..views.numbers import SEED, read_bias, read_parameter
from ..views.parameters import EDITS, LOGIT_BIAS, OFFERED
from ..views.request import FieldError, Request
from .view import SAMPLES


class State(NamedTuple):
    """The arguments of `Explorer.view`."""

    request: Request
    appended: tuple[int, ...]
    samples: int


def read_state(body: bytes, first: Request) -> State:
    """The state that the page sent; what it has no input for is as in its `first` request.

    Numbers come as they were typed. Raises `FieldError`.
    """
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
    sampling = {r.name: read_parameter(r, str(state.get(r.name))) for r in OFFERED}
    edits: dict[str, Any] = {r.name: read_parameter(r, str(state.get(r.name))) for r in EDITS}
    edits[LOGIT_BIAS] = read_bias(str(state.get(LOGIT_BIAS)))
    try:
        seed = SEED.read(str(state.get("seed")))
    except ValueError as error:
        raise FieldError("seed", f"seed: {error}") from error
    request = replace(first, prompt=prompt, sampling=sampling, edits=edits, seed=seed)
    return State(request, tuple(appended), SAMPLES if state.get("count") else 0)
