"""The rows of a call, or some of them, with the maxima of their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .blocks import Scale, block_maxima, block_sums, gather_blocks, index_of, near_sums, take
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
        index = index_of(places, self.logits.device)
        numbers: Sequence[int]
        if isinstance(index, slice):
            numbers = self.numbers[index]
        else:
            numbers = [self.numbers[place] for place in places]
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

    def gather_blocks(self, blocks: torch.Tensor) -> torch.Tensor:
        """The logits of blocks [R, n], fp32 [R, n, 64]."""
        count = self.maxima.shape[-1]
        first = torch.arange(0, len(blocks) * count, count, device=blocks.device)
        return self.blocks_at(blocks + first[:, None])

    def blocks_at(self, place: torch.Tensor) -> torch.Tensor:
        """The logits of the blocks at these places [...] of `maxima`, flattened; fp32 [..., 64]."""
        if self.numbers == range(len(self.logits)):
            return gather_blocks(self.logits, place)
        count = self.maxima.shape[-1]
        numbers = torch.tensor(self.numbers, device=place.device)
        rows_before = numbers - torch.arange(len(numbers), device=place.device)
        return gather_blocks(self.logits, place + rows_before[place // count] * count)
