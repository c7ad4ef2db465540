"""A few candidate tokens of each row: their masses, the nucleus among them, the draw."""

from __future__ import annotations

import torch

from .blocks import Scale, weights_and_scale
from .draws import Draws


class Shortlist:
    """Tokens of R rows in vocabulary order, all tensors [R, n]; a dropped token has `x = -inf`.

    A row with fewer tokens than n has padding at its end, dropped from the start.
    """

    def __init__(
        self,
        ids: torch.Tensor,
        block: torch.Tensor,
        x: torch.Tensor,
        maxima: torch.Tensor,
        row_max: torch.Tensor,
        c: torch.Tensor,
    ):
        self.ids = ids  # int64
        self.block = block  # int64, ids // 64
        self.x = x  # fp32
        self.weights, self.scale = weights_and_scale(x, maxima.gather(-1, block), row_max, c)

    def drop(self, dropped: torch.Tensor) -> None:
        """Drop the tokens where `dropped`, bool [R, n], is set."""
        self.x.masked_fill_(dropped, -torch.inf)
        self.weights.masked_fill_(dropped, 0)

    def kept(self) -> torch.Tensor:
        return self.x > -torch.inf

    def threshold(self) -> torch.Tensor:
        """The lowest logit kept, [R]."""
        return self.x.masked_fill(~self.kept(), torch.inf).amin(-1)

    def mass_from_best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits from the best down and the mass of each prefix, [R, n] both."""
        x, order = self.x.sort(descending=True)
        # What a token adds depends on the better ones of its block: bring blocks together.
        block, by_block = self.block.gather(-1, order).sort(stable=True)
        order = order.gather(-1, by_block)
        added = _added_mass(self.weights.gather(-1, order), block, self.scale.gather(order))
        return x, torch.empty_like(added).scatter_(-1, by_block, added).cumsum(-1)

    def draw(self, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [R, num_samples] and the kept mass [R]."""
        upto = _added_mass(self.weights, self.block, self.scale).cumsum(-1)
        mass = upto[:, -1]
        slot = torch.searchsorted(upto, draws.below(mass), right=True)
        return self.ids.gather(-1, slot), mass


def _added_mass(weights: torch.Tensor, block: torch.Tensor, scale: Scale) -> torch.Tensor:
    """What each token adds to the mass before it, where the tokens of a block are neighbours."""
    upto = weights.cumsum(-1)
    same = block[:, 1:] == block[:, :-1]
    # Weights of the earlier blocks: the sum before each block's first token, carried along.
    earlier = upto[:, :-1].masked_fill(same, 0).cummax(-1).values
    upto[:, 1:] -= earlier
    mass = scale(upto)
    mass[:, 1:] -= mass[:, :-1] * same
    return mass
