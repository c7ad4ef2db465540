"""The V2 model runner's `vllm.v1.worker.gpu.sample.sampler.Sampler`.

Its parameters are tables with a line for each request, which `sample` reads where they are: nothing
is gathered, and the logits are read as the model gave them where no processor of vLLM's has to run.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from vllm.config.model import PROCESSED_LOGPROBS_MODES

from ...api import mask_logits, sample
from ...params import RECORDS
from ..columns import columns_of, upload
from ..extras import EXTRA_FILTERS
from .asked import filters_and_dry
from .columns import dry_columns
from .min_p import min_p_first


class Lines:
    """What vLLM's tables do not tell of a request, by its line in them."""

    def __init__(self, size: int):
        self.filters: list[dict[str, float]] = [{} for _ in range(size)]
        self.dry: list[dict[str, Any]] = [{} for _ in range(size)]
        self.processed = np.zeros(size, dtype=bool)  # whether a processor of vLLM's has to run
        self.tables: dict[str, torch.Tensor] = {}  # of the filters, until a request comes

    def of_filters(self, lines: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        """The tables of those that are on in these lines."""
        on = {name for line in lines for name in self.filters[line]}
        if on - self.tables.keys():
            self.tables = columns_of([RECORDS[n] for n in EXTRA_FILTERS], self.filters, device)
        return {name: self.tables[name] for name in EXTRA_FILTERS if name in on}


class _NoStates:
    """In the place of the states of sampling, where vLLM's other processors run alone."""

    def add_request(self, *_: Any) -> bool:
        return False

    def apply_temperature(self, *_: Any) -> None:
        pass

    def apply_min_p(self, *_: Any) -> None:
        pass


def _lines(sampler: Any) -> Lines:
    if not hasattr(sampler, "fused_lines"):
        sampler.fused_lines = Lines(len(sampler.needs_logits_processing))
    return sampler.fused_lines


def add_request(plain: Any, sampler: Any, index: int, params: Any) -> None:
    """The place of `Sampler.add_request`, which notes what is asked for in this line."""
    lines, states, needs = _lines(sampler), sampler.sampling_states, sampler.needs_logits_processing
    sampler.sampling_states = _NoStates()
    try:
        plain(index, params)
    finally:
        sampler.sampling_states = states
    lines.processed[index] = needs[index]
    needs[index] |= states.add_request(index, params)
    lines.filters[index], lines.dry[index] = filters_and_dry(params)
    lines.tables = {}


def sample_batch(
    plain: Any,
    sampler: Any,
    logits: torch.Tensor,
    slots: torch.Tensor,
    requests: torch.Tensor,
    lines: np.ndarray,
    *others: Any,
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The place of `Sampler.sample`: tokens [B], and the logits for the processed modes.

    `slots` is the line of each row, `requests` and `lines` those of each request. With draft
    tokens, several rows a request, vLLM's own runs.
    """
    if len(slots) != len(lines):
        return plain(logits, slots, requests, lines, *others, **more)
    known, states, texts = _lines(sampler), sampler.sampling_states, sampler.req_states
    alone = copy.copy(sampler)
    alone.sampling_states, alone.needs_logits_processing = _NoStates(), known.processed
    of_vllm = (logits, slots, requests, lines, *others[:4])
    logits = alone.apply_sampling_params(*of_vllm, skip_top_k_top_p=True)
    logits = _dry(logits, known, lines, texts)
    values = _tables(states, lines) | known.of_filters(lines, logits.device)
    both = (states.min_p.np[lines] != 0) & (states.top_p.np[lines] < 1)
    if both.any():
        rows, own = (
            upload(numbers.tolist(), torch.int64, logits.device)
            for numbers in (np.flatnonzero(both), lines[both])
        )
        logits = min_p_first(logits, values, rows, own)
    step = texts.total_len.gpu - texts.prompt_len.gpu  # tokens generated
    draw = {"slots": slots, "seed": states.seeds.gpu, "step": step, "validate": False}
    tokens = sample(logits, **values, **draw).clamp(min=0)
    if sampler.logprobs_mode in PROCESSED_LOGPROBS_MODES or sampler.return_sampling_mask:
        temperature = values["temperature"]  # greedy rows stay whole, as vLLM has it
        values["temperature"] = torch.where(temperature == 0, 1.0, temperature)
        logits = mask_logits(logits, **values, **draw)
    return tokens, logits


def _tables(states: Any, lines: np.ndarray) -> dict[str, Any]:
    """vLLM's own, of what is on in these lines."""
    off = {"top_k": states.vocab_size, "top_p": 1.0, "min_p": 0.0}
    on = [name for name, value in off.items() if (getattr(states, name).np[lines] != value).any()]
    return {name: getattr(states, name).gpu for name in ("temperature", *on)}


def _dry(logits: torch.Tensor, known: Lines, lines: np.ndarray, texts: Any) -> torch.Tensor:
    """With DRY on the rows that ask for it; vLLM keeps their tokens, which are sorted each step."""
    found = [row for row, line in enumerate(lines) if known.dry[line]]
    if not found:
        return logits
    rows = upload(found, torch.int64, logits.device)
    own = upload(lines[found].tolist(), torch.int64, logits.device)
    lengths = texts.total_len.gpu[own]
    tokens = texts.all_token_ids.gpu[own, : int(lengths.max())]
    places = torch.arange(tokens.shape[1], device=logits.device)
    tokens = tokens.masked_fill(places >= lengths[:, None], -1)
    columns: dict[str, Any] = dry_columns([known.dry[line] for line in lines[found]], logits.device)
    edited = mask_logits(logits[rows], **columns, prompt_ids=tokens, validate=False)
    return logits.float().index_copy(0, rows, edited)
