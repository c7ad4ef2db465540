"""Which part of a Hugging Face processor list the sampler does itself.

Temperature, top-k, top-p and min-p leave the list; every other processor stays and sees the same
scores as before. A warper that stands before another processor cannot wait for the draw, so a list
becomes stages: lists of kept processors and, between them, `SamplingParams` for `mask_logits`; the
trailing warpers become the parameters of the draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..api import mask_logits
from ..params import GREEDY_BELOW, SamplingParams

Stage = LogitsProcessorList | SamplingParams

_FUSED = {  # in the order in which one call applies them
    TemperatureLogitsWarper: "temperature",
    TopKLogitsWarper: "top_k",
    TopPLogitsWarper: "top_p",
    MinPLogitsWarper: "min_p",
}
_ORDER = list(_FUSED.values())


def split(processors: Iterable[LogitsProcessor]) -> tuple[list[Stage], SamplingParams]:
    """The stages to run before the draw, and the parameters of the draw.

    Neighbouring warpers share one call while they follow the order of `SamplingParams`; one out of
    order, or a second of its kind, starts the next call. Running the stages in turn is therefore
    the list itself, whatever it holds.
    """
    stages: list[Stage] = []
    open_call: dict[str, float] = {}
    for processor in processors:
        name = _fused_name(processor)
        rank = -1 if name is None else _ORDER.index(name)
        if open_call and rank <= max(map(_ORDER.index, open_call)):
            stages.append(SamplingParams(**open_call))
            open_call = {}
        if name is not None:
            open_call[name] = getattr(processor, name)
        elif stages and isinstance(stages[-1], LogitsProcessorList):
            stages[-1].append(processor)
        else:
            stages.append(LogitsProcessorList([processor]))
    return stages, SamplingParams(**open_call)


def run(stages: Iterable[Stage], input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
    """Apply `stages` to fp32 `scores` [B, V] for the tokens so far, `input_ids` [B, T]."""
    for stage in stages:
        if isinstance(stage, SamplingParams):
            scores = mask_logits(scores, **vars(stage))
        else:
            scores = stage(input_ids, scores)
    return scores


def _fused_name(processor: Any) -> str | None:
    """The parameter that stands for this warper; None when only the warper itself will do."""
    name = _FUSED.get(type(processor))  # a subclass may do anything
    if name == "temperature":
        # Below GREEDY_BELOW a draw is the argmax, which is not quite what dividing gives.
        return name if processor.temperature >= GREEDY_BELOW else None
    if name is None or processor.filter_value != -math.inf:
        return None
    # top-k has already raised its k to min_tokens_to_keep; the other two apply it afterwards.
    return name if name == "top_k" or processor.min_tokens_to_keep == 1 else None
