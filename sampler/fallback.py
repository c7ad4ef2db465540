"""What users get without a GPU: tokens and kept sets of the reference, without its sorts.

One pass finds the maximum of every block of 64 logits. From these a row is narrowed to a shortlist
of tokens that surely holds all that the filters can keep:

- top-k: the k-th largest block maximum is at most the k-th largest logit (k blocks each hold one at
  least that large), so only blocks whose maximum reaches it matter;
- min-p: the threshold is known, only blocks whose maximum reaches it matter;
- top-p: a second pass finds the row's mass. The best block maxima alone may hold enough of it, else
  a sample of the row guesses a bound that the shortlist's own mass proves, else all are taken;
- no filter: a second pass finds the block masses; the draw picks a block, whose 64 tokens matter.

Sorting, top-p and the cumulative-sum draw then work on shortlists.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from .blocks import (
    Scale,
    block_maxima,
    block_sums,
    gather_blocks,
    row_chunks,
    take,
    weights_and_scale,
)
from .draws import Draws
from .mass import BEST_MASS, BEST_WEIGHT, BLOCK, LOG2_E, LOWEST
from .output import SampleOutput, log_probability
from .params import GREEDY_BELOW, Rows
from .shortlist import BINS, Shortlist, into_bins, needed_mass

_LIST_TOKENS = 2**18  # tokens in the shortlists made at one time: bounds the memory
_FEW_MAXIMA = 128  # best block maxima tried as a bound for top-p
_SAMPLED = 2048  # logits of a row sampled for a bound where those do not suffice
_BLOCK_BITS = 6
_TRUST = 0.6  # share of the mass to be dropped that the sample is trusted to show


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
        numbers = [self.numbers[place] for place in places]
        index = torch.tensor(places, device=self.logits.device)
        return Batch(
            numbers, self.logits, self.maxima[index], self.row_max[index], self.rows.select(index)
        )

    def own_logits(self) -> torch.Tensor:
        """The logits of these rows, [R, V]; a copy where they are not neighbours."""
        return take(self.logits, self.numbers)

    def block_sums(self, c: torch.Tensor) -> torch.Tensor:
        return block_sums(self.logits, self.numbers, self.maxima, c)

    def gather_blocks(self, blocks: torch.Tensor) -> torch.Tensor:
        return gather_blocks(self.logits, self.numbers, blocks)


class Part(NamedTuple):
    """What was drawn for some rows."""

    numbers: Sequence[int]
    tokens: torch.Tensor  # int64 [R, num_samples]
    mass: torch.Tensor  # int64 [R], of the kept set
    kept: torch.Tensor | None  # int64 [R]


def sample(logits: torch.Tensor, rows: Rows, draws: Draws, info: bool) -> SampleOutput:
    """Tokens [B, num_samples]; with `info` also log-probabilities and kept counts."""
    batch = Batch.of(logits, rows)
    parts = [part for kind, group in _groups(batch) for part in _draw(kind, group, draws, info)]
    tokens, mass, kept = _together(parts)
    if not info:
        return SampleOutput(tokens)

    x = logits.gather(-1, tokens.clamp(min=0)).float()
    row_max, temperature = batch.row_max[:, None], rows.temperature[:, None]
    logprobs = log_probability(x, row_max, temperature, mass[:, None])
    c = torch.full_like(rows.c, LOG2_E)
    raw_mass = Scale.of(batch.maxima, batch.row_max, c)(batch.block_sums(c)).sum(-1)
    raw_logprobs = log_probability(x, row_max, torch.ones_like(row_max), raw_mass[:, None])
    invalid = tokens < 0
    return SampleOutput(
        tokens,
        logprobs.masked_fill_(rows.greedy[:, None], 0.0).masked_fill_(invalid, torch.nan),
        raw_logprobs.masked_fill_(invalid, torch.nan),
        kept,
    )


def mask_logits(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """`x / T` in fp32 [B, V], `-inf` where dropped; a greedy row keeps its token's own logit."""
    batch = Batch.of(logits, rows)
    threshold = torch.full_like(batch.row_max, -torch.inf)
    temperature = rows.temperature.masked_fill(rows.greedy, 1.0)
    for kind, group in _groups(batch):
        if kind in _SHORTLISTS:
            for part, shortlist in _shortlists(kind, group):
                threshold[list(part.numbers)] = shortlist.threshold()
    output = torch.empty(logits.shape, device=logits.device)
    for chunk in row_chunks(*logits.shape):
        torch.div(logits[chunk], temperature[chunk, None], out=output[chunk])
        output[chunk].masked_fill_(logits[chunk] < threshold[chunk, None], -torch.inf)
    for row in rows.greedy.nonzero()[:, 0]:
        best = logits[row].argmax()
        output[row].fill_(-torch.inf)[best] = logits[row, best]
    return output.masked_fill_(~batch.row_max.isfinite()[:, None], torch.nan)


