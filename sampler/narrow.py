"""From rows to shortlists: what top-k, top-p and min-p keep, found without sorting a row.

One pass has found the maximum of every block of 64 logits. From these a row is narrowed to a
shortlist of tokens that surely holds all that the filters can keep:

- top-k: the k-th largest block maximum is at most the k-th largest logit (k blocks each hold one at
  least that large), so only blocks whose maximum reaches it matter;
- min-p: the threshold is known, only blocks whose maximum reaches it matter;
- top-p: a second pass finds the row's mass, as near as nearly always tells the threshold. The block
  masses, or else a sample of the row, guess a bound; the shortlist's own mass proves it, else the
  whole row is taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import torch

from .batch import Batch
from .mass import BLOCK, LOWEST
from .near import ROW_ERROR, TOKEN_ERROR, block_masses, token_masses
from .shortlist import BINS, Shortlist, into_bins

_LIST_TOKENS = 2**17  # tokens in the shortlists made at one time: bounds the memory
_PASS_TOKENS = 2**21  # logits looked through at one time where the width is a guess
_FEW_MAXIMA = 512  # best block maxima tried as a bound for top-p
_MOST = 0.85  # share of the mass to be dropped that the blocks down to that bound hold
_TOKENS_A_BLOCK = 4  # that reach the bound, at most as a rule
_SAMPLED = 2048  # logits of a row sampled for a bound where those do not suffice
_TRUST = 0.6  # share of the mass to be dropped that the sample is trusted to show
_BLOCK_BITS = 6


def shortlists(kind: str, group: Batch) -> Iterator[tuple[Batch, Shortlist]]:
    """What the filters keep, in parts of the group; `kind` is a key of `KINDS`."""
    for part, shortlist in KINDS[kind](group):
        min_p_log2 = part.rows.min_p_log2
        if max(min_p_log2.tolist()) > -math.inf:
            z = (shortlist.x - part.row_max[:, None]) * part.rows.c[:, None]
            shortlist.drop(~(z >= min_p_log2[:, None]))
        yield part, shortlist


def _top_k(group: Batch) -> Iterator[tuple[Batch, Shortlist]]:
    """The k best and their ties, then top-p among them."""
    for part, blocks in _blocks_of_best_k(group):
        shortlist = _best_k(part, blocks)
        top_p = part.rows.top_p
        if min(top_p.tolist()) < 1:
            threshold, _ = shortlist.nucleus(top_p)
            shortlist.drop((shortlist.x < threshold) & (top_p < 1)[:, None])
        yield part, shortlist


def _blocks_of_best_k(group: Batch) -> Iterator[tuple[Batch, torch.Tensor | None]]:
    """Parts of the group, and the blocks [R, n] that hold a row's k best; None for all blocks."""
    top_k, count = group.rows.top_k.tolist(), group.maxima.shape[-1]
    most = max(top_k)
    if most >= count:
        for rows in _parts([count * BLOCK] * len(top_k)):
            yield group.select(rows), None
        return
    best, blocks = group.maxima.topk(most + 1)
    if not _last_ties(best, top_k):
        for rows in _parts([(most + 1) * BLOCK] * len(top_k)):
            # Rows of one width are cut into parts of neighbours.
            yield group.select(rows), blocks[rows[0] : rows[-1] + 1]
        return
    reaching = _blocks_reaching(group, _kth(best, top_k)[:, 0])  # ties: more than k blocks may
    for rows in _parts((reaching * BLOCK).tolist()):
        part = group.select(rows)
        yield part, part.maxima.topk(int(reaching[rows].max())).indices


def _best_k(part: Batch, blocks: torch.Tensor | None) -> Shortlist:
    """The k best of the rows and the ties of the k-th, among the tokens of these blocks."""
    top_k = part.rows.top_k.tolist()
    most = max(top_k)
    x, blocks = _candidates(part, blocks)
    best, position = x.topk(min(most + 1, x.shape[-1]))
    if _last_ties(best, top_k):
        most = int((x >= _kth(best, top_k)).sum(-1).max())
        position = x.topk(most).indices
    position = position[:, :most].sort().values
    x = x.gather(-1, position)
    if min(top_k) < most:
        x.masked_fill_(x < _kth(best, top_k), -torch.inf)
    return _listed(part, position, x, blocks)


