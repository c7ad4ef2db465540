"""A few candidate tokens of each row: their masses, the nucleus among them, the draw."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import torch

from .blocks import Scale, weights_and_scale
from .draws import Draws

_SORTED = 1024  # tokens a row that are sorted without further thought
BINS = 1024
_FEW_TOKENS = 128  # up to here Python integers beat the launch of some forty tensor operations


class RowMass:
    """Masses of rows between two bounds, int64 [R]; `true(rows)` works them out for some."""

    def __init__(
        self,
        least: torch.Tensor,
        most: torch.Tensor,
        true: Callable[[list[int]], torch.Tensor] | None = None,
    ):
        self.least, self.most, self.true = least, most, true

    def needed(self, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bounds of `P`, the mass that a nucleus has to reach, [R]."""
        return needed_mass(top_p, self.least), needed_mass(top_p, self.most)

    def settle(self, unsure: torch.Tensor) -> bool:
        """Put the true masses in place of the bounds of these rows, bool [R], if it can."""
        if self.true is not None:
            rows = unsure.nonzero()[:, 0].tolist()
            self.least[rows] = self.most[rows] = self.true(rows)
        return self.true is not None


class Shortlist:
    """Tokens of R rows in vocabulary order, all tensors [R, n]; a dropped token has `x = -inf`.

    A row with fewer tokens than n has padding, dropped from the start.
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
        self.few = x.device.type == "cpu" and x.numel() <= _FEW_TOKENS

    def drop(self, dropped: torch.Tensor) -> None:
        """Drop the tokens where `dropped`, bool [R, n], is set."""
        self.x.masked_fill_(dropped, -torch.inf)
        self.weights.masked_fill_(dropped, 0)

    def kept(self) -> torch.Tensor:
        return self.x > -torch.inf

    def threshold(self) -> torch.Tensor:
        """The lowest logit kept, [R]."""
        return self.x.masked_fill(~self.kept(), torch.inf).amin(-1)

    def nucleus(
        self, top_p: torch.Tensor, row_mass: RowMass | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The logit at which the mass from the best token down reaches `P`, [R, 1].

        `P` is the share `top_p` [R] of the mass of the row, or else of the shortlist itself. The
        second tensor, bool [R], is True where the shortlist surely holds as much as `P`.
        """
        if self.few:
            return self._nucleus_of_few(top_p, row_mass)
        # Each token scaled on its own rounds down by less than 1, so that of n tokens the true
        # mass lies from the sum to the sum + n: nearly always enough to tell where P is reached.
        mass, slack = self.scale(self.weights), self.x.shape[-1]
        total = mass.sum(-1)
        row_mass = row_mass or RowMass(total, total + slack)
        first, last = row_mass.needed(top_p)
        x, mass, above = _around(self.x, mass, first - slack, last)
        best, order = x.sort(descending=True)
        upto = mass.gather(-1, order).cumsum(-1) + above
        threshold = _value_at(best, upto, last)
        same = _value_at(best, upto, first - slack) == threshold
        if not same.all() and row_mass.settle(~same[:, 0]):
            first, last = row_mass.needed(top_p)
            threshold = _value_at(best, upto, last)
            same = _value_at(best, upto, first - slack) == threshold
        if same.all():
            return threshold, total >= last
        best, order = self.x.sort(descending=True)
        upto = self._mass_from_best(order)
        if row_mass.true is None:
            first = last = needed_mass(top_p, upto[:, -1])
        return _value_at(best, upto, last), upto[:, -1] >= last

    def draw(self, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [R, num_samples] and the kept mass [R]."""
        if self.few:
            return self._draw_from_few(draws)
        upto = _added_mass(self.weights, self.block, self.scale).cumsum(-1)
        mass = upto[:, -1].clone()  # not a view: it outlives the list
        slot = torch.searchsorted(upto, draws.below(mass), right=True)
        return self.ids.gather(-1, slot), mass

    def _mass_from_best(self, order: torch.Tensor) -> torch.Tensor:
        """Exact mass of every prefix of the tokens in this order, from the best down, [R, n]."""
        # What a token adds depends on the better ones of its block: bring blocks together.
        block, by_block = self.block.gather(-1, order).sort(stable=True)
        order = order.gather(-1, by_block)
        added = _added_mass(self.weights.gather(-1, order), block, self.scale.gather(order))
        return torch.empty_like(added).scatter_(-1, by_block, added).cumsum(-1)

    def _nucleus_of_few(
        self, top_p: torch.Tensor, row_mass: RowMass | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`nucleus` in Python integers."""
        best, sums = [], []
        for x, columns in zip(self.x.tolist(), self._columns(), strict=True):
            order = sorted(range(len(x)), key=x.__getitem__, reverse=True)
            best.append([x[i] for i in order])
            sums.append(list(accumulate(_added_masses(columns, order))))
        mass = torch.tensor([upto[-1] for upto in sums], device=self.ids.device)
        row_mass = row_mass or RowMass(mass, mass)

        def reached(needed: torch.Tensor) -> torch.Tensor:
            rows = zip(best, sums, needed.tolist(), strict=True)
            found = [[x[min(bisect_left(upto, p), len(x) - 1)]] for x, upto, p in rows]
            return torch.tensor(found, dtype=torch.float32, device=self.ids.device)

        first, last = row_mass.needed(top_p)
        threshold = reached(last)
        same = reached(first) == threshold
        if not same.all() and row_mass.settle(~same[:, 0]):
            _, last = row_mass.needed(top_p)
            threshold = reached(last)
        return threshold, mass >= last

    def _draw_from_few(self, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """`draw` in Python integers."""
        sums = [
            list(accumulate(_added_masses(columns, range(self.x.shape[-1]))))
            for columns in self._columns()
        ]
        mass = torch.tensor([upto[-1] for upto in sums], device=self.ids.device)
        numbers = draws.below(mass).tolist()
        slots = [
            [bisect_right(upto, r) for r in own] for upto, own in zip(sums, numbers, strict=True)
        ]
        return self.ids.gather(-1, torch.tensor(slots, device=self.ids.device)), mass

    def _columns(self) -> Iterable[Columns]:
        tensors = self.weights, self.block, *self.scale
        return zip(*(tensor.tolist() for tensor in tensors), strict=True)


Columns = tuple[list[int], list[int], list[int], list[int]]  # weight, block, mantissa, shift


def needed_mass(top_p: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """`P`, the mass that a nucleus has to reach."""
    return (top_p * mass.double()).ceil().long().clamp(min=1)


def _around(
    x: torch.Tensor, mass: torch.Tensor, first: torch.Tensor, last: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | int]:
    """The few tokens among which the mass from the best down reaches `first` and `last` [R].

    Returns their logits and masses and the mass above them, [R, 1]: a histogram of the logits
    spares the sort of the others. All of the tokens where that would not pay.
    """
    if x.shape[-1] < _SORTED:
        return x, mass, 0
    bin, _ = into_bins(x)
    bins = mass.new_zeros(x.shape[0], BINS).scatter_add_(-1, bin, mass)
    upto = bins.cumsum(-1)
    start, end = (
        torch.searchsorted(upto, needed[:, None]).clamp_(max=BINS - 1) for needed in (first, last)
    )
    inside = (bin >= start) & (bin <= end)
    count = int(inside.sum(-1).max())
    if count == 0 or 4 * count > x.shape[-1]:  # 0: no bin is reached, the last is empty
        return x, mass, 0
    x, place = x.masked_fill(~inside, -torch.inf).topk(count)
    mass = (mass * inside).gather(-1, place)
    return x, mass, (upto - bins).gather(-1, start)


def into_bins(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bins [R, n] of equal width for logits [R, n], 0 that of the best, and the width, [R, 1].

    A better logit never falls into a later bin, whatever the rounding.
    """
    high = x.amax(-1, keepdim=True)
    low = x.masked_fill(x == -torch.inf, torch.inf).amin(-1, keepdim=True)
    width = (high - low) / BINS
    bin = ((high - x) / width).nan_to_num_(nan=0.0)  # NaN: all are equal, or apart beyond fp32
    return bin.clamp_(max=BINS - 1).long(), width


def _value_at(x: torch.Tensor, upto: torch.Tensor, needed: torch.Tensor) -> torch.Tensor:
    """The value of x, [R, 1], at which the growing sums reach what is needed, or else the last."""
    place = torch.searchsorted(upto, needed[:, None]).clamp_(max=x.shape[-1] - 1)
    return x.gather(-1, place)


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


def _added_masses(columns: Columns, order: Iterable[int]) -> Iterator[int]:
    """What each token adds to the mass before it, in any order, for one row."""
    sums: defaultdict[int, int] = defaultdict(int)
    weights, blocks, mantissas, shifts = columns
    for i in order:
        before = sums[blocks[i]]
        after = sums[blocks[i]] = before + weights[i]
        yield (after * mantissas[i] >> shifts[i]) - (before * mantissas[i] >> shifts[i])
