"""Step 2, select: the threshold of the filters, exactly (device functions).

Every filter keeps the logits from a threshold up (contract section 4). By count or by mass that is
the largest key at which a measure of {x >= key} reaches what is needed: the count reaches k, or the
mass reaches P = max(1, ceil(p * mass(K))). By value it is the lowest key whose (x - max) * c is not
below a number: log2(min_p), or log2(epsilon) + log2(mass(K)).

    bracket  low <= threshold < high, from the block table (`bracket.py`)
    collect  the logits in the bracket into a list in scratch memory (`collect.py`)
    refine   the bracket where they are too many for it, and collect again (`refine.py`)
    search   the list by bisection in registers (`search.py`)
    settle   the table: the sums of what is kept (`settle.py`)

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
from .bracket import bracket_count, bracket_mass, value_key
from .collect import Found, collect
from .refine import refine
from .search import COUNT, MASS, search_list
from .settle import add_weights, next_key
from .table import load_group_mass


@triton.jit
def filtered(filters, vocab_size):
    """Whether a row has a filter that is on."""
    by_value = (filters.min_p > -float("inf")) | (filters.epsilon_cutoff > -float("inf"))
    return (filters.top_k < vocab_size) | (filters.top_p < 1) | by_value


@triton.jit
def mass_needed(top_p, total):
    """`P = max(1, ceil(p * mass(K)))`, int64 (contract section 4)."""
    needed = tl.math.ceil(top_p.to(tl.float64) * total.to(tl.float64))
    return tl.maximum(needed.to(tl.int64), 1)


@triton.jit
def least_probable(log2_epsilon, mass):
    """What `fp32(fp32(x - max) * c)` has to be for a probability of epsilon among a mass."""
    least = (log2_epsilon.to(tl.float64) + log2_mass(mass)).to(tl.float32)
    return tl.minimum(least, 0.0)  # the best token stays


@triton.jit
def list_bracket(row, low, high, crowded, MEASURE: tl.constexpr, need, SHAPE: tl.constexpr):
    """Collect the bracket around the largest key at which the measure reaches `need`.

    It is refined until the list holds what lies in it. `crowded`: it does not, for sure.
    """
    by_value = True
    found = Found(SHAPE.LIST + 1, 0, tl.zeros([], tl.int64))
    while found.listed > SHAPE.LIST:
        if low + 1 >= high:  # one key is left: all that reach it are kept
            high = low
            crowded = False
        if crowded:
            low, high, count = refine(row, low, high, MEASURE, need, by_value, SHAPE)
            by_value = False
            crowded = count > SHAPE.LIST
        else:
            found = collect(row, low, high, SHAPE)
            crowded = found.listed > SHAPE.LIST
    return low, high, found


@triton.jit
def select(row, filters, SHAPE: tl.constexpr):
    """The lowest key that the filters keep, how many tokens they keep, and the groups' kept masses.

    For a row with a filter. The table then holds the sums of the kept weights of every block that
    reaches that key.
    """
    has_k = filters.top_k < row.vocab_size
    has_p = filters.top_p < 1
    has_min_p = filters.min_p > -float("inf")
    end = key_of(row.max, SHAPE.SHIFT) + 1
    low = lowest_key(SHAPE.SHIFT)
    floor = low  # the lowest key that min-p keeps: no search has to go below
    if has_min_p:
        floor = value_key(row, filters.min_p, low, SHAPE.SHIFT)
    kept = 0  # as long as the table's sums are those of the whole row
    found = Found(0, 0, tl.zeros([], tl.int64))
    high = low
    if has_k:
        low = tl.where(has_p, low, floor)  # top-p counts what min-p drops
        low, crowded = bracket_count(row, low, end, filters.top_k, SHAPE)
        low, high, found = list_bracket(row, low, end, crowded, COUNT, filters.top_k, SHAPE)
        low = search_list(row, found, low, high, COUNT, filters.top_k, SHAPE)
        kept = found.sure_count + add_weights(row, found, low, high, 1, SHAPE)
    elif has_min_p & (has_p == 0):
        low = floor
        kept = collect(row, low, low, SHAPE).sure_count
    group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    if has_p:
        need = mass_needed(filters.top_p, tl.sum(group_mass))
        least = tl.maximum(low, floor)
        in_list = high == end  # all that top-k keeps
        if in_list == 0:
            low, high = bracket_mass(row, group_mass, least, end, need, SHAPE)
            crowded = False  # as far as is known
            low, high, found = list_bracket(row, low, high, crowded, MASS, need, SHAPE)
        kept_by_k = low
        low = search_list(row, found, tl.maximum(low, least), high, MASS, need, SHAPE)
        if in_list:
            kept -= add_weights(row, found, kept_by_k, low, -1, SHAPE)
        else:
            kept = found.sure_count + add_weights(row, found, low, high, 1, SHAPE)
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
        while (low > least) & (tl.sum(group_mass) < need):  # masses were rounded down
            high = low
            low = next_key(row, found, least, high, SHAPE)
            kept += add_weights(row, found, low, high, 1, SHAPE)
            group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    if filters.epsilon_cutoff > -float("inf"):
        lowest = least_probable(filters.epsilon_cutoff, tl.sum(group_mass))
        threshold = value_key(row, lowest, low, SHAPE.SHIFT)
        if (threshold > low) | (kept == 0):
            low = threshold
            kept = collect(row, low, low, SHAPE).sure_count
            group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
    return low, kept, group_mass
