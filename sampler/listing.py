"""Every token at or above a bound: its blocks by their maxima, its place there, then shortlists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from .batch import Batch
from .mass import BLOCK, BLOCK_BITS
from .shortlist import Shortlist

_PASS_BLOCKS = 2**14  # blocks looked through at one time: bounds the memory, as `_LIST_TOKENS`
_LIST_TOKENS = 2**17  # tokens in the shortlists made at one time
_FEW_TOKENS = 2**15  # fewer cost less than another list


class Tokens(NamedTuple):
    """The tokens of some rows, row by row in vocabulary order, and where each row's begin."""

    place: torch.Tensor  # int64 [n], id + row * width
    x: torch.Tensor  # fp32 [n]
    width: int
    starts: list[int]  # [R + 1]

    @classmethod
    def of(cls, place: torch.Tensor, x: torch.Tensor, width: int, height: int) -> Tokens:
        ends = torch.arange(0, (height + 1) * width, width, device=place.device)
        return cls(place, x, width, torch.searchsorted(place, ends).tolist())

    def counts(self) -> list[int]:
        """How many each row has, [R]."""
        return [end - start for start, end in pairwise(self.starts)]

    def list_rows(self, group: Batch, rows: Sequence[int]) -> Shortlist:
        """The shortlist of these rows of the group, ascending."""
        place, x = self.place, self.x
        if len(rows) < len(self.starts) - 1:
            pieces = [slice(*self.starts[row : row + 2]) for row in rows]
            place, x = (torch.cat([column[piece] for piece in pieces]) for column in (place, x))
        counts = [self.starts[row + 1] - self.starts[row] for row in rows]
        filled = torch.arange(max(counts), device=x.device)
        filled = filled < torch.tensor(counts, device=x.device)[:, None]
        first = torch.tensor(rows, device=x.device)[:, None] * self.width
        places = first.repeat(1, filled.shape[-1]).masked_scatter_(filled, place)
        listed = x.new_full(filled.shape, -torch.inf).masked_scatter_(filled, x)
        return Shortlist(group.select(rows), places.sub_(first), listed)


def lists_above(group: Batch, bound: torch.Tensor) -> Iterator[tuple[Sequence[int], Shortlist]]:
    """Every token at or above `bound` [R]: the places of some rows, and their shortlist."""
    tokens = _tokens_above(group, bound)
    if isinstance(tokens, int):
        size = -(-len(bound) // tokens)
        for start in range(0, len(bound), size):
            places = range(start, min(start + size, len(bound)))
            part = group.select(places)
            for own, shortlist in lists_above(part, bound[places.start : places.stop]):
                yield [places[place] for place in own], shortlist
        return
    parts = _parts(tokens.counts())
    while parts:
        rows = parts.pop()
        shortlist = tokens.list_rows(group, rows)
        if not parts:
            del tokens  # or they would take memory beside what the list needs
        yield rows, shortlist


def _tokens_above(group: Batch, bound: torch.Tensor) -> Tokens | int:
    """Every token at or above `bound` [R], or how many parts of the rows to take one by one."""
    row, block = (group.maxima >= bound[:, None]).nonzero(as_tuple=True)
    height, count = group.maxima.shape
    if height > 1 and len(row) > _PASS_BLOCKS:
        return min(height, -(-len(row) // _PASS_BLOCKS))
    whole = 2 * len(row) >= height * count  # most blocks: the rows as they stand
    x = group.own_logits().float() if whole else group.gather_blocks(block, row)
    reached = x >= (bound[:, None] if whole else bound[row, None])
    if height > 1 and x.numel() > 2 * _LIST_TOKENS:
        number = int(reached.count_nonzero())
        if number > _LIST_TOKENS:
            return min(height, -(-number // _LIST_TOKENS))
    place = reached.view(-1).nonzero()[:, 0]
    x = x.reshape(-1)[place]
    if whole:
        return Tokens.of(place, x, group.logits.shape[-1], height)
    block += row * count
    place = (block[place >> BLOCK_BITS] << BLOCK_BITS) + (place & (BLOCK - 1))
    return Tokens.of(place, x, count * BLOCK, height)


def _parts(width: list[int]) -> list[Sequence[int]]:
    """Cut rows, whose shortlists are so wide, into parts that stay small together.

    Where padding would be most of one list, rows of a part have widths of the same order.
    """
    padded = len(width) * max(width)
    if padded <= max(_FEW_TOKENS, min(_LIST_TOKENS, 2 * sum(width))):
        return [range(len(width))]
    by_order: defaultdict[int, list[int]] = defaultdict(list)
    for row, tokens in enumerate(width):
        by_order[tokens.bit_length() // 3].append(row)
    parts: list[Sequence[int]] = []
    for rows in by_order.values():
        size = max(1, _LIST_TOKENS // max(1, *(width[row] for row in rows)))
        parts.extend(rows[start : start + size] for start in range(0, len(rows), size))
    return parts
