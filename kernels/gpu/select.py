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
from .collect import Found, collect, load_entries
from .refine import COUNT, MASS, most_above, refine
from .search import listed_masses, search_count, search_mass
from .settle import settle
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
    spread_from = most_above(row, SHAPE.SHIFT)
    found = Found(SHAPE.LIST + 1, 0, tl.zeros([], tl.int64))
    while found.listed > SHAPE.LIST:
        if low + 1 >= high:  # one key is left: all that reach it are kept
            high = low
            crowded = False
        if crowded:
            low, high, count = refine(row, low, high, MEASURE, need, spread_from, SHAPE)
            spread_from = float("inf")
            crowded = count > SHAPE.LIST
        else:
            found = collect(row, low, high, SHAPE)
            crowded = found.listed > SHAPE.LIST
    return low, high, found


@triton.jit
def select(row, filters, SHAPE: tl.constexpr):
    """The lowest key that the filters keep and how many tokens they keep, for a row with a filter.

    The table then holds the sums of the kept weights of every block that reaches that key.
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
    listed = 0  # entries of a list that holds all that top-k keeps, so that top-p needs no other
    if has_k:
        low = tl.where(has_p, low, floor)  # top-p counts what min-p drops
        low, crowded = bracket_count(row, low, end, filters.top_k, SHAPE)
        low, high, found = list_bracket(row, low, end, crowded, COUNT, filters.top_k, SHAPE)
        entries = load_entries(row, found.listed, SHAPE.LIST)
        low = search_count(entries, found, low, high, filters.top_k)
        listed = tl.where(high == end, found.listed, 0)
        if (has_p == 0) | (listed == 0):
            kept = settle(row, entries, found, low, SHAPE.LIST, SHAPE.SHIFT)
    if has_p:
        high = end
        crowded = False  # as far as is known
        need = tl.zeros([], tl.int64)
        found = Found(listed, 0, tl.zeros([], tl.int64))
        if listed == 0:
            group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
            need = mass_needed(filters.top_p, tl.sum(group_mass))
            low, high = bracket_mass(row, group_mass, tl.maximum(low, floor), end, need, SHAPE)
            low, high, found = list_bracket(row, low, high, crowded, MASS, need, SHAPE)
        entries = load_entries(row, found.listed, SHAPE.LIST)
        masses = listed_masses(row, entries, found, SHAPE.LIST, SHAPE.SHIFT)
        if listed > 0:
            total = tl.sum(tl.where(entries.key >= low, masses, 0))
            need = mass_needed(filters.top_p, total)
            low = tl.maximum(low, floor)
        low = search_mass(entries, masses, found, low, high, need)
        kept = settle(row, entries, found, low, SHAPE.LIST, SHAPE.SHIFT)
    elif has_min_p & (has_k == 0):
        low = floor
        kept = collect(row, low, low, SHAPE).sure_count
    if filters.epsilon_cutoff > -float("inf"):
        mass = tl.sum(load_group_mass(row, row.table, low, row.c, SHAPE))
        least = least_probable(filters.epsilon_cutoff, mass)
        threshold = value_key(row, least, low, SHAPE.SHIFT)
        if (threshold > low) | (kept == 0):
            low = threshold
            kept = collect(row, low, low, SHAPE).sure_count
    return low, kept
