"""Each kept set against the contract's, before anything is timed.

A peer may differ where rounding moves its boundary, and by ties of the boundary, which it may cut
by position. Ours may not differ at all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..contract import reference
from ..contract.draws import resolve_draws
from ..params import resolve_rows
from .ours import SEED
from .peers.base import Params

CHECKED_ROWS = 4  # the first of a batch: the reference sorts
TOLERANCE = 0.01  # of the kept tokens, and of their probability, beyond the ties of the boundary


class Difference(NamedTuple):
    """How a kept set differs from the contract's, in tokens of the checked rows."""

    tokens: int  # in one of the two only
    beyond_ties: int  # of them, not tied with the contract's boundary
    kept: int  # by the contract
    probability: float  # of those beyond ties, as a share of the kept, in the row where it is most

    @property
    def is_rounding(self) -> bool:
        return self.beyond_ties <= TOLERANCE * self.kept and self.probability <= TOLERANCE


class Contract:
    """What the contract keeps and draws in the first rows of a batch."""

    def __init__(self, logits: torch.Tensor, params: Params):
        self.logits = logits[:CHECKED_ROWS]
        self.params: Params = {
            name: value[:CHECKED_ROWS] if isinstance(value, torch.Tensor) else value
            for name, value in params.items()
        }
        rows = resolve_rows(self.logits, **self.params)
        draws = resolve_draws(SEED, 0, 1, None, len(self.logits), logits.device)
        self.kept = reference.mask_logits(self.logits, rows).isfinite()
        self.tokens = reference.sample(self.logits, rows, draws, False).tokens[:, 0]
        self.probabilities = reference.softmax(self.logits, rows)

    def difference(self, mask: torch.Tensor) -> Difference:
        """`mask` is bool [rows, V], of these rows."""
        differs = mask != self.kept
        x = self.logits.float()
        boundary = x.masked_fill(~self.kept, torch.inf).amin(-1, keepdim=True)
        beyond = differs & (x != boundary)
        kept_mass = (self.probabilities * self.kept).sum(-1)
        share = (self.probabilities * beyond).sum(-1) / kept_mass
        return Difference(
            int(differs.sum()), int(beyond.sum()), int(self.kept.sum()), float(share.max())
        )

    def refusal(
        self, mask: torch.Tensor, tokens: torch.Tensor, difference: Difference, exact: bool
    ) -> str | None:
        """Why a sampler that keeps `mask` and drew `tokens` in these rows is not to be timed."""
        if difference.tokens and (exact or not difference.is_rounding):
            return (
                f"its kept set differs from the contract's in {difference.tokens} tokens "
                f"({difference.beyond_ties} beyond ties of the boundary) of {difference.kept}"
            )
        if not mask.gather(1, tokens[:, None]).all():
            return "it drew a token that it does not keep"
        if exact and not torch.equal(tokens, self.tokens):
            return f"it drew {tokens.tolist()} where the contract draws {self.tokens.tolist()}"
        return None
