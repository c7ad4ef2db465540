"""The textbook: sort, cumulative sum, cut, draw, on any device that PyTorch has.

It follows the contract line by line on whole rows, without a shortcut: the backend "torch", and
what every kernel has to equal bit for bit. Each filter's rule stands in its file of
`fused_sampler.filters`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..edits.apply import edited
from ..edits.resolve import RowEdits
from ..filters import FILTERS
from ..output import Drawn, RowState, log_probability, logarithm
from ..params import RowParams
from .draws import NO_DRAWS, Draws
from .mass import BLOCK, LOG2_E, LOWEST, exp2_parts, scale_sums, token_weights, whole_depth


class BlockTable:
    """Logits [B, V] in N blocks of 64, their integer weights and scales (contract section 3)."""

    def __init__(self, logits: torch.Tensor, c: torch.Tensor):
        self.c = c  # [B]
        x = logits.float() + 0.0  # -0.0 counts as +0.0
        self.x = F.pad(x, (0, -x.shape[-1] % BLOCK), value=-torch.inf)  # [B, N * 64]
        self.block_max = self.blocks(self.x).amax(-1)  # [B, N]
        self.row_max = self.block_max.amax(-1)  # [B]
        self.z = (self.x - self.row_max[:, None]) * c[:, None]  # [B, N * 64], log2 beside the best
        self.weights = token_weights(
            self.blocks(self.x), self.block_max[..., None], c[:, None, None]
        )  # [B, N, 64]
        self.mantissa, self.exponent = exp2_parts(
            (self.block_max - self.row_max[:, None]) * c[:, None]
        )

    @staticmethod
    def blocks(values: torch.Tensor) -> torch.Tensor:
        """[B, V] as [B, N, 64]; what a short last block lacks is 0."""
        return F.pad(values, (0, -values.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))

    def scale(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums of weights inside each block, [B, N] or [B, N, 64], in units of mass."""
        shape = self.mantissa.shape + (1,) * (sums.dim() - 2)
        return scale_sums(sums, self.mantissa.view(shape), self.exponent.view(shape))

    def mass(self, kept: torch.Tensor) -> torch.Tensor:
        """`mass(K)`, int64 [B], of the tokens `kept`, bool [B, V]."""
        return self.scale((self.weights * self.blocks(kept)).sum(-1)).sum(-1)

    def best_z(self, kept: torch.Tensor) -> torch.Tensor:
        """The z of the best of the tokens `kept`, fp32 [B, 1]."""
        return self.z.masked_fill(~kept, -torch.inf).amax(-1, keepdim=True)

    def best_id(self, kept: torch.Tensor) -> torch.Tensor:
        """The first id of the largest logit of the tokens `kept`, int64 [B, 1]."""
        return self.x.masked_fill(~kept, -torch.inf).argmax(-1, keepdim=True)

    def depth(self, kept: torch.Tensor) -> torch.Tensor:
        """The sum of `-z` over the tokens `kept`, times their mass, int64 [B].

        In units of mass: with that of the kept tokens it gives the mean of -z.
        """
        c = self.c[:, None, None]
        block_max = self.block_max.clamp(min=LOWEST)[..., None]
        in_block = whole_depth((self.blocks(self.x) - block_max) * c)
        of_block = whole_depth((self.block_max - self.row_max[:, None]) * c[..., 0])
        weights = self.weights * self.blocks(kept)
        sums = (weights * in_block).sum(-1) + weights.sum(-1) * of_block
        return (((sums >> 28) * self.mantissa) >> (6 - self.exponent).clamp(max=63)).sum(-1)

    def cumulative_mass(self, kept: torch.Tensor) -> torch.Tensor:
        """`mass({j kept: j <= i})` of every id i, int64 [B, N * 64] (contract section 5)."""
        weights = self.weights * self.blocks(kept)
        block_mass = self.scale(weights.sum(-1))
        before = block_mass.cumsum(-1) - block_mass  # mass of the earlier blocks
        return (before[..., None] + self.scale(weights.cumsum(-1))).flatten(1)


def kept_set(logits: torch.Tensor, rows: RowParams, draws: Draws = NO_DRAWS) -> torch.Tensor:
    """What the filters keep, bool [B, V]; of a greedy row its one token."""
    return _kept_set(logits, rows, draws)[:, : logits.shape[-1]]


def _kept_set(logits: torch.Tensor, rows: RowParams, draws: Draws) -> torch.Tensor:
    """The same for all of the table, bool [B, N * 64]."""
    table = BlockTable(logits, rows.filter_c)
    spared = draws.third_words(len(logits), logits.device) >= rows.xtc_chance.double()
    columns = dict(rows.filters)
    columns["xtc_threshold"] = columns["xtc_threshold"].masked_fill(spared, torch.inf)
    kept = table.x > -torch.inf
    for f in FILTERS:
        kept = kept & f.keep(table, kept, columns[f.name][:, None])
    best = F.one_hot(table.x.argmax(-1), kept.shape[-1]).bool()  # the first of the maxima
    return torch.where(rows.greedy[:, None], best, kept)


