"""SGLang's Sampler with our draw."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import torch
from sglang.srt.layers import sampler as plain
from sglang.srt.runtime_context import get_exec

from ...api import mask_logits, sample
from ...params import RECORDS
from ..extras import EXTRA_FILTERS, OF_ENGINES
from .batch import Requests, requests_of

logger = logging.getLogger("sglang.fused_sampler")

# Filters that come before top-k, with top-p before it or behind.
_BEFORE_TOP_K = ("top_n_sigma", "top_h")


class FusedSampler(plain.Sampler):
    """Greedy batches, and what has no record of its requests, are SGLang's own."""

    def forward(
        self,
        logits_output: Any,
        sampling_info: Any,
        return_logprob: bool,
        top_logprobs_nums: list[int],
        token_ids_logprobs: list[list[int]],
        positions: torch.Tensor,
        **others: Any,
    ) -> torch.Tensor:
        """Tokens int64 [B] of logits [B, V] after penalties, grammar and bias.

        Log-probabilities and sampling masks go to `logits_output`, as SGLang has it.
        """
        info, logits = sampling_info, logits_output.next_token_logits
        requests = requests_of(info)
        if requests is not None and len(requests.rows) != len(logits):
            requests = None
        if requests is not None:
            _apply_dry(logits, requests)
        asked = return_logprob, top_logprobs_nums, token_ids_logprobs
        if info.is_all_greedy:
            tokens = super().forward(logits_output, info, *asked, positions, **others)
        elif requests is None or others or self.rl_on_policy_target is not None:
            _say_it_is_not_ours()
            with get_exec().kernel.override(sampling_backend="pytorch"):
                tokens = super().forward(logits_output, info, *asked, positions, **others)
        else:
            tokens = self._draw(logits_output, info, *asked, positions, requests)
        if requests is not None:
            for row, dry in requests.dry.items():
                dry["history"].append(tokens[row : row + 1])
        return tokens

    def _draw(
        self,
        logits_output: Any,
        info: Any,
        return_logprob: bool,
        top_logprobs_nums: list[int],
        token_ids_logprobs: list[list[int]],
        positions: torch.Tensor,
        requests: Requests,
    ) -> torch.Tensor:
        logits = self._preprocess_logits(logits_output.next_token_logits, info)
        if return_logprob:
            original = plain.SGLANG_RETURN_ORIGINAL_LOGPROB
            scaled = logits if original else logits / info.temperatures
            logprobs = torch.log_softmax(scaled, dim=-1)
        values, draw = _arguments(logits, info, requests, positions)
        tokens = sample(logits, **values, **draw).clamp(min=0)  # -1: a row of NaN, or of -inf alone
        if return_logprob:
            self.output_logprob_processor.compute_logprobs(
                logprobs, top_logprobs_nums, token_ids_logprobs, tokens
            ).write_output_to(logits_output)
        self._sync_token_ids_across_tp(tokens, info)
        if info.sampling_mask_batch_indices is not None:
            logits_output.sampling_mask_output = self._kept(logits, info, values, draw, tokens)
        return tokens

    def _kept(
        self,
        logits: torch.Tensor,
        info: Any,
        values: Mapping[str, Any],
        draw: Mapping[str, Any],
        tokens: torch.Tensor,
    ) -> Any:
        """What the filters kept in the rows that ask for it, in SGLang's form."""
        rows = info.sampling_mask_batch_indices
        own = {name: column[rows] for name, column in values.items()}
        seeds = {name: draw[name][rows] for name in ("seed", "step")}
        kept = mask_logits(logits[rows], **own, **seeds, validate=False)
        capture = plain._SamplingMaskCapture(
            weights=kept.softmax(dim=-1), token_ids=None, selected_weight=None, batch_rows=rows
        )
        return self._build_sampling_mask_output(
            tokens, capture, info.sampling_support_logprobs_capture_indices
        )


@functools.cache
def _say_it_is_not_ours() -> None:
    logger.warning("Batches that the fused sampler does not know are drawn by SGLang's own code.")


def _apply_dry(logits: torch.Tensor, requests: Requests) -> None:
    """DRY after all of SGLang's penalties, on the rows that ask for it, greedy ones too."""
    for row, dry in requests.dry.items():
        own = logits[row : row + 1]
        own.copy_(mask_logits(own, **dry, validate=False))


def _arguments(
    logits: torch.Tensor, info: Any, requests: Requests, positions: torch.Tensor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Temperature and filters by row, and what the draw has beside them."""
    columns = requests.columns(logits.device)
    values: dict[str, Any] = {
        name: getattr(info, f"{name}s") for name in OF_ENGINES if name in requests.on
    }
    values |= {name: columns[name] for name in EXTRA_FILTERS if name in columns}
    values["temperature"] = info.temperatures.view(-1)
    if "greedy" in columns:
        values["temperature"] = values["temperature"].masked_fill(columns["greedy"], 0.0)
    # A position is that of the last token so far, from 0 on.
    step = (positions.long() + 1 - columns["prompt"]).clamp(min=0)
    draw = {"seed": columns["seed"], "step": step, "validate": False}
    if "top_p_first" in columns:
        _top_p_first(logits, values, columns["top_p_first"])
    return values, draw


def _top_p_first(logits: torch.Tensor, values: dict[str, Any], rows: torch.Tensor) -> None:
    """Let top-p see the whole distribution of these rows, not what top-k leaves of it.

    What it keeps are the best n tokens, ties together, and so is what top-k n keeps. Likewise for
    the filters that come before top-k in either order.
    """
    head = [name for name in (*_BEFORE_TOP_K, "top_p") if name in values]
    own = {name: values[name][rows] for name in ("temperature", *head)}
    seen = logits if len(rows) == len(logits) else logits[rows]
    info: Any = sample(seen, **own, seed=0, return_info=True, validate=False)
    top_k = values["top_k"]
    least = torch.minimum(top_k[rows], info.kept.clamp(min=1).to(top_k.dtype))
    values["top_k"] = top_k.index_copy(0, rows, least)
    for name in head:
        values[name] = values[name].index_fill(0, rows, RECORDS[name].off)
