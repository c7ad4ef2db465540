"""The V2 model runner's `vllm.v1.worker.gpu.sample.sampler.Sampler`.

It divides by temperature and applies min-p before it draws.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config.model import PROCESSED_LOGPROBS_MODES

from ...api import mask_logits, sample
from ...params import RECORDS
from .asked import EXTRA_FILTERS, GREEDY_BELOW, extras
from .upload import upload


def add_request(plain: Any, sampler: Any, index: int, params: Any) -> None:
    plain(index, params)
    greedy = params.temperature < GREEDY_BELOW
    kept = sampler.__dict__.setdefault("fused_filters", {})
    kept[index] = {} if greedy else {n: v for n, v in extras(params).items() if n in EXTRA_FILTERS}


def sample_batch(
    plain: Any,
    sampler: Any,
    logits: torch.Tensor,
    expanded: torch.Tensor,
    indices: Any,
    position: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    use_fused_sampler: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The place of `_sample_random`: tokens [B], and the logits that the filters left.

    With draft tokens, several positions a request, vLLM's own runs.
    """
    if len(expanded) != len(indices):
        return plain(logits, expanded, indices, position, top_k, top_p, use_fused_sampler)
    values: dict[str, Any] = {"top_k": top_k, "top_p": top_p}
    own = [sampler.__dict__.get("fused_filters", {}).get(int(i), {}) for i in indices]
    for name in EXTRA_FILTERS:
        if any(name in filters for filters in own):
            column = [filters.get(name, RECORDS[name].off) for filters in own]
            values[name] = upload(column, torch.float32, logits.device)
    states, rows = sampler.sampling_states, expanded.long()
    greedy = states.temperature.gpu[rows] == 0.0
    step = position.long() + 1 - sampler.req_states.prompt_len.gpu[rows].long()
    draw = {"seed": states.seeds.gpu[rows], "step": step.clamp(min=0), "validate": False}
    tokens = sample(logits, (~greedy).float(), **values, **draw).clamp(min=0)
    if sampler.logprobs_mode in PROCESSED_LOGPROBS_MODES or sampler.return_sampling_mask:
        logits = mask_logits(logits, **values, **draw)
    return tokens, logits
