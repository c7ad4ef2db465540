"""What users get without a GPU: tokens and kept sets of the reference, without its sorts.

One pass finds the maximum of every block of 64 logits. Where a filter is on, `narrow.py` finds the
few tokens that matter, and sorting, top-p and the cumulative-sum draw work on those. Without a
filter a second pass finds the block masses; the draw picks a block, whose 64 tokens matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from . import near, single
from .batch import Batch
from .blocks import row_chunks, weights_and_scale
from .contract.draws import Draws
from .contract.mass import BEST_MASS, BLOCK, LOG2_E
from .narrow import KINDS, shortlists
from .output import SampleOutput, log_probability
from .params import GREEDY_BELOW, Rows

_NEAR_DRAWS = 4  # draws a row for which near masses are tried: any may need the true ones
_DRAWN_TOKENS = 2**18  # tokens of the drawn blocks gathered at one time: bounds the memory


class Part(NamedTuple):
    """What was drawn for some rows."""

    numbers: Sequence[int]
    tokens: torch.Tensor  # int64 [R, num_samples]
    mass: torch.Tensor | None = None  # int64 [R], of the kept set; with `info`, as the next
    kept: torch.Tensor | None = None  # int64 [R]


def sample(logits: torch.Tensor, rows: Rows, draws: Draws, info: bool) -> SampleOutput:
    """Tokens [B, num_samples]; with `info` also log-probabilities and kept counts."""
    device = logits.device
    with torch.inference_mode():  # a tenth faster; clones leave it
        output = _sample(logits, rows.to(device), draws.to(device), info)
    return output.map(torch.clone)


def _sample(logits: torch.Tensor, rows: Rows, draws: Draws, info: bool) -> SampleOutput:
    batch = Batch.of(logits, rows)
    if len(logits) == 1 and not info and logits.device.type == "cpu":
        token = single.draw(batch, draws)
        if token is not None:
            return SampleOutput(token)
    parts = [part for kind, group in _groups(batch) for part in _draw(kind, group, draws, info)]
    tokens, *more = _together(parts)
    if not info:
        return SampleOutput(tokens)

    mass, kept = more
    x = logits.gather(-1, tokens.clamp(min=0)).float()
    row_max, temperature = batch.row_max[:, None], rows.temperature[:, None]
    logprobs = log_probability(x, row_max, temperature, mass[:, None])
    c = torch.full_like(rows.c, LOG2_E)
    raw_mass = batch.block_masses(c).sum(-1)
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
    rows = rows.to(logits.device)
    batch = Batch.of(logits, rows)
    threshold = torch.full_like(batch.row_max, -torch.inf)
    temperature = rows.temperature.masked_fill(rows.greedy, 1.0)
    for kind, group in _groups(batch):
        if kind in KINDS:
            for shortlist in shortlists(kind, group):
                threshold[list(shortlist.part.numbers)] = shortlist.threshold()
    output = logits.new_empty(logits.shape, dtype=torch.float32)
    for chunk in row_chunks(*logits.shape):
        torch.div(logits[chunk], temperature[chunk, None], out=output[chunk])
        output[chunk].masked_fill_(logits[chunk] < threshold[chunk, None], -torch.inf)
    for row in rows.greedy.nonzero()[:, 0]:
        best = logits[row].argmax()
        output[row].fill_(-torch.inf)[best] = logits[row, best]
    return output.masked_fill_(~batch.row_max.isfinite()[:, None], torch.nan)


def softmax(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Probabilities of `x / T` in fp32 [B, V]; a greedy row has all on its token."""
    rows = rows.to(logits.device)
    output = logits.new_empty(logits.shape, dtype=torch.float32)
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
        nothing = torch.zeros_like(tokens[:, 0])
        yield Part(group.numbers, tokens, *(nothing, nothing) if info else ())
    elif kind == "greedy":
        tokens = _first_best(group).expand(shape)
        one = torch.ones_like(tokens[:, 0])
        yield Part(group.numbers, tokens, *(one * BEST_MASS, one) if info else ())
    elif kind == "all":
        own = draws.select(group.numbers)
        if info:
            yield Part(group.numbers, *_draw_from_all(group, own), _count_allowed(group))
        elif draws.num_samples > _NEAR_DRAWS:
            yield Part(group.numbers, _draw_from_all(group, own)[0])
        else:
            yield Part(group.numbers, _draw_near(group, own))
    else:
        for shortlist in shortlists(kind, group):
            numbers = shortlist.part.numbers
            own = draws.select(numbers)
            if info:
                yield Part(numbers, *shortlist.draw(own), shortlist.kept().sum(-1))
            else:
                yield Part(numbers, shortlist.draw_near(own))


