"""The textbook: sort, cumulative sum, cut, draw. Plain and slow, the oracle of every test.

It follows the contract line by line on whole rows, without a shortcut; `fallback.py` holds the
same functions for daily use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..output import SampleOutput, log_probability
from ..params import Rows
from .draws import Draws
from .mass import BLOCK, LOG2_E, exp2_parts, scale_sums, token_weights


class BlockTable:
    """Logits [B, V] in N blocks of 64, their integer weights and scales (contract section 3)."""

    def __init__(self, logits: torch.Tensor, c: torch.Tensor):
        x = logits.float() + 0.0  # -0.0 counts as +0.0
        padding = -x.shape[-1] % BLOCK
        self.x = F.pad(x, (0, padding), value=-torch.inf).unflatten(-1, (-1, BLOCK))  # [B, N, 64]
        self.block_max = self.x.amax(-1)  # [B, N]
        self.row_max = self.block_max.amax(-1)  # [B]
        self.weights = token_weights(self.x, self.block_max[..., None], c[:, None, None])
        self.mantissa, self.exponent = exp2_parts(
            (self.block_max - self.row_max[:, None]) * c[:, None]
        )

    def scale(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums of weights inside each block, [B, N] or [B, N, 64], in units of mass."""
        shape = self.mantissa.shape + (1,) * (sums.dim() - 2)
        return scale_sums(sums, self.mantissa.view(shape), self.exponent.view(shape))


def kept_set(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """What the filters keep, bool [B, V]; of a greedy row its one token."""
    table = BlockTable(logits, rows.c)
    x = table.x.flatten(1)  # [B, N * 64]
    keep = x > -torch.inf

    kth = x.sort(descending=True).values.gather(-1, rows.top_k[:, None] - 1)
    keep &= x >= kth

    threshold = _nucleus_threshold(table, keep, rows.top_p)
    keep &= (x >= threshold) | (rows.top_p[:, None] >= 1)

    keep &= (x - table.row_max[:, None]) * rows.c[:, None] >= rows.min_p_log2[:, None]

    best = F.one_hot(x.argmax(-1), x.shape[-1]).bool()  # the first of the maxima
    return torch.where(rows.greedy[:, None], best, keep)[:, : logits.shape[-1]]


def _nucleus_threshold(table: BlockTable, keep: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The lowest logit of the nucleus, [B, 1]: where the mass of the best tokens reaches P."""
    kept = keep.view_as(table.x)
    # What each token adds to the mass when tokens are taken from the best down: scaling rounds
    # down once a block, so a token's share depends on the better ones of its own block.
    x, order = table.x.masked_fill(~kept, -torch.inf).sort(descending=True)
    taken = table.scale((table.weights * kept).gather(-1, order).cumsum(-1))
    added = taken.diff(dim=-1, prepend=torch.zeros_like(taken[..., :1]))

    x, order = x.flatten(1).sort(descending=True)
    mass = added.flatten(1).gather(-1, order).cumsum(-1)
    needed = (top_p * mass[:, -1].double()).ceil().long().clamp(min=1)
    last = (mass < needed[:, None]).sum(-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
    return x.gather(-1, last)


def cumulative_mass(table: BlockTable, keep: torch.Tensor) -> torch.Tensor:
    """`mass({j kept: j <= i})` of every id i, int64 [B, N * 64] (contract sections 3 and 5)."""
    weights = table.weights * F.pad(keep, (0, -keep.shape[-1] % BLOCK)).view_as(table.x)
    block_mass = table.scale(weights.sum(-1))
    before = block_mass.cumsum(-1) - block_mass  # mass of the earlier blocks
    return (before[..., None] + table.scale(weights.cumsum(-1))).flatten(1)


def sample(logits: torch.Tensor, rows: Rows, draws: Draws, info: bool) -> SampleOutput:
    """Tokens [B, num_samples] by the cumulative sum of contract section 5."""
    rows, draws = rows.to(logits.device), draws.to(logits.device)
    table = BlockTable(logits, rows.c)
    keep = kept_set(logits, rows)
    upto = cumulative_mass(table, keep)
    mass = upto[:, -1:]
    r = draws.below(mass[:, 0])
    drawn = torch.searchsorted(upto, r, right=True).clamp(max=logits.shape[-1] - 1)

    greedy = rows.greedy[:, None]
    tokens = torch.where(greedy, keep.int().argmax(-1, keepdim=True), drawn)
    invalid = ~table.row_max.isfinite()[:, None]
    if not info:
        return SampleOutput(tokens.masked_fill(invalid, -1))

    x = logits.float().gather(-1, tokens)
    row_max = table.row_max[:, None]
    logprobs = log_probability(x, row_max, rows.temperature[:, None], mass).masked_fill(greedy, 0.0)
    raw = BlockTable(logits, torch.full_like(rows.c, LOG2_E))
    raw_mass = raw.scale(raw.weights.sum(-1)).sum(-1, keepdim=True)
    raw_logprobs = log_probability(x, row_max, torch.ones_like(row_max), raw_mass)
    return SampleOutput(
        tokens.masked_fill(invalid, -1),
        logprobs.masked_fill(invalid, torch.nan),
        raw_logprobs.masked_fill(invalid, torch.nan),
        keep.sum(-1).masked_fill(invalid[:, 0], 0),
    )


def mask_logits(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """`x / T` in fp32 [B, V], `-inf` where dropped; a greedy row keeps its token's own logit.

    An invalid row is NaN throughout, as it is in `softmax`.
    """
    rows = rows.to(logits.device)
    temperature = rows.temperature.masked_fill(rows.greedy, 1.0)[:, None]
    masked = (logits.float() / temperature).masked_fill(~kept_set(logits, rows), -torch.inf)
    return masked.masked_fill(~logits.amax(-1, keepdim=True).isfinite(), torch.nan)


def softmax(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Probabilities of `x / T` in fp32 [B, V]; a greedy row has all on its token."""
    rows, x = rows.to(logits.device), logits.float()
    temperature = rows.temperature.masked_fill(rows.greedy, 1.0)[:, None]
    x = (x - x.amax(-1, keepdim=True)) / temperature
    best = F.one_hot(logits.argmax(-1), x.shape[-1]).float()
    probabilities = x.softmax(-1)
    return torch.where(rows.greedy[:, None] & ~probabilities[:, :1].isnan(), best, probabilities)