def _last_ties(best: torch.Tensor, top_k: list[int]) -> bool:
    """Whether the last of the sorted values [R, n] equals, in some row, the k-th, not being it.

    Tokens at `-inf` are never kept, so their ties do not count.
    """
    first = min(top_k) - 1
    rows = zip(best[:, first:].tolist(), top_k, strict=True)
    return any(row[-1] == row[k - 1 - first] > -math.inf for row, k in rows if k < best.shape[-1])


def _kth(best: torch.Tensor, top_k: list[int]) -> torch.Tensor:
    """The k-th largest, [R, 1], of sorted values [R, n]; finite, as `-inf` is never kept."""
    index = torch.tensor(top_k, device=best.device)[:, None] - 1
    return best.gather(-1, index).clamp(min=LOWEST)


def _min_p(group: Batch) -> Iterator[tuple[Batch, Shortlist]]:
    """Tokens at or above a bound that lies just below every token that min-p keeps."""
    row_max = group.row_max.double()
    # Beyond the roundings of the rule's fp32 steps, the smallest product included.
    bound = row_max + (group.rows.min_p_log2.double() * (1 + 2**-20) - 2**-148) / group.rows.c
    bound = (bound - row_max.abs() * 2**-20).float().clamp_(min=LOWEST)
    for numbers in _parts((_blocks_reaching(group, bound) * BLOCK).tolist()):
        part = group.select(numbers)
        shortlist = _above(part, bound[numbers])
        assert shortlist is not None  # the width was no guess
        yield part, shortlist


