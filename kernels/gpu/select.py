"""Step 2, select: the threshold of the filters, exactly (device functions).

Every filter keeps the logits from a threshold up (contract section 4). By count or by mass that is
the largest key at which a measure of {x >= key} reaches what is needed: the count reaches k, or the
mass reaches P = max(1, ceil(p * mass(K))). By value it is the lowest key whose (x - max) * c is not
below a number: log2(min_p), or log2(epsilon) + log2(mass(K)).

    bracket  low <= threshold, from the block table (`bracket.py`)
    collect  the logits in the bracket into a list in scratch memory (`collect.py`)
    refine   the bracket where they are too many for it, and collect again (`refine.py`)
    search   the list by bisection in registers (`search.py`)
    settle   the table: the sums of what is kept (`settle.py`)

Where many programs have narrowed the bracket and collected (`rounds.py`), the row's one program
goes on from there.

Traffic: the blocks that reach `low`, once where the list holds what is in question: with top-k,
64 k / V of the row. Top-p reuses that list where it holds all of K. The epsilon cutoff reads the
blocks that it keeps something of again, if it drops anything. However flat or tied the logits,
top-k or top-p needs at most 12 reads in all; both together 21, where each threshold hides in a
crowd of its own.
Races: each step that writes what others read ends with a barrier.
PyTorch twin: `kept_set` in `fused_sampler.contract.reference`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .arguments import asks_for_best, is_cut_first, seen_with, wants_depth
from .arithmetic import key_of, log2_mass, value_of
from .bracket import (
    Bracket,
    bracket,
    bracket_count,
    bracket_mass,
    bracket_near,
    first_key,
    lowest_kept,
    lowest_of_sigma,
    mass_needed,
    value_key,
    z_of,
)
from .collect import Found, collect, highest_between, lowest_between, trim
from .depth import depth_between, whole_row_depth
from .rank import reach_of
from .refine import refine
from .rounds import load_found, load_mean, load_window
from .search import search_list
from .settle import next_key, settle
from .table import load_group_mass
from .top_h import BEST, SIZE, lowest_of_top_h


class Kept(NamedTuple):
    """What the filters so far keep: the keys [low, high).

    The key before `high` is the best's, after typical only where a later filter asks for it.
    """

    low: Any
    high: Any
    count: Any  # of tokens; 0 or less: of the whole row but so many
    group_mass: Any  # int64 [GROUPS]


@triton.jit
def nothing(low, SHAPE: tl.constexpr):
    """Found of a bracket of which nothing is listed yet."""
    too_many = tl.full([], SHAPE.LIST + 1, tl.int32)
    return Found(too_many, low, tl.zeros([], tl.int32), tl.zeros([], tl.int64))


@triton.jit
def keep_from(row, low, end, SHAPE: tl.constexpr):
    """Go on with the keys from `low` up, by a read of their blocks."""
    count = collect(row, low, low, SHAPE).count
    return Kept(low, end, count, load_group_mass(row, row.table, low, row.c, SHAPE))


@triton.jit
def cut(row, filters, least, kept, SHAPE: tl.constexpr):
    """Go on with the tokens whose z is at least `least`, fp64."""
    best = z_of(row, kept.high - 1, SHAPE.SHIFT)  # stays
    low = value_key(row, tl.minimum(least.to(tl.float32), best), kept.low, SHAPE.SHIFT)
    count, group_mass = kept.count, kept.group_mass
    if low > kept.low:
        count = collect(row, low, low, SHAPE).count
        if filters.typical_p is not None:
            count -= trim(row, kept.high, key_of(row.max, SHAPE.SHIFT) + 1, SHAPE)
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    return Kept(low, kept.high, count, group_mass)


@triton.jit
def mean_depth(row, filters, kept, mass, SHAPE: tl.constexpr):
    """The mean of -z over what is kept, fp64, and of which `mass` is the mass."""
    if wants_depth(filters, row.vocab_size) & (kept.count == 0):
        depth = whole_row_depth(row, SHAPE)
    else:
        depth = depth_between(row, kept.low, kept.high, SHAPE)
    return depth.to(tl.float64) / mass.to(tl.float64)


@triton.jit
def keep_typical(row, filters, rounds, kept, SHAPE: tl.constexpr):
    """Go on with the tokens nearest to a surprise, an interval of keys."""
    mean = tl.full([], float("nan"), tl.float32)
    if rounds is not None:
        mean = load_mean(rounds)
    searched = mean == mean  # by many programs
    if not searched:
        mass = tl.sum(kept.group_mass)
        mean = mean_depth(row, filters, kept, mass, SHAPE).to(tl.float32)
    near = seen_with(row, row.c, mean, kept.low)
    if rounds is None:
        around = bracket_near(near, filters.typical_p, kept.group_mass, kept.high, SHAPE)
        found = nothing(around.low, SHAPE)
    elif searched:
        around, found = load_found(near, rounds, SHAPE)
    else:
        around = bracket_near(near, filters.typical_p, kept.group_mass, kept.high, SHAPE)
        found = nothing(around.low, SHAPE)
    rank, _, group_mass, found = filter_row(near, around, found, SHAPE)
    far, beyond = -value_of(rank, 0), -value_of(rank - 1, 0)
    low = first_key(row, mean, -far, kept.low, kept.high - 1, SHAPE.SHIFT)
    high = first_key(row, mean, beyond, low + 1, kept.high, SHAPE.SHIFT)
    if asks_for_best(filters):
        high = highest_between(row, low, high, SHAPE) + 1
    return Kept(low, high, found.count, group_mass)


@triton.jit
def cut_above(row, log2_threshold, kept, SHAPE: tl.constexpr):
    """XTC: go on without what is better than the worst of the likely tokens."""
    mass = tl.sum(kept.group_mass)
    likely = (log2_threshold.to(tl.float64) + log2_mass(mass)).to(tl.float32)
    high, count, group_mass = kept.high, kept.count, kept.group_mass
    if z_of(row, high - 1, SHAPE.SHIFT) >= likely:
        from_key = value_key(row, likely, kept.low, SHAPE.SHIFT)
        high = lowest_between(row, from_key, high, SHAPE) + 1
        if high < kept.high:
            count -= trim(row, high, kept.high, SHAPE)
            group_mass = load_group_mass(row, row.table, kept.low, row.c, SHAPE)
    return Kept(kept.low, high, count, group_mass)


@triton.jit
def list_bracket(row, around, found, SHAPE: tl.constexpr):
    """A bracket whose logits are all listed, inside of the one that is `around`; and the list."""
    low, high = around.low, around.high
    crowded = False  # as far as is known
    while found.listed > SHAPE.LIST:
        if low + 1 >= high:  # one key is left: all that reach it are kept
            high = low
            crowded = False
        if crowded:
            low, high, count = refine(row, low, high, around.by_mass, around.need, SHAPE)
            crowded = count > SHAPE.LIST
        else:
            found = collect(row, low, high, SHAPE)
            crowded = found.listed > SHAPE.LIST
    return low, high, found


@triton.jit
def filter_row(row, around, found, SHAPE: tl.constexpr):
    """The threshold of one filter, the groups' kept masses, and what is listed and summed up now.

    `found` is what has been listed of the bracket that is `around` the threshold, if anything.
    """
    need = around.need
    lowest, high, found = list_bracket(row, around, found, SHAPE)
    low = search_list(row, found, lowest, high, around.by_mass, need, SHAPE)
    kept = found.count + settle(row, found, found.start, low, SHAPE)
    reach = reach_of(row, low, SHAPE.SHIFT)
    group_mass = load_group_mass(row, row.table, reach, row.c, SHAPE)
    while around.by_mass & (low > lowest) & (tl.sum(group_mass) < need):  # it was rounded down
        above = low
        low = next_key(row, found, lowest, above, SHAPE)
        kept += settle(row, found, above, low, SHAPE)
        reach = reach_of(row, low, SHAPE.SHIFT)
        group_mass = load_group_mass(row, row.table, reach, row.c, SHAPE)
    return low, high, group_mass, Found(found.listed, low, kept, tl.sum(group_mass))


@triton.jit
def best_hundred(row, low, end, SHAPE: tl.constexpr):
    """Those with keys from `low` up that top-h looks at, Kept, and what lists all below a key."""
    need = tl.full([], BEST, tl.int64)
    around = Bracket(bracket_count(row, low, end, need), end, need, low > end)
    low, high, group_mass, found = filter_row(row, around, nothing(low, SHAPE), SHAPE)
    return Kept(low, end, found.count, group_mass), found, high


@triton.jit
def keep_top_h(row, h, low, end, SHAPE: tl.constexpr):
    """Go on with the tokens that hold a share of the entropy, of those with keys from `low` up."""
    hundred, found, high = best_hundred(row, low, end, SHAPE)
    listed = (high == end) & (found.listed <= SIZE)
    if not listed:  # all beyond tie with the hundredth
        found = collect(row, hundred.low + 1, end, SHAPE)
    low = lowest_of_top_h(row, h, hundred, found, SHAPE)
    if listed:
        count = hundred.count + settle(row, found, hundred.low, low, SHAPE)
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
        kept = Kept(low, end, count, group_mass)
    else:
        kept = keep_from(row, low, end, SHAPE)
    return kept


@triton.jit
def select(row, filters, xtc, rounds, SHAPE: tl.constexpr):
    """What the filters keep, for a row with a filter: Kept.

    The table then holds the sums of the kept weights of every block that reaches the lowest key.
    `xtc`: its threshold at this step. `rounds`: what many programs have found of the row, or None.
    """
    has_k = filters.top_k < row.vocab_size
    has_p = filters.top_p < 1
    end = key_of(row.max, SHAPE.SHIFT) + 1
    low = lowest_of_sigma(row, filters, SHAPE)
    if filters.top_h is not None:
        by_entropy = Kept(
            low, end, tl.zeros([], tl.int32), tl.zeros_like(row.group_key).to(tl.int64)
        )
        if filters.top_h < 1:
            by_entropy = keep_top_h(row, filters.top_h, low, end, SHAPE)
            low = by_entropy.low
    floor = tl.maximum(low, lowest_kept(row, filters, SHAPE))
    if has_k | has_p:
        if rounds is None:
            around = bracket(row, filters, low, floor, SHAPE)
            found = nothing(low, SHAPE)
        elif filters.top_h is None:
            around, found = load_found(row, rounds, SHAPE)
        elif filters.top_h < 1:
            around = bracket(row, filters, low, floor, SHAPE)
            found = nothing(low, SHAPE)
        else:
            around, found = load_found(row, rounds, SHAPE)
        low, high, group_mass, found = filter_row(row, around, found, SHAPE)
        if has_k & has_p & (low + 1 < end):  # more than the best token's value is kept
            least = tl.maximum(low, floor)
            need = mass_needed(filters.top_p, tl.sum(group_mass))
            stop = end
            if high < end:  # not all that top-k keeps is listed
                found = nothing(low, SHAPE)
                if rounds is None:
                    least = bracket_mass(row, group_mass, least, need, SHAPE)
                else:
                    around = Bracket(least, end, need, has_p)
                    least, stop, _ = load_window(row, around, rounds, 0, SHAPE)
            around = Bracket(least, stop, need, has_p)
            low, _, group_mass, found = filter_row(row, around, found, SHAPE)
        kept = Kept(low, end, found.count, group_mass)
    elif is_cut_first(filters, row.vocab_size) | (filters.min_p > -float("inf")):
        if filters.top_h is None:
            kept = keep_from(row, floor, end, SHAPE)
        elif (filters.top_h < 1) & (floor == by_entropy.low):
            kept = by_entropy
        else:
            kept = keep_from(row, floor, end, SHAPE)
    else:  # the table's sums are those of the whole row, and count as 0
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
        kept = Kept(low, end, tl.zeros([], tl.int32), group_mass)
    if filters.typical_p is not None:
        if filters.typical_p < 1:
            kept = keep_typical(row, filters, rounds, kept, SHAPE)
    if filters.epsilon_cutoff is not None:
        if filters.epsilon_cutoff > -float("inf"):
            least = filters.epsilon_cutoff.to(tl.float64) + log2_mass(tl.sum(kept.group_mass))
            kept = cut(row, filters, least, kept, SHAPE)
    if filters.eta_cutoff is not None:
        if filters.eta_cutoff > -float("inf"):
            mass, log2_eta = tl.sum(kept.group_mass), filters.eta_cutoff.to(tl.float64)
            mean = mean_depth(row, filters, kept, mass, SHAPE)
            least = tl.minimum(log2_eta + log2_mass(mass), log2_eta * 0.5 - mean)
            kept = cut(row, filters, least, kept, SHAPE)
    if filters.top_a is not None:
        if filters.top_a > -float("inf"):
            best = z_of(row, kept.high - 1, SHAPE.SHIFT).to(tl.float64)
            least = filters.top_a.to(tl.float64) - log2_mass(tl.sum(kept.group_mass)) + 2.0 * best
            kept = cut(row, filters, least, kept, SHAPE)
    if filters.xtc_threshold is not None:
        if xtc < float("inf"):
            kept = cut_above(row, xtc, kept, SHAPE)
    return kept
