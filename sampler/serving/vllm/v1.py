"""The V1 model runner's `vllm.v1.sample.sampler.Sampler`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.config.model import PROCESSED_LOGPROBS_MODES
from vllm.logger import init_logger
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor

from ...api import mask_logits, sample
from ...params import RECORDS
from .asked import GREEDY_BELOW
from .batch import MIN_P_FIRST, Requests

logger = init_logger("vllm.fused_sampler")

# Filters that come before top-k and top-p; vLLM has min-p before them, too.
_BEFORE = ("top_n_sigma", "top_h", "min_p")


def sample_batch(
    plain: Any,
    sampler: Any,
    logits: torch.Tensor,
    metadata: Any,
    logprobs_mode_override: Any = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The place of `Sampler.sample`: fp32 logits [B, V] after bias, penalties, masks; tokens [B].

    With processed log-probabilities where they are asked for. vLLM's own runs in its dummy batches,
    with speculative decoding, and for a batch that is greedy throughout.
    """
    found = [p for p in metadata.logitsprocs.argmax_invariant if isinstance(p, Requests)]
    if not found:
        return plain(logits, metadata, logprobs_mode_override)
    if len(found[0].rows) != len(logits):
        logger.warning_once("A batch of other rows than its requests is drawn by vLLM's own code.")
        return plain(logits, metadata, logprobs_mode_override)
    requests = found[0]
    _apply_dry(logits, requests)
    if metadata.all_greedy:
        return plain(logits, metadata, logprobs_mode_override)
    custom = _custom(metadata)
    greedy = sampler.greedy_sample(logits) if custom and not metadata.all_random else None
    logits, values = _prepare(sampler, logits, metadata, requests, custom)
    seed = values.pop("seed")
    draw = {"seed": seed, "step": requests.steps(logits.device), "validate": False}
    tokens = _mended(sampler, logits, sample(logits, **values, **draw), custom)
    if greedy is not None:
        tokens = torch.where(metadata.temperature < GREEDY_BELOW, greedy.long(), tokens)
    mode = logprobs_mode_override or sampler.logprobs_mode
    return tokens, _processed(sampler, logits, metadata, values, draw, mode)


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


def _apply_dry(logits: torch.Tensor, requests: Requests) -> None:
    """DRY after all of vLLM's penalties, on the rows that ask for it, greedy ones too."""
    for row, request in requests.rows.items():
        if request.dry:
            history = request.tokens(logits.device)
            own = logits[row : row + 1]
            own.copy_(mask_logits(own, **request.dry, history=history, validate=False))


def _prepare(
    sampler: Any, logits: torch.Tensor, metadata: Any, requests: Requests, custom: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The logits to draw from, and the parameters of the draw by row, seeds among them."""
    values: dict[str, Any] = dict(requests.filters(logits.device))
    values |= {"top_k": metadata.top_k, "top_p": metadata.top_p}
    values["temperature"] = metadata.temperature
    first = values.pop(MIN_P_FIRST, None)
    if custom:  # they see the divided logits, and min-p where vLLM has it
        logits = sampler.apply_temperature(logits, metadata.temperature, metadata.all_random)
        for processor in metadata.logitsprocs.argmax_invariant:
            logits = processor.apply(logits)
        values.pop("min_p", None)
        values["temperature"] = None
        return logits, values
    if first is not None:
        _min_p_first(logits, values, first)
    return logits, values


def _min_p_first(logits: torch.Tensor, values: dict[str, Any], rows: torch.Tensor) -> None:
    """Where a row has both, vLLM lets top-p see what min-p left; ours is the other way round.

    Those rows are filtered by min-p in a call of its own, together with what comes before top-k.
    """
    head = {name: values[name] for name in ("temperature", *_BEFORE) if name in values}
    own = {name: column[rows] for name, column in head.items()}
    logits[rows] = mask_logits(logits[rows], **own, validate=False)
    for name, column in head.items():
        values[name] = column.index_fill(0, rows, RECORDS[name].off)


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