def _together(parts: list[Part]) -> list[torch.Tensor]:
    """The columns of the parts, those that there are, for the whole batch."""
    columns = [column for column in zip(*parts, strict=True) if column[0] is not None][1:]
    if len(parts) == 1:
        return [column[0] for column in columns]
    device = parts[0].tokens.device
    order = torch.tensor([n for part in parts for n in part.numbers], device=device).argsort()
    return [torch.cat(column)[order] for column in columns]


def _first_best(group: Batch) -> torch.Tensor:
    """The lowest index of the maximum, [R, 1]."""
    block = group.maxima.argmax(-1, keepdim=True)  # the first of equals
    best = group.gather_blocks(block)[:, 0] == group.row_max[:, None]
    return block * BLOCK + best.int().argmax(-1, keepdim=True)


def _count_allowed(group: Batch) -> torch.Tensor:
    """How many tokens are not forbidden, [R]."""
    rows = (group.logits[number] for number in group.numbers)
    return torch.stack([torch.count_nonzero(x > -torch.inf) for x in rows])


def _draw_from_all(group: Batch, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Unfiltered draws: tokens [R, num_samples] and the rows' masses [R]."""
    block_mass = group.block_masses(group.rows.c)
    upto = block_mass.cumsum(-1)
    mass = upto[:, -1]
    r = draws.below(mass)
    block = torch.searchsorted(upto, r, right=True)  # [R, num_samples], the block of each draw
    r -= (upto - block_mass).gather(-1, block)  # what is left to cover inside it

    step = max(1, _DRAWN_TOKENS // (BLOCK * len(block)))
    pairs = zip(block.split(step, -1), r.split(step, -1), strict=True)
    return torch.cat([_draw_inside(group, *pair) for pair in pairs], -1), mass


def _draw_inside(group: Batch, block: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """The tokens at which the cumulative sums inside blocks [R, n] pass r [R, n]."""
    x = group.gather_blocks(block)  # [R, n, 64]
    block_max = group.maxima.gather(-1, block).repeat_interleave(BLOCK, -1)
    weights, scale = weights_and_scale(x.flatten(1), block_max, group.row_max, group.rows.c)
    upto = scale(weights.view_as(x).cumsum(-1).flatten(1)).view_as(x)
    return block * BLOCK + (upto <= r[..., None]).sum(-1)


def _draw_near(group: Batch, draws: Draws) -> torch.Tensor:
    """The tokens of `_draw_from_all`, by near masses unless their error could change one."""
    block_mass = near.block_masses(group)
    upto = block_mass.cumsum(-1)
    mass = upto[:, -1:]
    r = draws.uniform() * mass
    block = torch.searchsorted(upto, r, right=True).clamp_(max=upto.shape[-1] - 1)
    r -= (upto - block_mass).gather(-1, block)

    x = group.gather_blocks(block)  # [R, num_samples, 64]
    block_max = group.maxima.gather(-1, block).repeat_interleave(BLOCK, -1)
    inside = near.token_masses(x.flatten(1), block_max, group.row_max, group.rows.c)
    upto = inside.view_as(x).cumsum(-1)
    # An error of the masses before a block moves r as well, by the share U: together they are off
    # by at most ROW_ERROR of the row's mass.
    slack = (near.ROW_ERROR + near.TOKEN_ERROR) * mass
    first, last = ((upto <= end[..., None]).sum(-1) for end in (r - slack, r + slack))
    tokens = first.add_(block * BLOCK)
    sure = (tokens == last.add_(block * BLOCK)) & (r >= slack)
    if not sure.all():
        rest = (~sure).any(-1).nonzero()[:, 0].tolist()
        tokens[rest], _ = _draw_from_all(group.select(rest), draws.select(rest))
    return tokens
