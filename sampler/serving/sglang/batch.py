"""The rows of SGLang's batches: what each draws with that a `SamplingBatchInfo` does not tell."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sglang.srt.runtime_context import get_exec, get_parallel
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.sampling.sampling_params import TOP_K_ALL

from ...contract.draws import signed_word
from ...edits.history import History
from ...params import RECORDS
from ..columns import columns_of, upload
from ..extras import EXTRA_DRY, EXTRA_FILTERS
from ..methods import wrap
from .asked import extras

# What a request without a seed has where SGLang's inference is deterministic.
_DETERMINISTIC_SEED = 42
_REQUESTS = "fused_sampler_requests"  # our attribute of a SamplingBatchInfo
_SEED = "fused_sampler_seed"  # and of a request


@dataclass(frozen=True, eq=False)
class Request:
    """What one row draws with, beside temperature, top-k, top-p and min-p."""

    seed: int  # a signed word
    prompt: int  # tokens of the prompt
    greedy: bool
    on: frozenset[str]  # names of the filters that are on, SGLang's and ours
    filters: Mapping[str, float]  # ours
    dry: Mapping[str, Any]  # with its `history`, prompt and output; empty where DRY is off

    @property
    def top_p_first(self) -> bool:
        """In SGLang top-p sees the whole distribution where a request has top-k as well."""
        return {"top_k", "top_p"} <= self.on


@dataclass(frozen=True, eq=False)
class Requests:
    """The rows of a batch."""

    rows: tuple[Request, ...]
    _columns: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def on(self) -> frozenset[str]:
        """The filters that are on in any row."""
        return frozenset().union(*(row.on for row in self.rows))

    @functools.cached_property
    def dry(self) -> dict[int, Mapping[str, Any]]:
        """The rows that look at their text."""
        return {i: row.dry for i, row in enumerate(self.rows) if row.dry}

    def columns(self, device: torch.device) -> dict[str, torch.Tensor]:
        """A column [B] for each filter of ours that is on; `seed` and `prompt`, int64 [B].

        If there are any: `greedy`, bool [B], and `top_p_first`, the numbers of those rows.
        """
        if not self._columns:
            records = [RECORDS[name] for name in EXTRA_FILTERS]
            self._columns.update(columns_of(records, [r.filters for r in self.rows], device))
            for name in ("seed", "prompt"):
                values = [getattr(row, name) for row in self.rows]
                self._columns[name] = upload(values, torch.int64, device)
            if any(greedy := [row.greedy for row in self.rows]):
                self._columns["greedy"] = upload(greedy, torch.bool, device)
            if first := [i for i, row in enumerate(self.rows) if row.top_p_first]:
                self._columns["top_p_first"] = upload(first, torch.int64, device)
        return self._columns


def requests_of(info: Any) -> Requests | None:
    """The record of a batch, if it has one."""
    return getattr(info, _REQUESTS, None)


def _request(req: Any, vocab: int, device: torch.device) -> Request:
    """The record of one of SGLang's requests, for a part of its prompt and all that follows."""
    params, given = req.sampling_params, extras(req)
    greedy = params.top_k <= 1  # at temperature 0 as well, which SGLang has as top-k 1
    filters = {} if greedy else {n: v for n, v in given.items() if n in EXTRA_FILTERS}
    on = {
        "top_k": params.top_k < TOP_K_ALL,
        "top_p": params.top_p < 1,
        "min_p": params.min_p > 0,
        **dict.fromkeys(filters, True),
    }
    dry = {name: value for name, value in given.items() if name in EXTRA_DRY}
    if dry.get("dry_multiplier"):  # ids beyond the vocabulary stand for images and sounds
        text = [t if t < vocab else -1 for t in (*req.origin_input_ids, *req.output_ids)]
        dry["history"] = History(torch.tensor([text], dtype=torch.int64).to(device))
    else:
        dry = {}
    return Request(
        signed_word("sampling_seed", _seed(req)),
        len(req.origin_input_ids),
        greedy,
        frozenset() if greedy else frozenset(name for name in on if on[name]),
        filters,
        dry,
    )


def _seed(req: Any) -> int:
    seed = req.sampling_params.sampling_seed
    if seed is not None:
        return seed
    if get_exec().deterministic.enable_deterministic_inference:
        return _DETERMINISTIC_SEED
    if not hasattr(req, _SEED):  # it comes by again with each part of its prompt
        setattr(req, _SEED, int(torch.randint(2**63 - 1, (), generator=_fresh_seeds())))
    return getattr(req, _SEED)


@functools.cache
def _fresh_seeds() -> torch.Generator:
    """Seeds for requests without one: from `--random-seed` on, the same in all ranks of a model.

    SGLang has set PyTorch's seed to it in each of them; replicas of the model are set apart.
    """
    parallel = get_parallel()
    replica = (parallel.dp_rank or 0) + parallel.attn_dp_rank
    return torch.Generator().manual_seed(torch.initial_seed() + replica)


# The first three methods are empty in SGLang, made to be filled in.


@functools.cache
def note_requests() -> None:
    """Give each batch the records of its requests from now on."""
    wrap(SamplingBatchInfo, "adjusted_from_schedule_batch", _note)
    wrap(SamplingBatchInfo, "adjusted_filter_batch", _filter)
    wrap(SamplingBatchInfo, "adjusted_merge_batch", _merge)
    wrap(SamplingBatchInfo, "copy_for_forward", _copy)


def _note(original: Any, info: Any, batch: Any, vocab_size: int) -> None:
    original(batch, vocab_size)
    device = torch.device(info.device)
    rows = tuple(_request(req, vocab_size, device) for req in batch.reqs)
    setattr(info, _REQUESTS, Requests(rows))


def _filter(original: Any, info: Any, keep: Sequence[int], keep_device: torch.Tensor) -> None:
    original(keep, keep_device)
    rows = getattr(info, _REQUESTS).rows
    setattr(info, _REQUESTS, Requests(tuple(rows[i] for i in keep)))


def _merge(original: Any, info: Any, other: Any) -> None:
    original(other)
    rows = getattr(info, _REQUESTS).rows + getattr(other, _REQUESTS).rows
    setattr(info, _REQUESTS, Requests(rows))


def _copy(original: Any, info: Any) -> Any:
    copied = original()
    setattr(copied, _REQUESTS, getattr(info, _REQUESTS))
    return copied
