"""From rows to shortlists: what top-k, top-p and min-p keep, found without sorting a row.

One pass has found the maximum of every block of 64 logits. They tell a bound that no kept token
lies below, and only the tokens that reach it, which `listing.py` finds, are looked at again:

- top-k: the k-th largest maximum of any sets of logits without a common one is at most the k-th
  largest logit, as k sets each hold one at least that large;
- min-p: the threshold is known but for rounding;
- top-p: a second pass finds the row's mass, as near as nearly always tells the threshold. The block
  masses, or else a sample of the row, guess a bound; the shortlist's own mass proves it, else the
  whole row is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from .batch import Batch
from .blocks import index_of, take
from .contract.mass import LOWEST
from .listing import lists_above
from .near import ROW_ERROR, TOKEN_ERROR, block_masses, token_masses
from .shortlist import BINS, Shortlist, into_bins

_SET_BLOCKS = 8  # whose common maximum counts as one for top-k's bound, at most
_SETS = 4  # at least as many for each of the k, or blocks are not put together
_MANY_BLOCKS = 512  # from here on they are too many to tell a bound for top-p
_MOST = 0.85  # share of the mass to be dropped that the blocks down to that bound hold
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
    for _, shortlist in lists_above(group, _top_k_bound(group)):
        rows = shortlist.part.rows
        shortlist.drop(shortlist.x < _kth(shortlist.x, rows.top_k.tolist()))
        if min(rows.top_p.tolist()) < 1:
            threshold, _ = shortlist.nucleus(rows.top_p)
            shortlist.drop((shortlist.x < threshold) & (rows.top_p < 1)[:, None])
        yield shortlist


def _top_k_bound(group: Batch) -> torch.Tensor:
    """A logit that k logits of the row reach, [R]: the k-th largest maximum of sets of them.

    A set is a few blocks, far apart as the best tokens are often neighbours; one block, for larger
    k; one token, where k is more than the blocks. The fewer sets, the sooner the k-th is found.
    """
    top_k, count = group.rows.top_k.tolist(), group.maxima.shape[-1]
    most = max(top_k)
    if most > count:
        rows = (take(group.logits, [number]).float() for number in group.numbers)
        bound = torch.cat([_kth(x, [k]) for x, k in zip(rows, top_k, strict=True)])
    else:
        blocks = min(_SET_BLOCKS, count // (_SETS * most)) or 1
        sets = count // blocks
        maxima = group.maxima[:, : blocks * sets].view(-1, blocks, sets).amax(1)
        bound = _kth(maxima, top_k)
    return bound[:, 0].clamp_(min=LOWEST)  # `-inf` is never kept


def _kth(x: torch.Tensor, top_k: list[int]) -> torch.Tensor:
    """The k-th largest of x [R, n] for each row's k, or the smallest where n is less, [R, 1]."""
    most = min(max(top_k), x.shape[-1])
    if min(top_k) >= most:  # no need for their order
        return x.topk(most, sorted=False).values.amin(-1, keepdim=True)
    index = torch.tensor([min(k, most) - 1 for k in top_k], device=x.device)
    return x.topk(most).values.gather(-1, index[:, None])


def _min_p(group: Batch) -> Iterator[Shortlist]:
    """Tokens at or above a bound that lies just below every token that min-p keeps."""
    row_max = group.row_max.double()
    # Beyond the roundings of the rule's fp32 steps, the smallest product included.
    bound = row_max + (group.rows.min_p_log2.double() * (1 + 2**-20) - 2**-148) / group.rows.c
    for _, shortlist in lists_above(group, bound.float().clamp_(min=LOWEST)):
        yield shortlist


def _top_p(group: Batch) -> Iterator[Shortlist]:
    """The nucleus of whole rows."""
    block_mass = block_masses(group)
    mass = block_mass.sum(-1)
    bound = _top_p_bound(group, block_mass, mass)
    # Where the error spans several tokens, near masses could not tell the threshold.
    at_bound = token_masses(bound[:, None], bound[:, None], group.row_max, group.rows.c)[:, 0]
    crowded = (2 * (ROW_ERROR + TOKEN_ERROR) * mass > at_bound).tolist()
    for exact in (False, True):
        rows = [row for row, is_crowded in enumerate(crowded) if is_crowded == exact]
        if rows:
            index = index_of(rows, bound.device)
            yield from _nuclei(group.select(rows), bound[index], mass[index], exact)


