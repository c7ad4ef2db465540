"""The rows of vLLM's batch: what each draws with, beside what vLLM's metadata tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.v1.sample import logits_processor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from ...contract.draws import signed_word
from ...edits.history import History
from ...params import RECORDS
from .ahead import compile_ahead
from .asked import EXTRA_FILTERS, GREEDY_BELOW, extras

MIN_P_FIRST = "min_p_first"


@dataclass
class Request:
    """What one row of vLLM's batch draws with, beside temperature, top-k and top-p."""

    seed: int  # a signed word
    filters: dict[str, float]  # min_p and those of `extra_args`, where they are on
    dry: dict[str, Any]
    prompt: Sequence[int]
    output: Sequence[int]  # vLLM's own list, which grows
    min_p_first: bool = False  # it has top-p too, which in vLLM sees what min-p left
    history: History | None = field(default=None, repr=False)
    noted: int = 0  # tokens of the output that the history has

    def tokens(self, device: torch.device) -> History:
        """Prompt and output so far."""
        if self.history is None:
            self.history = History(torch.tensor([list(self.prompt)], dtype=torch.int64).to(device))
        for token in self.output[self.noted :]:
            if token < 0:  # a place that vLLM has not filled yet
                raise RuntimeError("vLLM gave no token where DRY needs one; report this version.")
            self.history.append(torch.tensor([token]))
        self.noted = len(self.output)
        return self.history


class Requests(logits_processor.LogitsProcessor):
    """The rows of vLLM's batch. As a logits processor it is told of every change, and changes none.

    A request without a seed gets one from a generator of the engine's: as in plain vLLM it repeats
    when the engine starts anew with the same seed, and all ranks of a model draw the same.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        self.rows: dict[int, Request] = {}
        self.columns: dict[str, torch.Tensor] = {}
        replica = getattr(vllm_config.parallel_config, "data_parallel_rank", 0)
        self.fresh = torch.Generator().manual_seed((vllm_config.model_config.seed or 0) + replica)
        compile_ahead(vllm_config.model_config.get_vocab_size(), torch.device(device))

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def update_state(self, batch_update: Any) -> None:
        if process_dict_updates(self.rows, batch_update, self._request) or batch_update:
            self.columns.clear()

    def needs_tokens(self) -> bool:
        """Whether a request looks at its output, which vLLM then waits for."""
        return any(row.dry for row in self.rows.values())

    def _request(self, params: Any, prompt: Sequence[int] | None, output: Sequence[int]) -> Request:
        seed = params.seed
        if seed is None:
            seed = int(torch.randint(2**63 - 1, (), generator=self.fresh))
        given = extras(params)
        dry = {name: value for name, value in given.items() if name.startswith("dry_")}
        filters = {name: value for name, value in given.items() if name in EXTRA_FILTERS}
        if params.min_p:
            filters["min_p"] = params.min_p
        if params.temperature < GREEDY_BELOW:  # greedy: vLLM's filters are off, and so are ours
            filters = {}
        return Request(
            signed_word("seed", seed),
            filters,
            dry if dry.get("dry_multiplier") else {},
            () if prompt is None else prompt,
            output,
            "min_p" in filters and params.top_p < 1,
        )

    def filters(self, device: torch.device) -> dict[str, torch.Tensor]:
        """A column [B] for each filter that is on in a row, and the seeds.

        And which rows, int64 [n], are to see min-p first, if any are.
        """
        if not self.columns:
            ordered = [self.rows[i] for i in range(len(self.rows))]
            named = [n for n in (*EXTRA_FILTERS, "min_p") if any(n in r.filters for r in ordered)]
            for name in named:
                record = RECORDS[name]
                values = [row.filters.get(name, record.off) for row in ordered]
                dtype = torch.int64 if record.kind is int else torch.float32
                self.columns[name] = upload(values, dtype, device)
            self.columns["seed"] = upload([r.seed for r in ordered], torch.int64, device)
            if first := [i for i, row in enumerate(ordered) if row.min_p_first]:
                self.columns[MIN_P_FIRST] = upload(first, torch.int64, device)
        return self.columns

    def steps(self, device: torch.device) -> torch.Tensor:
        """How many tokens each row has generated, int64 [B]."""
        counts = [len(self.rows[i].output) for i in range(len(self.rows))]
        return upload(counts, torch.int64, device)


def upload(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    column = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type == "cpu":
        return column
    return column.pin_memory().to(device, non_blocking=True)


def asks_for_tokens(batch_of_vllm: type) -> None:
    """vLLM fills in sampled tokens late; it waits for them where a flag of the batch says so."""
    name = "logitsprocs_need_output_token_ids"

    def asked(batch: Any) -> bool:
        found = (p for p in batch.logitsprocs.all if isinstance(p, Requests))
        return batch.__dict__[name] or any(p.needs_tokens() for p in found)

    def keep(batch: Any, value: bool) -> None:
        batch.__dict__[name] = value

    setattr(batch_of_vllm, name, property(asked, keep))
