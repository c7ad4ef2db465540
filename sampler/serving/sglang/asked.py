"""What a request asks for beyond SGLang's parameters, and what is refused of it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from sglang.srt.runtime_context import get_spec

from ..extras import take_extras


def extras(req: Any) -> dict[str, Any]:
    """Ours among the `custom_params` of one of SGLang's requests.

    Where they are wrong it gets none, and ends with that error after its first step.
    """
    try:
        return _checked(req.sampling_params.custom_params)
    except (TypeError, ValueError) as error:
        from sglang.srt.managers.schedule_batch import FINISH_ABORT

        req.to_finish = FINISH_ABORT(str(error), HTTPStatus.BAD_REQUEST, "BadRequestError")
        return {}


def _checked(given: Any) -> dict[str, Any]:
    ours = take_extras(given) if isinstance(given, Mapping) else {}
    if ours and get_spec().speculative_algorithm is not None:
        raise ValueError(
            f"{next(iter(ours))} does not go with speculative decoding, whose draws are SGLang's "
            "own; leave it out of custom_params."
        )
    return ours
