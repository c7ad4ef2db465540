"""What a request asks for beyond vLLM's parameters, and what is refused of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.exceptions import VLLMValidationError

from ...edits.records import NUMBERS
from ...filters import FILTERS
from ...params import XTC_PROBABILITY, check_number

GREEDY_BELOW = 1e-5  # vLLM's, and ours
_OF_VLLM = ("top_k", "top_p", "min_p")
EXTRA_FILTERS = (*(f.name for f in FILTERS if f.name not in _OF_VLLM), XTC_PROBABILITY.name)
EXTRA_DRY = tuple(name for name in NUMBERS if name.startswith("dry_"))
DRY_BREAKERS = "dry_breakers"
# What vLLM lacks: keys of the `extra_args` of its SamplingParams.
EXTRAS = (*EXTRA_FILTERS, *EXTRA_DRY, DRY_BREAKERS)


def extras(params: Any) -> dict[str, Any]:
    """Those of ours among the `extra_args` of vLLM's SamplingParams, checked.

    Raises TypeError or ValueError. Other keys are other plugins'.
    """
    given = {n: v for n, v in (params.extra_args or {}).items() if n in EXTRAS and v is not None}
    for name, value in given.items():
        if name == DRY_BREAKERS:
            _check_breakers(value)
        else:
            check_number(name, value)
    return given


def _check_breakers(ids: Any) -> None:
    good = isinstance(ids, Sequence) and not isinstance(ids, str)
    if not good or not all(type(token) is int and token >= 0 for token in ids):
        raise TypeError(f"{DRY_BREAKERS} must be a list of token ids, got {ids!r}.")


def check_request(params: Any, config: Any) -> None:
    """Raise vLLM's error where `extra_args` are wrong, or ask for what this engine cannot do."""
    try:
        given = extras(params) if hasattr(params, "extra_args") else {}
    except (TypeError, ValueError) as error:
        raise VLLMValidationError(str(error)) from error
    if given and config.speculative_config is not None:
        raise VLLMValidationError(
            f"{next(iter(given))} does not go with speculative decoding, whose draws are vLLM's "
            "own; leave it out of extra_args."
        )
    dry = [name for name in given if name.startswith("dry_")]
    if dry and config.use_v2_model_runner:
        raise VLLMValidationError(
            f"{dry[0]} needs vLLM's V1 model runner; start it with VLLM_USE_V2_MODEL_RUNNER=0."
        )