def _top_p(group: Batch) -> Iterator[tuple[Batch, Shortlist]]:
    """The nucleus of whole rows."""
    block_mass = block_masses(group)
    mass = block_mass.sum(-1)
    bound, width = _top_p_bound(group, block_mass, mass)
    # Where the error spans several tokens, near masses could not tell the threshold.
    at_bound = token_masses(bound[:, None], bound[:, None], group.row_max, group.rows.c)[:, 0]
    crowded = (2 * (ROW_ERROR + TOKEN_ERROR) * mass > at_bound).tolist()
    todo = list(_parts(width.tolist(), _PASS_TOKENS // group.logits.shape[-1]))
    while todo:
        numbers = todo.pop()
        part = group.select(numbers)
        shortlist = _above(part, bound[numbers])
        if shortlist is None:  # far more tokens than the sample told
            todo.extend([number] for number in numbers)
            continue
        top_p = part.rows.top_p
        if any(crowded[number] for number in numbers):
            threshold, enough = shortlist.true_nucleus(top_p, _true_mass(part))
        else:
            threshold, enough = shortlist.nucleus(top_p, mass[numbers], _true_mass)
        lacking = (~enough & (bound[numbers] > LOWEST)).nonzero()[:, 0].tolist()
        if lacking:  # the guess was too high
            again = [numbers[i] for i in lacking]
            bound[again] = LOWEST
            todo.extend([number] for number in again)
            if len(again) < len(numbers):
                todo.append([number for number in numbers if number not in again])
            continue
        shortlist.drop(shortlist.x < threshold)
        yield part, shortlist


def _true_mass(part: Batch) -> torch.Tensor:
    """The exact mass of every row, int64 [R]."""
    return part.block_masses(part.rows.c).sum(-1)


def _top_p_bound(
    group: Batch, block_mass: torch.Tensor, mass: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A logit that should not lie above the nucleus threshold, and about how many reach it, [R].

    Blocks of the best maxima, until they hold what is needed and most of what is to be dropped:
    without what lies below the last of these maxima they mostly still hold what is needed. Where
    these blocks are many, a sample of the row tells where its light tokens hold nearly all that is
    to be dropped.
    """
    top_p = group.rows.top_p
    count = group.maxima.shape[-1]
    best, block = group.maxima.topk(min(_FEW_MAXIMA, -(-count * 2 // 3)))
    upto = block_mass.gather(-1, block).cumsum(-1)
    last = torch.searchsorted(upto, ((top_p + _MOST * (1 - top_p)) * mass)[:, None])
    bound = best.gather(-1, last.clamp(max=best.shape[-1] - 1))[:, 0].clamp_(min=LOWEST)
    width = (last[:, 0] + 1) * _TOKENS_A_BLOCK
    rest = (last[:, 0] == best.shape[-1]).nonzero()[:, 0].tolist()
    if rest:
        bound[rest], width[rest] = _sampled_bound(group.select(rest), ((1 - top_p) * mass)[rest])
    return bound, width


def _sampled_bound(part: Batch, dropped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logit below which a sample has most of the mass that is to be dropped, [R].

    And how many tokens reach it, [R], as far as the sample tells.
    """
    stride = max(1, part.logits.shape[-1] // _SAMPLED)
    x = part.own_logits(stride).float()
    bin, bin_width = into_bins(x)
    mass = ((x - part.row_max[:, None]) * part.rows.c[:, None]).exp2_()
    light = mass.new_zeros(x.shape[0], BINS).scatter_add_(-1, bin, mass)
    light = light.flip(-1).cumsum(-1)  # from the lightest bin up
    trusted = dropped.float() * (_TRUST / stride)
    bins = BINS - torch.searchsorted(light, trusted[:, None])  # how many are not dropped
    bound = (x.amax(-1, keepdim=True) - bins * bin_width)[:, 0]
    bound = bound.nan_to_num_(nan=LOWEST).clamp_(min=LOWEST)  # NaN: all of the sample is -inf
    return bound, (bin < bins).sum(-1) * stride


def _above(part: Batch, bound: torch.Tensor) -> Shortlist | None:
    """Every token at or above `bound` [R]; None where several rows have too many together."""
    reaching, count = int(_blocks_reaching(part, bound).max()), part.maxima.shape[-1]
    blocks = part.maxima.topk(reaching).indices if 2 * reaching < count else None
    x, blocks = _candidates(part, blocks)
    place = (x >= bound[:, None]).view(-1).nonzero()[:, 0]  # row by row, in vocabulary order
    starts = torch.arange(0, x.numel() + 1, x.shape[-1], device=x.device)
    counts = torch.searchsorted(place, starts).diff()[:, None]
    most = int(counts.max())
    if len(counts) > 1 and len(counts) * most > 4 * _LIST_TOKENS:
        return None
    filled = torch.arange(most, device=x.device) < counts
    position = torch.zeros(filled.shape, dtype=torch.int64, device=x.device)
    position.masked_scatter_(filled, place % x.shape[-1])
    listed = x.new_full(filled.shape, -torch.inf)
    listed.masked_scatter_(filled, x.reshape(-1)[place])
    return _listed(part, position, listed, blocks)


def _blocks_reaching(group: Batch, bound: torch.Tensor) -> torch.Tensor:
    """How many blocks hold a logit at or above `bound`, [R]."""
    return (group.maxima >= bound[:, None]).sum(-1)


def _candidates(
    part: Batch, blocks: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The logits (fp32) of these blocks [R, n], in vocabulary order; of all of them for None."""
    if blocks is None:
        return part.own_logits().float(), None
    blocks = blocks.sort().values
    return part.gather_blocks(blocks).flatten(1), blocks


def _listed(
    part: Batch, position: torch.Tensor, x: torch.Tensor, blocks: torch.Tensor | None
) -> Shortlist:
    """The shortlist of the tokens at these positions among the candidates."""
    block, ids = position >> _BLOCK_BITS, position
    if blocks is not None:
        block = blocks.gather(-1, block)
        ids = (block << _BLOCK_BITS) + (position & (BLOCK - 1))
    return Shortlist(part, ids, block, x)


def _parts(width: list[int], most_rows: int = _LIST_TOKENS) -> Iterator[list[int]]:
    """Cut rows, whose shortlists are about `width` wide, into parts that stay small together.

    Rows of a part have widths of the same order: the widest sets what each of them costs.
    """
    by_order: defaultdict[int, list[int]] = defaultdict(list)
    for row, tokens in enumerate(width):
        by_order[tokens.bit_length() // 3].append(row)
    for rows in by_order.values():
        widest = max(1, *(width[row] for row in rows))
        size = max(1, min(most_rows, _LIST_TOKENS // widest))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


KINDS = {"top_k": _top_k, "top_p": _top_p, "min_p": _min_p}
