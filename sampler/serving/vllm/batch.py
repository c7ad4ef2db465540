"""The rows of vLLM's batch: what each draws with, beside what vLLM's metadata tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample import logits_processor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from ...params import RECORDS
from ..columns import columns_of, upload
from ..extras import EXTRA_FILTERS
from .ahead import prepare
from .asked import PENALTIES, Request, request
from .columns import dry_columns
from .tokens import TokensSoFar

MIN_P_FIRST = "min_p_first"


class Requests(logits_processor.LogitsProcessor):
    """The rows of vLLM's batch. As a logits processor it is told of every change, and changes none.

    A request without a seed gets one from a generator of the engine's: as in plain vLLM it repeats
    when the engine starts anew with the same seed, and all ranks of a model draw the same.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        self.rows: dict[int, Request] = {}
        self.columns: dict[str, torch.Tensor] = {}  # until the batch changes
        self.dry: dict[str, torch.Tensor] = {}
        self.tokens = TokensSoFar()
        replica = getattr(vllm_config.parallel_config, "data_parallel_rank", 0)
        self.fresh = torch.Generator().manual_seed((vllm_config.model_config.seed or 0) + replica)
        prepare(vllm_config.model_config.get_vocab_size(), torch.device(device))

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def update_state(self, batch_update: Any) -> None:
        if process_dict_updates(self.rows, batch_update, self._request) or batch_update:
            self.columns, self.dry = {}, {}

    def needs_tokens(self) -> bool:
        """Whether a request looks at its output, which vLLM then waits for."""
        return any(row.looks for row in self.rows.values())

    def _request(self, params: Any, prompt: Sequence[int] | None, output: Sequence[int]) -> Request:
        seed = params.seed
        if seed is None:
            seed = int(torch.randint(2**63 - 1, (), generator=self.fresh))
        return request(params, prompt, output, seed)

    def in_order(self) -> list[Request]:
        """Row by row."""
        return [self.rows[i] for i in range(len(self.rows))]

    def filters(self, device: torch.device) -> dict[str, torch.Tensor]:
        """A column [B] for each filter that is on in a row, and the seeds.

        And which rows, int64 [n], are to see min-p first, if any are.
        """
        if not self.columns:
            rows = self.in_order()
            records = [RECORDS[name] for name in (*EXTRA_FILTERS, "min_p")]
            self.columns = columns_of(records, [row.filters for row in rows], device)
            self.columns["seed"] = upload([row.seed for row in rows], torch.int64, device)
            if first := [i for i, row in enumerate(rows) if row.min_p_first]:
                self.columns[MIN_P_FIRST] = upload(first, torch.int64, device)
        return self.columns

    def edits(self, metadata: Any, device: torch.device) -> dict[str, Any]:
        """Penalties and DRY by row, with the tokens so far; nothing where all are off."""
        rows = self.in_order()
        values: dict[str, Any] = {}
        if self.penalizes(metadata):
            values = {name: getattr(metadata, column) for name, column in PENALTIES.items()}
        if any(row.dry for row in rows):
            self.dry = self.dry or dry_columns([row.dry for row in rows], device)
            values |= self.dry
        return values | {"history": self.tokens.of(rows, device)} if values else {}

    def penalizes(self, metadata: Any) -> bool:
        """Whether vLLM's penalties are part of the draw, and not vLLM's own.

        They are its own where it comes to the logits once more behind them, to end a thought, and
        where a value is beyond the range of ours or a prompt has no token ids.
        """
        thinking = metadata.thinking_budget_state_holder
        if metadata.no_penalties or (thinking is not None and thinking.has_tracked_requests()):
            return False
        return all(row.fits for row in self.rows.values())

    def steps(self, device: torch.device) -> torch.Tensor:
        """How many tokens each row has generated, int64 [B]."""
        counts = [len(self.rows[i].output) for i in range(len(self.rows))]
        return upload(counts, torch.int64, device)


def asks_for_tokens(batch_of_vllm: type) -> None:
    """vLLM fills in sampled tokens late; it waits for them where a flag of the batch says so."""
    name = "logitsprocs_need_output_token_ids"

    def asked(batch: Any) -> bool:
        found = (p for p in batch.logitsprocs.all if isinstance(p, Requests))
        return batch.__dict__[name] or any(p.needs_tokens() for p in found)

    def keep(batch: Any, value: bool) -> None:
        batch.__dict__[name] = value

    setattr(batch_of_vllm, name, property(asked, keep))
