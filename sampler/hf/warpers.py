"""Which part of a Hugging Face processor list the sampler does itself.

Temperature and the filters leave the list; every other processor stays and sees the same
scores as before. A warper that stands before another processor cannot wait for the draw, so a list
becomes stages: lists of kept processors and, between them, `SamplingParams` for `mask_logits`; the
trailing warpers become the parameters of the draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers.generation import logits_process
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

from ..api import mask_logits
from ..filters import FILTERS
from ..params import GREEDY_BELOW, PARAMETERS, RECORDS, SETTINGS, TEMPERATURE_LAST, SamplingParams

Stage = LogitsProcessorList | SamplingParams
Edits = Callable[[Any, torch.Tensor], dict[str, Any]]
OFF = SamplingParams()  # the parameters of a draw from the scores as they are

# Class: the parameter, and the warper's attribute with its value.
_FUSED: dict[type, tuple[str, str]] = {
    logits_process.TemperatureLogitsWarper: ("temperature", "temperature")
}
_FUSED |= {
    getattr(logits_process, f.hf[0]): (f.name, f.hf[1])
    for f in FILTERS
    if f.hf is not None and hasattr(logits_process, f.hf[0])  # some are of transformers 5
}

# Numbers for which transformers makes each warper: its list then shows where a value that it cannot
# hold, one a row, is to apply.
PLACEHOLDERS = {name: 1 if RECORDS[name].kind is int else 0.5 for name, _ in _FUSED.values()}
# The parameters that transformers does not know: no warper, and no argument of its `generate`.
OWN = tuple(name for name in SETTINGS if name not in PLACEHOLDERS)


def split(
    processors: Iterable[LogitsProcessor],
    values: Mapping[str, float | torch.Tensor] | None = None,
) -> tuple[list[Stage], SamplingParams]:
    """The stages to run before the draw, and the parameters of the draw.

    `values` by name, a number or [rows], take the place of what the warpers of that name hold;
    those that have no warper are the draw's. With `temperature_last` so is the temperature.

    Neighbouring warpers share one call while they follow the order of `SamplingParams`; one out of
    order, or a second of its kind, starts the next call. Running the stages in turn is therefore
    the list itself, whatever it holds.
    """
    stages: list[Stage] = []
    open_call: dict[str, float | torch.Tensor] = {}
    left = dict(values or {})
    last: Any = left.get(TEMPERATURE_LAST.name, False)
    drawn: Any = 1.0  # the temperature that waits for the draw
    for processor in processors:
        name = fused_name(processor)
        rank = -1 if name is None else PARAMETERS.index(name)
        if open_call and rank <= max(map(PARAMETERS.index, open_call)):
            stages.append(SamplingParams(**open_call))
            open_call = {}
        if name is not None:
            open_call[name] = left.pop(name, fused_value(processor))
            if name == "temperature" and last is not False:
                open_call[name], drawn = apart(open_call[name], last)
        elif stages and isinstance(stages[-1], LogitsProcessorList):
            stages[-1].append(processor)
        else:
            stages.append(LogitsProcessorList([processor]))
    open_call |= left
    if last is not False:
        # Together where both are one call: each is 1 where the other is not.
        open_call["temperature"] = open_call.get("temperature", 1.0) * drawn
    return stages, SamplingParams(**open_call) if open_call else OFF


def apart(temperature: Any, last: bool | torch.Tensor) -> tuple[Any, Any]:
    """The temperature before the filters, and the one for the draw; 1 where it is the other."""
    if isinstance(last, bool):
        return 1.0, temperature
    value = torch.as_tensor(temperature, dtype=torch.float32, device=last.device)
    return torch.where(last, 1.0, value), torch.where(last, value, 1.0)


def run(
    stages: Iterable[Stage], input_ids: Any, scores: torch.Tensor, edits: Edits | None = None
) -> torch.Tensor:
    """Apply `stages` to fp32 `scores` [B, V] for the tokens so far, `input_ids` [B, T].

    `edits` gives those of this step, for such scores; they belong to the first `SamplingParams`.

    A row that cannot be drawn from becomes NaN, which the draw then tells: it may have ended.
    """
    for stage in stages:
        if isinstance(stage, SamplingParams):
            first = {} if edits is None else edits(input_ids, scores)
            scores, edits = mask_logits(scores, params=stage, validate=False, **first), None
        else:
            # A processor may have widened them, or narrowed them.
            scores = stage(input_ids, scores).to(torch.float32)
    return scores


def fused_name(processor: Any) -> str | None:
    """The parameter that stands for this warper; None when only the warper itself will do."""
    name, _ = _FUSED.get(type(processor), (None, None))  # a subclass may do anything
    if name == "temperature":
        # Below GREEDY_BELOW a draw is the argmax, which is not quite what dividing gives.
        return name if processor.temperature >= GREEDY_BELOW else None
    if name is None or processor.filter_value != -math.inf:
        return None
    # top-k has already raised its k to min_tokens_to_keep; the others apply it afterwards.
    return name if name == "top_k" or getattr(processor, "min_tokens_to_keep", 1) == 1 else None


def fused_value(processor: Any) -> float:
    """The value of that parameter, as a number."""
    value = getattr(processor, _FUSED[type(processor)][1])
    return value.item() if isinstance(value, torch.Tensor) else value
