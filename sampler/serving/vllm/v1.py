"""The V1 model runner's `vllm.v1.sample.sampler.Sampler`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from vllm.config.model import PROCESSED_LOGPROBS_MODES
from vllm.logger import init_logger
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor

from ...api import mask_logits, sample
from .asked import GREEDY_BELOW
from .batch import MIN_P_FIRST, Requests
from .min_p import min_p_first

logger = init_logger("vllm.fused_sampler")


def apply_processors(
    plain: Any, sampler: Any, logits: torch.Tensor, metadata: Any, predict_bonus_token: bool
) -> torch.Tensor:
    """The place of `Sampler.apply_logits_processors`: without penalties that the draw applies."""
    requests = _requests(metadata, logits)
    if requests is not None and requests.penalizes(metadata):
        metadata = replace(metadata, no_penalties=True)
    return plain(logits, metadata, predict_bonus_token)


def sample_batch(
    plain: Any,
    sampler: Any,
    logits: torch.Tensor,
    metadata: Any,
    logprobs_mode_override: Any = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The place of `Sampler.sample`: fp32 logits [B, V] after bias and masks; tokens [B].

    With processed log-probabilities where they are asked for. vLLM's own runs in its dummy batches,
    with speculative decoding, and for a batch that is greedy throughout and has no penalty.
    """
    requests = _requests(metadata, logits)
    if requests is None:
        return plain(logits, metadata, logprobs_mode_override)
    edits = requests.edits(metadata, logits.device)
    if metadata.all_greedy and not edits:
        return plain(logits, metadata, logprobs_mode_override)
    custom = _custom(metadata) and not metadata.all_greedy
    values: dict[str, Any] = dict(requests.filters(logits.device))
    first = values.pop(MIN_P_FIRST, None)
    if edits and (custom or first is not None):  # what comes next sees the edited logits
        logits, edits = mask_logits(logits, **edits, validate=False), {}
    values |= {"top_k": metadata.top_k, "top_p": metadata.top_p, **edits}
    values["temperature"] = torch.zeros(1) if metadata.all_greedy else metadata.temperature
    greedy = sampler.greedy_sample(logits) if custom and not metadata.all_random else None
    if custom:
        logits = _divided(sampler, logits, metadata)
        values.pop("min_p", None)
        values["temperature"] = None
    elif first is not None:
        logits = min_p_first(logits, values, first, first)
    draw: dict[str, Any] = {"step": requests.steps(logits.device), "validate": False}
    draw["seed"] = values.pop("seed")
    tokens = _mended(sampler, logits, sample(logits, **values, **draw), custom)
    if greedy is not None:
        tokens = torch.where(metadata.temperature < GREEDY_BELOW, greedy.long(), tokens)
    mode = logprobs_mode_override or sampler.logprobs_mode
    return tokens, _processed(sampler, logits, metadata, values, draw, mode)


def _requests(metadata: Any, logits: torch.Tensor) -> Requests | None:
    """Those of this batch; None where vLLM's own code is to run."""
    found = [p for p in metadata.logitsprocs.argmax_invariant if isinstance(p, Requests)]
    if found and len(found[0].rows) == len(logits):
        return found[0]
    if found:
        logger.warning_once("A batch of other rows than its requests is drawn by vLLM's own code.")
    return None


def _custom(metadata: Any) -> bool:
    """Whether there are other processors of the divided logits than min-p."""
    known = (Requests, MinPLogitsProcessor)
    return any(type(p) not in known for p in metadata.logitsprocs.argmax_invariant)


def _mended(sampler: Any, logits: torch.Tensor, tokens: torch.Tensor, custom: bool) -> torch.Tensor:
    """A row with NaN, +inf or nothing but -inf is vLLM's, which gives it a token too.

    On a GPU nobody waits to know whether there is one: where only the model can have made it, its
    token is 0.
    """
    invalid = int(tokens.min()) < 0 if tokens.device.type == "cpu" else custom
    if invalid:
        tokens = torch.where(tokens < 0, sampler.greedy_sample(logits).long(), tokens)
    return tokens.clamp(min=0)


def _divided(sampler: Any, logits: torch.Tensor, metadata: Any) -> torch.Tensor:
    """As vLLM's processors of the divided logits leave them, min-p among them."""
    logits = sampler.apply_temperature(logits, metadata.temperature, metadata.all_random)
    for processor in metadata.logitsprocs.argmax_invariant:
        logits = processor.apply(logits)
    return logits


def _processed(
    sampler: Any,
    logits: torch.Tensor,
    metadata: Any,
    values: Mapping[str, Any],
    draw: Mapping[str, Any],
    mode: str,
) -> torch.Tensor | None:
    """Log-probabilities or logits of what is left of each row, in vLLM's processed modes.

    As vLLM has it, a greedy row keeps all of its tokens at temperature 1.
    """
    asked = metadata.max_num_logprobs is not None or metadata.logprob_token_ids
    if mode not in PROCESSED_LOGPROBS_MODES or not asked:
        return None
    temperature = values["temperature"]
    if temperature is not None:
        temperature = torch.where(temperature < GREEDY_BELOW, 1.0, temperature)
    kept = mask_logits(logits, **{**values, "temperature": temperature}, **draw)
    return kept if mode == "processed_logits" else sampler.compute_logprobs(kept)
