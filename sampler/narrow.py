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
from collections.abc import Iterator, Sequence

import torch

from .batch import Batch
from .blocks import take
from .mass import BLOCK, BLOCK_BITS, LOWEST
from .near import ROW_ERROR, TOKEN_ERROR, block_masses, token_masses
from .shortlist import BINS, Shortlist, into_bins

_LIST_TOKENS = 2**17  # tokens in the shortlists made at one time: bounds the memory, as the next
_PASS_BLOCKS = 2**14  # blocks looked through at one time
_SET_BLOCKS = 8  # whose common maximum counts as one for top-k's bound, at most
_SETS = 4  # for each of the k, where blocks are put together
_FEW_MAXIMA = 512  # best block maxima tried as a bound for top-p
_MOST = 0.85  # share of the mass to be dropped that the blocks down to that bound hold
_TOKENS_A_BLOCK = 4  # that reach the bound, at most as a rule
_SAMPLED = 2048  # logits of a row sampled for a bound where those do not suffice
_TRUST = 0.6  # share of the mass to be dropped that the sample is trusted to show


def shortlists(kind: str, group: Batch) -> Iterator[Shortlist]:
    """What the filters keep, for a few rows of the group each; `kind` is a key of `KINDS`."""
    for shortlist in KINDS[kind](group):
        rows, row_max = shortlist.part.rows, shortlist.part.row_max
        if max(rows.min_p_log2.tolist()) > -math.inf:
            z = (shortlist.x - row_max[:, None]) * rows.c[:, None]
            shortlist.drop(~(z >= rows.min_p_log2[:, None]))
        yield shortlist


def _top_k(group: Batch) -> Iterator[Shortlist]:
    """The k best and their ties, then top-p among them."""
    for _, shortlist in _lists_above(group, _top_k_bound(group)):
        rows = shortlist.part.rows
        shortlist.drop(shortlist.x < _kth(shortlist.x, rows.top_k))
        if min(rows.top_p.tolist()) < 1:
            threshold, _ = shortlist.nucleus(rows.top_p)
            shortlist.drop((shortlist.x < threshold) & (rows.top_p < 1)[:, None])
        yield shortlist