def _nuclei(
    group: Batch, bound: torch.Tensor, mass: torch.Tensor, exact: bool
) -> Iterator[Shortlist]:
    """The nuclei of rows with these near masses [R], by true ones if `exact`; above `bound` [R]."""
    lacking: list[int] = []
    for places, shortlist in lists_above(group, bound):
        top_p, index = shortlist.part.rows.top_p, index_of(places, bound.device)
        if exact:
            threshold, enough = shortlist.true_nucleus(top_p, _true_mass(shortlist.part))
        else:
            threshold, enough = shortlist.nucleus(top_p, mass[index], _true_mass)
        shortlist.drop(shortlist.x < threshold)
        enough |= bound[index] == LOWEST
        if enough.all():
            yield shortlist
            continue
        lacking += [places[row] for row in (~enough).nonzero()[:, 0].tolist()]
        rows = enough.nonzero()[:, 0].tolist()
        if rows:
            yield shortlist.select(rows)
    if lacking:  # the guess was too high
        lacking.sort()
        index = index_of(lacking, bound.device)
        lowest = torch.full_like(bound[index], LOWEST)
        yield from _nuclei(group.select(lacking), lowest, mass[index], exact)


def _true_mass(part: Batch) -> torch.Tensor:
    """The exact mass of every row, int64 [R]."""
    return part.block_masses(part.rows.c).sum(-1)


def _top_p_bound(group: Batch, block_mass: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """A logit that should not lie above the nucleus threshold, [R].

    The least maximum of the best blocks that together hold what is needed and most of what is to be
    dropped: without what lies below it they mostly still hold what is needed. A histogram of the
    maxima tells it. Where these blocks are many, a sample of the row tells below what logit light
    tokens hold most of what is to be dropped.
    """
    top_p = group.rows.top_p
    bin, bin_width = into_bins(group.maxima, group.rows.c)
    upto = mass.new_zeros(len(mass), BINS).scatter_add_(-1, bin, block_mass).cumsum_(-1)
    bins = 1 + torch.searchsorted(upto, ((top_p + _MOST * (1 - top_p)) * mass)[:, None])
    bound = (group.row_max - (bins * bin_width)[:, 0]).clamp_(min=LOWEST)
    many = min(_MANY_BLOCKS, group.maxima.shape[-1] * 2 // 3)
    rest = ((group.maxima >= bound[:, None]).sum(-1) > many).nonzero()[:, 0].tolist()
    if rest:
        bound[rest] = _sampled_bound(group.select(rest), ((1 - top_p) * mass)[rest])
    return bound


def _sampled_bound(part: Batch, dropped: torch.Tensor) -> torch.Tensor:
    """The logit below which a sample has most of the mass that is to be dropped, [R]."""
    stride = max(1, part.logits.shape[-1] // _SAMPLED)
    x = part.own_logits(stride).float()
    bin, bin_width = into_bins(x, part.rows.c)
    mass = ((x - part.row_max[:, None]) * part.rows.c[:, None]).exp2_()
    light = mass.new_zeros(x.shape[0], BINS).scatter_add_(-1, bin, mass)
    light = light.flip(-1).cumsum(-1)  # from the lightest bin up
    trusted = dropped.float() * (_TRUST / stride)
    bins = BINS - torch.searchsorted(light, trusted[:, None])  # how many are not dropped
    bound = (x.amax(-1, keepdim=True) - bins * bin_width)[:, 0]
    return bound.nan_to_num_(nan=LOWEST).clamp_(min=LOWEST)  # NaN: all of the sample is -inf


KINDS = {"top_k": _top_k, "top_p": _top_p, "min_p": _min_p}
