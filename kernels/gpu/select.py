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

import triton
import triton.language as tl

from .arithmetic import key_of, log2_mass, lowest_key
from .bracket import (
    Bracket,
    bracket,
    bracket_mass,
    lowest_kept,
    lowest_of_sigma,
    mass_needed,
    value_key,
)
from .collect import Found, collect
from .depth import depth_from, whole_row_depth
from .refine import refine
from .rounds import load_found, load_window
from .search import search_list
from .settle import next_key, settle
from .table import load_group_mass


@triton.jit
def cut(row, least, low, kept, group_mass, SHAPE: tl.constexpr):
    """Go on with the tokens whose `fp32(fp32(x - max) * c)` is at least `least`, fp64.

    Of those from the key `low` up. Returns what `select` does.
    """
    least = tl.minimum(least.to(tl.float32), 0.0)  # the best token stays
    threshold = value_key(row, least, low, SHAPE.SHIFT)
    if (threshold > low) | (kept == 0):
        low = threshold
        kept = collect(row, low, low, SHAPE).count
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    return low, kept, group_mass


@triton.jit
def least_of_eta(row, log2_eta, low, kept, mass, SHAPE: tl.constexpr):
    """The lowest z that the eta cutoff keeps of the tokens from the key `low` up, fp64."""
    if kept == 0:
        depth = whole_row_depth(row, SHAPE)
    else:
        depth = depth_from(row, low, SHAPE)
    log2_eta = log2_eta.to(tl.float64)
    mean = depth.to(tl.float64) / mass.to(tl.float64)
    return tl.minimum(log2_eta + log2_mass(mass), log2_eta * 0.5 - mean)


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
    group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    while around.by_mass & (low > lowest) & (tl.sum(group_mass) < need):  # it was rounded down
        above = low
        low = next_key(row, found, lowest, above, SHAPE)
        kept += settle(row, found, above, low, SHAPE)
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    return low, high, group_mass, Found(found.listed, low, kept, tl.sum(group_mass))


@triton.jit
def select(row, filters, rounds, SHAPE: tl.constexpr):
    """The lowest key that the filters keep, how many tokens they keep, and the groups' kept masses.

    For a row with a filter. The table then holds the sums of the kept weights of every block that
    reaches that key. `rounds`: what many programs have found of the row, or None.
    """
    has_k = filters.top_k < row.vocab_size
    has_p = filters.top_p < 1
    has_min_p = filters.min_p > -float("inf")
    end = key_of(row.max, SHAPE.SHIFT) + 1
    low = lowest_key(SHAPE.SHIFT)
    floor = lowest_kept(row, filters, SHAPE)
    kept = 0  # as long as the table's sums are those of the whole row
    if has_k | has_p:
        nothing = Found(SHAPE.LIST + 1, low, 0, tl.zeros([], tl.int64))
        if rounds is None:
            around, found = bracket(row, filters, floor, SHAPE), nothing
        else:
            around, found = load_found(row, rounds, SHAPE)
        low, high, group_mass, found = filter_row(row, around, found, SHAPE)
        if has_k & has_p & (low + 1 < end):  # more than the best token's value is kept
            least = tl.maximum(low, floor)
            need = mass_needed(filters.top_p, tl.sum(group_mass))
            if high < end:  # not all that top-k keeps is listed
                found = nothing
                if rounds is None:
                    least = bracket_mass(row, group_mass, least, need, SHAPE)
                else:
                    around = Bracket(least, end, need, has_p)
                    least, end, _ = load_window(row, around, rounds, 0, SHAPE)
            around = Bracket(least, end, need, has_p)
            low, _, group_mass, found = filter_row(row, around, found, SHAPE)
        kept = found.count
    elif has_min_p | (filters.top_n_sigma < float("inf")):
        low = tl.maximum(floor, lowest_of_sigma(row, filters, SHAPE))
        kept = collect(row, low, low, SHAPE).count
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    else:
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    if filters.epsilon_cutoff > -float("inf"):
        least = filters.epsilon_cutoff.to(tl.float64) + log2_mass(tl.sum(group_mass))
        low, kept, group_mass = cut(row, least, low, kept, group_mass, SHAPE)
    if row.table.depths_ptr is not None:
        if filters.eta_cutoff > -float("inf"):
            mass = tl.sum(group_mass)
            least = least_of_eta(row, filters.eta_cutoff, low, kept, mass, SHAPE)
            low, kept, group_mass = cut(row, least, low, kept, group_mass, SHAPE)
    if filters.top_a > -float("inf"):
        least = filters.top_a.to(tl.float64) - log2_mass(tl.sum(group_mass))
        low, kept, group_mass = cut(row, least, low, kept, group_mass, SHAPE)
    return low, kept, group_mass
