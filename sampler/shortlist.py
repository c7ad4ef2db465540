"""A few candidate tokens of each row: their masses, the nucleus among them, the draw."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from .batch import Batch
from .blocks import Scale, weights_and_scale
from .contract.draws import Draws
from .contract.mass import BEST_MASS, BLOCK_BITS, LOWEST
from .near import ROW_ERROR, TOKEN_ERROR, token_masses

_SORTED = 1024  # tokens a row that are sorted without further thought
BINS = 1024
_NOTHING = 50.0  # powers of two below the best token


class Shortlist:
    """Tokens of R rows in vocabulary order, all tensors [R, n]; a dropped token has `x = -inf`.

    A row with fewer tokens than n has padding, dropped from the start.
    """

    def __init__(self, part: Batch, ids: torch.Tensor, x: torch.Tensor):
        self.part = part
        self.ids = ids  # int64
        self.x = x  # fp32
        self.block = ids >> BLOCK_BITS
        self.block_max = part.maxima.gather(-1, self.block)

    @cached_property
    def mass(self) -> torch.Tensor:
        """Near masses, fp64."""
        return token_masses(self.x, self.block_max, self.part.row_max, self.part.rows.c)

    @cached_property
    def integers(self) -> tuple[torch.Tensor, Scale]:
        """The tokens' weights, and the scales of their blocks."""
        return weights_and_scale(self.x, self.block_max, self.part.row_max, self.part.rows.c)

    def drop(self, dropped: torch.Tensor) -> None:
        """Drop the tokens where `dropped`, bool [R, n], is set."""
        self.x.masked_fill_(dropped, -torch.inf)
        if "mass" in vars(self):
            self.mass.masked_fill_(dropped, 0)
        if "integers" in vars(self):
            self.integers[0].masked_fill_(dropped, 0)

    def kept(self) -> torch.Tensor:
        return self.x > -torch.inf

    def threshold(self) -> torch.Tensor:
        """The lowest logit kept, [R]."""
        return self.x.masked_fill(~self.kept(), torch.inf).amin(-1)

    def nucleus(
        self,
        top_p: torch.Tensor,
        row_mass: torch.Tensor | None = None,
        true_mass: Callable[[Batch], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The logit at which the mass from the best token down reaches `P`, [R, 1].

        `P` is the share `top_p` [R] of the mass of the row, or else of the shortlist itself. The
        second tensor, bool [R], is True where the shortlist surely holds as much as `P`.
        `row_mass`, fp64 [R], is within `ROW_ERROR`; `true_mass` works out some rows' int64 ones.
        """
        total = self.mass.sum(-1)
        needed = top_p * (total if row_mass is None else row_mass)
        error = TOKEN_ERROR + (TOKEN_ERROR if row_mass is None else ROW_ERROR)
        # P is rounded up to an integer, at least 1.
        first, last = needed * (1 - error), needed * (1 + error) + 2 / BEST_MASS
        best, upto = self._from_best(self.mass, first, last)
        threshold, sure = _value_between(best, upto, first, last)
        if not sure.all():
            rows = (~sure).nonzero()[:, 0].tolist()
            rest = self.select(rows)
            threshold[rows], _ = rest.true_nucleus(top_p[rows], true_mass and true_mass(rest.part))
        return threshold, total >= last

    def true_nucleus(
        self, top_p: torch.Tensor, row_mass: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`nucleus` by the contract's integers; `row_mass`, if given, is the rows' own."""
        weights, scale = self.integers
        # Each token scaled on its own rounds down by less than 1, so that of n tokens the true
        # mass lies from the sum to the sum + n: nearly always enough to tell where P is reached.
        mass, slack = scale(weights), self.x.shape[-1]
        total = mass.sum(-1)
        least, most = (total, total + slack) if row_mass is None else (row_mass, row_mass)
        first, last = _needed(top_p, least) - slack, _needed(top_p, most)
        best, upto = self._from_best(mass, first, last)
        threshold, sure = _value_between(best, upto, first, last)
        if sure.all():
            return threshold, total >= last
        best, order = self.x.sort(descending=True)
        # What a token adds depends on the better ones of its block: bring blocks together.
        block, by_block = self.block.gather(-1, order).sort(stable=True)
        order = order.gather(-1, by_block)
        added = _added_mass(weights.gather(-1, order), scale.gather(order), block)
        upto = torch.empty_like(added).scatter_(-1, by_block, added).cumsum(-1)
        needed = _needed(top_p, upto[:, -1] if row_mass is None else row_mass)
        return _value_at(best, upto, needed[:, None]), upto[:, -1] >= needed

    def draw_near(self, draws: Draws) -> torch.Tensor:
        """Tokens [R, num_samples], by near masses unless their error could change one."""
        if "integers" in vars(self):
            return self.draw(draws)[0]
        upto = self.mass.cumsum(-1)
        mass = upto[:, -1:]
        r, slack = draws.uniform() * mass, TOKEN_ERROR * mass
        first, last = (torch.searchsorted(upto, end, right=True) for end in (r - slack, r + slack))
        return self.ids.gather(-1, first) if torch.equal(first, last) else self.draw(draws)[0]

    def draw(self, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [R, num_samples] and the kept mass [R]."""
        upto = _added_mass(*self.integers, self.block).cumsum(-1)
        mass = upto[:, -1].clone()  # not a view: it outlives the list
        slot = torch.searchsorted(upto, draws.below(mass), right=True)
        return self.ids.gather(-1, slot), mass

    def select(self, rows: list[int]) -> Shortlist:
        """The shortlist of these rows."""
        part = self.part.select(rows)
        return Shortlist(part, self.ids[rows], self.x[rows])

    def _from_best(
        self, mass: torch.Tensor, first: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits from the best down and the mass up to each, both [R, m].

        Of many tokens only the few among which the mass reaches `first` and `last` [R]: a histogram
        of the logits spares the sort of the others.
        """
        x, above = self.x, None
        if x.shape[-1] >= _SORTED:
            bin, _ = into_bins(x, self.part.rows.c)
            bins = mass.new_zeros(x.shape[0], BINS).scatter_add_(-1, bin, mass)
            upto = bins.cumsum(-1)
            start, end = (
                torch.searchsorted(upto, needed[:, None]).clamp_(max=BINS - 1)
                for needed in (first, last)
            )
            inside = (bin >= start) & (bin <= end)
            count = int(inside.sum(-1).max())
            if 0 < 4 * count <= x.shape[-1]:  # 0: no bin is reached, the last is empty
                x, place = x.masked_fill(~inside, -torch.inf).topk(count)
                mass = mass.gather(-1, place)
                above = (upto - bins).gather(-1, start)
        best, order = x.sort(descending=True)
        upto = mass.gather(-1, order).cumsum(-1)
        return best, upto if above is None else upto.add_(above)


def _needed(top_p: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """`P`, the mass that a nucleus has to reach, in integers."""
    return (top_p * mass.double()).ceil().long().clamp(min=1)


def into_bins(x: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bins [R, n] of equal width for logits [R, n], 0 that of the best, and the width, [R, 1].

    A better logit never falls into a later bin, whatever the rounding. All that weighs next to
    nothing beside the best, at `c` [R], is left to the last bin.
    """
    high = x.amax(-1, keepdim=True)
    floor = (high - _NOTHING / c[:, None]).clamp_(min=LOWEST)
    width = (high - x.amin(-1, keepdim=True).maximum(floor)) / BINS
    bin = ((high - x) / width).nan_to_num_(nan=0.0)  # NaN: all are equal, or apart beyond fp32
    return bin.clamp_(max=BINS - 1).long(), width


def _value_between(
    x: torch.Tensor, upto: torch.Tensor, first: torch.Tensor, last: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_value_at` for `last`, and where it is that for `first` too, bool [R]."""
    value = _value_at(x, upto, torch.stack((first, last), -1))
    return value[:, 1:], value[:, 0] == value[:, 1]


def _value_at(x: torch.Tensor, upto: torch.Tensor, needed: torch.Tensor) -> torch.Tensor:
    """The values of x at which the growing sums reach what is needed [R, n], or else the last."""
    place = torch.searchsorted(upto, needed).clamp_(max=x.shape[-1] - 1)
    return x.gather(-1, place)


def _added_mass(weights: torch.Tensor, scale: Scale, block: torch.Tensor) -> torch.Tensor:
    """What each token adds to the mass before it, where the tokens of a block are neighbours."""
    upto = weights.cumsum(-1)
    same = block[:, 1:] == block[:, :-1]
    # Weights of the earlier blocks: the sum before each block's first token, carried along.
    earlier = upto[:, :-1].masked_fill(same, 0).cummax(-1).values
    upto[:, 1:] -= earlier
    mass = scale(upto)
    mass[:, 1:] -= mass[:, :-1] * same
    return mass