def softmax(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Probabilities of `x / T` in fp32 [B, V]; a greedy row has all on its token."""
    output = torch.empty(logits.shape, device=logits.device)
    temperature = rows.temperature.masked_fill(rows.greedy, 1.0)[:, None]
    for chunk in row_chunks(*logits.shape):
        x = logits[chunk]
        scaled = (x - x.amax(-1, keepdim=True).float()).div_(temperature[chunk])
        torch.softmax(scaled, -1, out=output[chunk])
    for row in (rows.greedy & ~output[:, 0].isnan()).nonzero()[:, 0]:
        output[row].zero_()[logits[row].argmax()] = 1.0
    return output


def _groups(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """The rows by what serves them."""
    vocab = batch.logits.shape[-1]
    members: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    rows = batch.rows
    columns = batch.row_max, rows.temperature, rows.top_k, rows.top_p, rows.min_p_log2
    kind: tuple[str, int]
    for row, values in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        row_max, temperature, top_k, top_p, min_p_log2 = values
        if not math.isfinite(row_max):
            kind = "invalid", 0
        elif temperature < GREEDY_BELOW:
            kind = "greedy", 0
        elif top_k < vocab:
            kind = "top_k", top_k.bit_length()  # apart, lest one large k lengthen every list
        elif top_p < 1:
            kind = "top_p", 0
        elif min_p_log2 > -math.inf:
            kind = "min_p", 0
        else:
            kind = "all", 0
        members[kind].append(row)
    for (name, _), numbers in members.items():
        yield name, batch.select(numbers)


def _draw(kind: str, group: Batch, draws: Draws, info: bool) -> Iterator[Part]:
    """Draw for the rows of one group."""
    shape = len(group.numbers), draws.num_samples
    if kind == "invalid":
        tokens = torch.full(shape, -1, device=group.logits.device)
        yield Part(group.numbers, tokens, torch.zeros_like(tokens[:, 0]), tokens[:, 0] * 0)
    elif kind == "greedy":
        tokens = _first_best(group).expand(shape)
        one = torch.ones_like(tokens[:, 0])
        yield Part(group.numbers, tokens, one * BEST_MASS, one)
    elif kind == "all":
        kept = (group.own_logits() > -torch.inf).sum(-1) if info else None
        yield Part(group.numbers, *_draw_from_all(group, draws.select(group.numbers)), kept)
    else:
        for part, shortlist in _shortlists(kind, group):
            kept = shortlist.kept().sum(-1) if info else None
            yield Part(part.numbers, *shortlist.draw(draws.select(part.numbers)), kept)


def _together(parts: list[Part]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Tokens, masses and kept counts of the whole batch."""
    if len(parts) == 1:
        return parts[0][1:]
    places = torch.tensor([number for part in parts for number in part.numbers])
    order = places.argsort().to(parts[0].tokens.device)
    tokens = torch.cat([part.tokens for part in parts])[order]
    mass = torch.cat([part.mass for part in parts])[order]
    kept = [part.kept for part in parts if part.kept is not None]
    return tokens, mass, torch.cat(kept)[order] if len(kept) == len(parts) else None


def _first_best(group: Batch) -> torch.Tensor:
    """The lowest index of the maximum, [R, 1]."""
    block = group.maxima.argmax(-1, keepdim=True)  # the first of equals
    best = group.gather_blocks(block)[:, 0] == group.row_max[:, None]
    return block * BLOCK + best.int().argmax(-1, keepdim=True)


def _draw_from_all(group: Batch, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Unfiltered draws: tokens [R, num_samples] and the rows' masses [R]."""
    c = group.rows.c
    block_mass = Scale.of(group.maxima, group.row_max, c)(group.block_sums(c))
    upto = block_mass.cumsum(-1)
    mass = upto[:, -1]
    r = draws.below(mass)
    block = torch.searchsorted(upto, r, right=True)  # [R, num_samples], the block of each draw
    r -= (upto - block_mass).gather(-1, block)  # what is left to cover inside it

    x = group.gather_blocks(block).flatten(1)  # [R, num_samples * 64]
    block_max = group.maxima.gather(-1, block).repeat_interleave(BLOCK, -1)
    inside, scale = weights_and_scale(x, block_max, group.row_max, c)
    inside = scale(inside.unflatten(-1, (-1, BLOCK)).cumsum(-1).flatten(1))
    passed = inside.unflatten(-1, (-1, BLOCK)) <= r[..., None]
    return block * BLOCK + passed.sum(-1), mass


def _shortlists(kind: str, group: Batch) -> Iterator[tuple[Batch, Shortlist]]:
    """What the filters keep, in parts of the group."""
    for part, shortlist in _SHORTLISTS[kind](group):
        min_p_log2 = part.rows.min_p_log2
        if max(min_p_log2.tolist()) > -math.inf:
            z = (shortlist.x - part.row_max[:, None]) * part.rows.c[:, None]
            shortlist.drop(~(z >= min_p_log2[:, None]))
        yield part, shortlist


def _top_k(group: Batch) -> Iterator[tuple[Batch, Shortlist]]:
    """The k best and their ties, then top-p among them."""
    count = group.maxima.shape[-1]
    for numbers in _parts([BLOCK * min(k, count) for k in group.rows.top_k.tolist()]):
        part = group.select(numbers)
        shortlist = _best_k(part)
        top_p = part.rows.top_p
        if min(top_p.tolist()) < 1:
            threshold, _ = shortlist.nucleus(top_p)
            shortlist.drop((shortlist.x < threshold) & (top_p < 1)[:, None])
        yield part, shortlist


def _best_k(part: Batch) -> Shortlist:
    top_k = part.rows.top_k.tolist()
    most, count = max(top_k), part.maxima.shape[-1]
    blocks = None
    if most < count:
        best, blocks = part.maxima.topk(most + 1)
        if _last_ties(best, top_k):  # more than k blocks reach the k-th largest maximum
            bound = _kth(best, top_k)
            blocks = part.maxima.topk(int((part.maxima >= bound).sum(-1).max())).indices
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
    bound = row_max + group.rows.min_p_log2.double() / group.rows.c * (1 + 2**-20)
    bound = (bound - row_max.abs() * 2**-20).float()  # beyond the roundings of its fp32 rule
    bound.clamp_(min=LOWEST)
    for numbers in _parts((_reaching(group, bound) * BLOCK).tolist()):
        part = group.select(numbers)
        yield part, _above(part, bound[numbers])


def _top_p(group: Batch) -> Iterator[tuple[Batch, Shortlist]]:
    """The nucleus of whole rows."""
    scale = Scale.of(group.maxima, group.row_max, group.rows.c)
    mass = scale(group.block_sums(group.rows.c)).sum(-1)
    needed = needed_mass(group.rows.top_p, mass)
    bound, width = _top_p_bound(group, scale, mass, needed)
    todo = list(_parts(width.tolist()))
    while todo:
        numbers = todo.pop()
        part = group.select(numbers)
        shortlist = _above(part, bound[numbers])
        threshold, enough = shortlist.nucleus(part.rows.top_p, mass[numbers])
        if not (enough | (bound[numbers] <= LOWEST)).all():  # the sample guessed too high
            bound[numbers] = bound[numbers].where(enough, LOWEST)
            todo.extend([number] for number in numbers)
            continue
        shortlist.drop(shortlist.x < threshold)
        yield part, shortlist


def _top_p_bound(
    group: Batch, scale: Scale, mass: torch.Tensor, needed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A logit that should not lie above the nucleus threshold, and about how many reach it, [R].

    Where the best block maxima alone hold the mass that is needed it surely does not. Elsewhere a
    sample of the row tells where the light tokens hold nearly all of what is to be dropped.
    """
    best, block = group.maxima.topk(min(_FEW_MAXIMA, group.maxima.shape[-1]))
    upto = scale.gather(block)(BEST_WEIGHT).cumsum(-1)
    last = torch.searchsorted(upto, needed[:, None])
    bound = best.gather(-1, last.clamp(max=best.shape[-1] - 1))[:, 0]
    width = (last[:, 0] + 1) * BLOCK
    rest = (last[:, 0] == best.shape[-1]).nonzero()[:, 0]
    if len(rest):
        stride = max(1, group.logits.shape[-1] // _SAMPLED)
        x = group.select(rest.tolist()).own_logits()[:, ::stride].float()
        bin, bin_width = into_bins(x)
        z = (x - group.row_max[rest, None]) * group.rows.c[rest, None]
        dropped = (mass - needed)[rest].float() / BEST_MASS * (_TRUST / stride)
        light = z.new_zeros(x.shape[0], BINS).scatter_add_(-1, bin, z.exp2_())
        light = light.flip(-1).cumsum(-1)  # from the lightest bin up
        bins = BINS - torch.searchsorted(light, dropped[:, None])  # how many are not dropped
        bound[rest] = (x.amax(-1, keepdim=True) - bins * bin_width)[:, 0]
        width[rest] = (bin < bins).sum(-1) * stride
    return bound.clamp_(min=LOWEST), width


_SHORTLISTS = {"top_k": _top_k, "top_p": _top_p, "min_p": _min_p}


def _above(part: Batch, bound: torch.Tensor) -> Shortlist:
    """Every token at or above `bound` [R]."""
    reaching, count = int(_reaching(part, bound).max()), part.maxima.shape[-1]
    blocks = part.maxima.topk(reaching).indices if 2 * reaching < count else None
    x, blocks = _candidates(part, blocks)
    place = (x >= bound[:, None]).view(-1).nonzero()[:, 0]  # row by row, in vocabulary order
    starts = torch.arange(0, x.numel() + 1, x.shape[-1], device=x.device)
    counts = torch.searchsorted(place, starts).diff()[:, None]
    filled = torch.arange(int(counts.max()), device=x.device) < counts
    position = torch.zeros(filled.shape, dtype=torch.int64, device=x.device)
    position.masked_scatter_(filled, place % x.shape[-1])
    listed = x.new_full(filled.shape, -torch.inf)
    listed.masked_scatter_(filled, x.reshape(-1)[place])
    return _listed(part, position, listed, blocks)


def _reaching(group: Batch, bound: torch.Tensor) -> torch.Tensor:
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
    return Shortlist(ids, block, x, part.maxima, part.row_max, part.rows.c)


def _parts(width: list[int]) -> Iterator[list[int]]:
    """Cut rows, whose shortlists are about `width` wide, into parts that stay small together.

    Rows of a part have widths of the same order: the widest sets what each of them costs.
    """
    by_order: defaultdict[int, list[int]] = defaultdict(list)
    for row, tokens in enumerate(width):
        by_order[tokens.bit_length() // 3].append(row)
    for rows in by_order.values():
        size = max(1, _LIST_TOKENS // max(1, *(width[row] for row in rows)))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))
