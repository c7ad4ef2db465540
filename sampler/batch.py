"""The rows of a call, or some of them, with the maxima of their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .blocks import Scale, block_maxima, block_sums, gather_blocks, near_sums, take
from .params import Rows


class Batch(NamedTuple):
    """Some rows of a call; only `logits` holds all of them."""

    numbers: Sequence[int]  # which rows of the logits
    logits: torch.Tensor  # [B, V]
    maxima: torch.Tensor  # fp32 [R, N], of every block
    row_max: torch.Tensor  # fp32 [R]
    rows: Rows

    @classmethod
    def of(cls, logits: torch.Tensor, rows: Rows) -> Batch:
        maxima = block_maxima(logits)
        return cls(range(logits.shape[0]), logits, maxima, maxima.amax(-1), rows)

    def select(self, places: Sequence[int]) -> Batch:
        """The rows at these places, in ascending order."""
        if len(places) == len(self.numbers):
            return self
        if isinstance(places, range) and isinstance(self.numbers, range):
            numbers: Sequence[int] = self.numbers[places.start : places.stop]
            index: Any = slice(places.start, places.stop)
        else:
            numbers = [self.numbers[place] for place in places]
            index = torch.tensor(places, dtype=torch.int64, device=self.logits.device)
        return Batch(
            numbers, self.logits, self.maxima[index], self.row_max[index], self.rows.select(index)
        )

    def own_logits(self, stride: int = 1) -> torch.Tensor:
        """Every stride-th logit of these rows; a copy where the rows are not neighbours."""
        return take(self.logits[:, ::stride], self.numbers)

    def block_masses(self, c: torch.Tensor) -> torch.Tensor:
        """The contract's masses of all blocks, int64 [R, N]; near ones are in `near.py`."""
        sums = block_sums(self.logits, self.numbers, self.maxima, c)
        return Scale.of(self.maxima, self.row_max, c)(sums)

    def near_sums(self, c: torch.Tensor) -> torch.Tensor:
        return near_sums(self.logits, self.numbers, self.maxima, c)

    def gather_blocks(self, blocks: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The logits of blocks [R, n], or else of blocks [n] in these rows [n]; fp32 [..., 64]."""
        if rows is None:
            rows = torch.arange(len(blocks), device=blocks.device)[:, None]
        if self.numbers == range(len(self.logits)):
            own = rows
        else:
            own = torch.tensor(self.numbers, device=blocks.device)[rows]
        return gather_blocks(self.logits, own, blocks)