def _top_k_bound(group: Batch) -> torch.Tensor:
    """A logit that k logits of the row reach, [R]: the k-th best maximum of as many sets of them.

    Sets of a few blocks, far from one another as the best tokens are often neighbours; of one
    block, for larger k; of one token, where k is more than the blocks.
    """
    top_k, count = group.rows.top_k, group.maxima.shape[-1]
    most = int(top_k.max())
    if most > count:
        rows = (take(group.logits, [number]).float() for number in group.numbers)
        bound = torch.cat([_kth(x, k[None]) for x, k in zip(rows, top_k, strict=True)])
    else:
        blocks = min(_SET_BLOCKS, count // (_SETS * most)) or 1
        sets = count // blocks
        maxima = group.maxima[:, : sets * blocks].unflatten(-1, (blocks, sets)).amax(1)
        bound = _kth(maxima, top_k)
    return bound[:, 0].clamp_(min=LOWEST)  # `-inf` is never kept


def _kth(x: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """The k-th largest of x [R, n] for top_k [R], or the smallest where there are fewer, [R, 1]."""
    k = top_k[:, None].clamp(max=x.shape[-1])
    least, most = map(int, k.aminmax())
    if least == most:  # no need for their order
        return x.topk(most, sorted=False).values.amin(-1, keepdim=True)
    return x.topk(most).values.gather(-1, k - 1)


def _min_p(group: Batch) -> Iterator[Shortlist]:
    """Tokens at or above a bound that lies just below every token that min-p keeps."""
    row_max = group.row_max.double()
    # Beyond the roundings of the rule's fp32 steps, the smallest product included.
    bound = row_max + (group.rows.min_p_log2.double() * (1 + 2**-20) - 2**-148) / group.rows.c
    bound = (bound - row_max.abs() * 2**-20).float().clamp_(min=LOWEST)
    for _, shortlist in _lists_above(group, bound):
        yield shortlist


def _top_p(group: Batch) -> Iterator[Shortlist]:
    """The nucleus of whole rows."""
    block_mass = block_masses(group)
    mass = block_mass.sum(-1)
    bound = _top_p_bound(group, block_mass, mass)
    # Where the error spans several tokens, near masses could not tell the threshold.
    at_bound = token_masses(bound[:, None], bound[:, None], group.row_max, group.rows.c)[:, 0]
    crowded = 2 * (ROW_ERROR + TOKEN_ERROR) * mass > at_bound
    todo: Sequence[int] = range(len(mass))
    while todo:
        lacking = []
        for places, shortlist in _lists_above(group.select(todo), bound[todo]):
            rows = [todo[place] for place in places]
            top_p = shortlist.part.rows.top_p
            if crowded[rows].any():
                threshold, enough = shortlist.true_nucleus(top_p, _true_mass(shortlist.part))
            else:
                threshold, enough = shortlist.nucleus(top_p, mass[rows], _true_mass)
            shortlist.drop(shortlist.x < threshold)
            enough |= bound[rows] == LOWEST
            if not enough.all():  # the guess was too high
                lacking += [rows[place] for place in (~enough).nonzero()[:, 0].tolist()]
                shortlist = shortlist.select(enough.nonzero()[:, 0].tolist())
            if shortlist.part.numbers:
                yield shortlist
        bound[lacking] = LOWEST
        todo = sorted(lacking)


def _true_mass(part: Batch) -> torch.Tensor:
    """The exact mass of every row, int64 [R]."""
    return part.block_masses(part.rows.c).sum(-1)


def _top_p_bound(group: Batch, block_mass: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """A logit that should not lie above the nucleus threshold, [R].

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
    rest = (last[:, 0] == best.shape[-1]).nonzero()[:, 0].tolist()
    if rest:
        bound[rest] = _sampled_bound(group.select(rest), ((1 - top_p) * mass)[rest])
    return bound


def _sampled_bound(part: Batch, dropped: torch.Tensor) -> torch.Tensor:
    """The logit below which a sample has most of the mass that is to be dropped, [R]."""
    stride = max(1, part.logits.shape[-1] // _SAMPLED)
    x = part.own_logits(stride).float()
    bin, bin_width = into_bins(x)
    mass = ((x - part.row_max[:, None]) * part.rows.c[:, None]).exp2_()
    light = mass.new_zeros(x.shape[0], BINS).scatter_add_(-1, bin, mass)
    light = light.flip(-1).cumsum(-1)  # from the lightest bin up
    trusted = dropped.float() * (_TRUST / stride)
    bins = BINS - torch.searchsorted(light, trusted[:, None])  # how many are not dropped
    bound = (x.amax(-1, keepdim=True) - bins * bin_width)[:, 0]
    return bound.nan_to_num_(nan=LOWEST).clamp_(min=LOWEST)  # NaN: all of the sample is -inf


def _lists_above(group: Batch, bound: torch.Tensor) -> Iterator[tuple[list[int], Shortlist]]:
    """Every token at or above `bound` [R]: the places of some rows, and their shortlist."""
    row, block = (group.maxima >= bound[:, None]).nonzero(as_tuple=True)
    blocks = _count(row, group)
    todo = list(_passes(blocks))
    while todo:
        places = todo.pop()
        own_row, own_block = row, block
        if len(places) < len(blocks):
            mine = slice(sum(blocks[: places.start]), sum(blocks[: places.stop]))
            own_row, own_block = row[mine] - places.start, block[mine]
        part = group.select(places)
        tokens = _tokens_above(part, bound[places.start : places.stop], own_row, own_block)
        if tokens is None:
            todo.extend(range(place, place + 1) for place in places)
            continue
        counts = _count(tokens[0], part)
        parts = list(_parts(counts))
        while parts:
            rows = parts.pop()
            shortlist = _listed(part.select(rows), rows, counts, tokens)
            if not parts:
                del tokens  # or they would take memory beside what the list needs
            yield [places[row] for row in rows], shortlist


def _tokens_above(
    part: Batch, bound: torch.Tensor, row: torch.Tensor, block: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Row, id and logit (fp32) of every token at or above `bound` [R], in vocabulary order, [n].

    `row` and `block` [m] name the blocks that hold one. None where several rows have too many.
    """
    whole = 2 * len(row) >= part.maxima.numel()  # the rows as they stand
    x = part.own_logits().float() if whole else part.gather_blocks(block, row)
    reached = x >= (bound[:, None] if whole else bound[row, None])
    if len(bound) > 1 and x.numel() > 2 * _LIST_TOKENS and reached.count_nonzero() > _LIST_TOKENS:
        return None
    if whole:
        row, ids = reached.nonzero(as_tuple=True)
        return row, ids, x[row, ids]
    place = reached.view(-1).nonzero()[:, 0]
    pair, slot = place >> BLOCK_BITS, place & (BLOCK - 1)
    return row[pair], (block[pair] << BLOCK_BITS) + slot, x.view(-1)[place]


def _listed(
    part: Batch, rows: list[int], counts: list[int], tokens: tuple[torch.Tensor, ...]
) -> Shortlist:
    """The shortlist of these rows, of which `counts` tells the tokens, from those of more rows."""
    row, ids, x = tokens
    if len(rows) < len(counts):
        mine = torch.isin(row, torch.tensor(rows, device=row.device))
        ids, x = ids[mine], x[mine]
    count = torch.tensor([counts[row] for row in rows], device=ids.device)
    filled = torch.arange(int(count.max()), device=ids.device) < count[:, None]
    return Shortlist(
        part,
        ids.new_zeros(filled.shape).masked_scatter_(filled, ids),
        x.new_full(filled.shape, -torch.inf).masked_scatter_(filled, x),
    )


def _count(row: torch.Tensor, part: Batch) -> list[int]:
    """How often each row of the part is named."""
    return torch.bincount(row, minlength=len(part.numbers)).tolist()


def _passes(blocks: list[int]) -> Iterator[range]:
    """Neighbouring rows which hold about `_PASS_BLOCKS` blocks together, each as many as told."""
    first, together = 0, 0
    for row, count in enumerate(blocks):
        if together and together + count > _PASS_BLOCKS:
            yield range(first, row)
            first, together = row, 0
        together += count
    yield range(first, len(blocks))


def _parts(width: list[int]) -> Iterator[list[int]]:
    """Cut rows, whose shortlists are so wide, into parts that stay small together.

    Rows of a part have widths of the same order: the widest sets what each of them costs.
    """
    by_order: defaultdict[int, list[int]] = defaultdict(list)
    for row, tokens in enumerate(width):
        by_order[tokens.bit_length() // 3].append(row)
    for rows in by_order.values():
        size = max(1, _LIST_TOKENS // max(1, *(width[row] for row in rows)))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


KINDS = {"top_k": _top_k, "top_p": _top_p, "min_p": _min_p}
