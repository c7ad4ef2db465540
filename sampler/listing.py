"""Every token at or above a bound, found without a sort: blocks by their maxima, then tokens there.

The tokens of all rows are found in one line, so that a long row costs the others nothing;
`Tokens.listed` makes of it the rectangle that a shortlist is. Ties need no care: all are listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from .batch import Batch
from .contract.mass import BLOCK, BLOCK_BITS
from .shortlist import Shortlist

_PASS_BLOCKS = 2**14  # blocks looked through at one time: bounds the memory, as `_LIST_TOKENS`
_LIST_TOKENS = 2**17  # tokens in the shortlists made at one time
_FEW_TOKENS = 2**15  # fewer cost less than another list


class Tokens(NamedTuple):
    """The tokens of some rows, row by row in vocabulary order."""

    place: torch.Tensor  # int64 [n], the id and `width` for each row before its own
    x: torch.Tensor  # fp32 [n]
    first: torch.Tensor  # int64 [R], the place of each row's id 0
    counts: torch.Tensor  # int64 [R]

    @classmethod
    def of(cls, place: torch.Tensor, x: torch.Tensor, width: int, height: int) -> Tokens:
        first = torch.arange(0, (height + 1) * width, width, device=place.device)
        return cls(place, x, first[:-1], torch.searchsorted(place, first).diff())

    def of_rows(self, rows: Sequence[int]) -> Tokens:
        """Those of these rows, ascending."""
        columns = (column.split(self.counts.tolist()) for column in (self.place, self.x))
        place, x = (torch.cat([pieces[row] for row in rows]) for pieces in columns)
        return Tokens(place, x, self.first[rows], self.counts[rows])

    def listed(self, part: Batch) -> Shortlist:
        """The shortlist of all of them."""
        filled = torch.arange(int(self.counts.max()), device=self.x.device) < self.counts[:, None]
        first = self.first[:, None]
        place = first.expand(filled.shape).clone().masked_scatter_(filled, self.place)
        x = self.x.new_full(filled.shape, -torch.inf).masked_scatter_(filled, self.x)
        return Shortlist(part, place.sub_(first), x)


def lists_above(group: Batch, bound: torch.Tensor) -> Iterator[tuple[Sequence[int], Shortlist]]:
    """Every token at or above `bound` [R]: the places of some rows, and their shortlist."""
    tokens = _tokens_above(group, bound)
    if isinstance(tokens, int):
        for start in range(0, len(bound), tokens):
            places = range(start, min(start + tokens, len(bound)))
            for own, shortlist in lists_above(group.select(places), bound[start : places.stop]):
                yield [places[place] for place in own], shortlist
        return
    parts = _parts(tokens.counts.tolist())
    if len(parts) == 1:
        shortlist = tokens.listed(group)
        del tokens  # or they would take memory beside what the list needs
        yield parts[0], shortlist
        return
    for rows in parts:
        yield rows, tokens.of_rows(rows).listed(group.select(rows))


def _tokens_above(group: Batch, bound: torch.Tensor) -> Tokens | int:
    """Every token at or above `bound` [R], or else how many rows to take at one time."""
    block = (group.maxima >= bound[:, None]).view(-1).nonzero()[:, 0]
    height, count = group.maxima.shape
    if height > 1 and len(block) > _PASS_BLOCKS:
        return height * _PASS_BLOCKS // len(block) or 1
    whole = 2 * len(block) >= height * count  # most blocks: the rows as they stand
    x = group.own_logits().float() if whole else group.blocks_at(block)
    reached = x >= (bound if whole else bound[block // count])[:, None]
    if height > 1 and x.numel() > 2 * _LIST_TOKENS:  # fewer are no burden, whatever reaches
        number = int(reached.count_nonzero())
        if number > _LIST_TOKENS:
            return height * _LIST_TOKENS // number or 1
    place = reached.view(-1).nonzero()[:, 0]
    x = x.reshape(-1)[place]
    if whole:
        return Tokens.of(place, x, group.logits.shape[-1], height)
    place = (block[place >> BLOCK_BITS] << BLOCK_BITS) + (place & (BLOCK - 1))
    return Tokens.of(place, x, count * BLOCK, height)


def _parts(counts: list[int]) -> list[Sequence[int]]:
    """Cut rows with so many tokens into parts whose lists stay small.

    Where padding would be most of one list, rows of a part have counts of the same order.
    """
    padded = len(counts) * max(counts)
    if padded <= max(_FEW_TOKENS, min(_LIST_TOKENS, 2 * sum(counts))):
        return [range(len(counts))]
    by_order: defaultdict[int, list[int]] = defaultdict(list)
    for row, count in enumerate(counts):
        by_order[count.bit_length() // 3].append(row)
    parts: list[Sequence[int]] = []
    for rows in by_order.values():
        size = max(1, _LIST_TOKENS // max(1, *(counts[row] for row in rows)))
        parts.extend(rows[start : start + size] for start in range(0, len(rows), size))
    return parts