def _without_replacement(
    table: BlockTable, kept: torch.Tensor, greedy: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """Tokens [B, num_samples], each drawn from what is left of `kept`; -1 where nothing is.

    A greedy row gives its best tokens in order, whatever the filters keep.
    """
    left = torch.where(greedy, table.x > -torch.inf, kept)
    tokens = []
    for draw in range(draws.num_samples):
        upto = table.cumulative_mass(left)
        mass = upto[:, -1:]
        drawn = torch.searchsorted(upto, draws.below(mass, draw), right=True)
        nothing = torch.where(greedy, ~left.any(-1, keepdim=True), mass == 0)
        token = torch.where(greedy, table.best_id(left), drawn).masked_fill(nothing, -1)
        left = left.scatter(-1, token.clamp(min=0), False)
        tokens.append(token)
    return torch.cat(tokens, dim=-1)


def sample(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws,
    info: bool,
    edits: RowEdits | None = None,
) -> Drawn:
    """Tokens [B, num_samples] by the cumulative sum of contract section 5."""
    rows = rows.to(logits.device)
    raw_logits, logits = logits, edited(logits, edits)
    table = BlockTable(logits, rows.c)
    kept = _kept_set(logits, rows, draws)
    upto = table.cumulative_mass(kept)
    mass = upto[:, -1:]
    greedy = rows.greedy[:, None]
    if draws.replacement:
        r = draws.below(mass)
        drawn = torch.searchsorted(upto, r, right=True)
        tokens = torch.where(greedy | (mass == 0), table.best_id(kept), drawn)
    else:
        tokens = _without_replacement(table, kept, greedy, draws)
    invalid = ~table.row_max.isfinite()[:, None]
    tokens = tokens.masked_fill(invalid, -1)
    if not info:
        return Drawn(tokens)

    none = tokens < 0
    x = logits.float().gather(-1, tokens.clamp(min=0))
    row_max = table.row_max[:, None]
    log_mass = logarithm(mass)
    logprobs = log_probability(x, row_max, rows.temperature[:, None], log_mass)
    certain = torch.full_like(logprobs, -torch.inf).masked_fill(tokens == tokens[:, :1], 0.0)
    logprobs = torch.where(greedy, certain, logprobs)
    raw = BlockTable(raw_logits, torch.full_like(rows.c, LOG2_E))
    raw_log_mass = logarithm(raw.mass(raw.x > -torch.inf))[:, None]
    raw_x, raw_max = raw_logits.float().gather(-1, tokens.clamp(min=0)), raw.row_max[:, None]
    raw_max = raw_max.masked_fill(~raw_max.isfinite(), torch.nan)  # it may hold one that is banned
    raw_logprobs = log_probability(raw_x, raw_max, torch.ones_like(row_max), raw_log_mass)
    state = RowState(
        table.row_max.masked_fill(invalid[:, 0], torch.nan),
        table.x.masked_fill(~kept, torch.inf).amin(-1),
        table.x.masked_fill(~kept, -torch.inf).amax(-1),
        log_mass[:, 0],
        raw_log_mass[:, 0],
        raw_max[:, 0].masked_fill(invalid[:, 0], torch.nan),
    )
    return Drawn(
        tokens,
        logprobs.masked_fill(none, torch.nan),
        raw_logprobs.masked_fill(none, torch.nan),
        kept.sum(-1).masked_fill(invalid[:, 0], 0),
        state,
    )


def mask_logits(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws = NO_DRAWS,
    edits: RowEdits | None = None,
) -> torch.Tensor:
    """`x / T` in fp32 [B, V], `-inf` where dropped; a greedy row keeps its token's own logit.

    An invalid row is NaN throughout, as it is in `softmax`.
    """
    rows, logits = rows.to(logits.device), edited(logits, edits)
    temperature = rows.temperature.masked_fill(rows.greedy, 1.0)[:, None]
    kept = _kept_set(logits, rows, draws)[:, : logits.shape[-1]]
    masked = (logits.float() / temperature).masked_fill(~kept, -torch.inf)
    row_max = logits.float().amax(-1, keepdim=True)
    return masked.masked_fill(~row_max.isfinite(), torch.nan)


def softmax(logits: torch.Tensor, rows: RowParams) -> torch.Tensor:
    """Probabilities of `x / T` in fp32 [B, V]; a greedy row has all on its token."""
    rows, x = rows.to(logits.device), logits.float()
    temperature = rows.temperature.masked_fill(rows.greedy, 1.0)[:, None]
    x = (x - x.amax(-1, keepdim=True)) / temperature
    best = F.one_hot(logits.argmax(-1), x.shape[-1]).float()
    probabilities = x.softmax(-1)
    return torch.where(rows.greedy[:, None] & ~probabilities[:, :1].isnan(), best, probabilities)
