"""Step 2, select: the thresholds of the filters, exactly.

Most filters keep the logits from a threshold up, and each threshold is the largest key at which a
measure of {x >= key} reaches what is needed: the count reaches k (top-k), or the mass reaches
P = max(1, ceil(p * mass(K))) (top-p; contract section 4). Most others name a value. Typical keeps
an interval (`typical.py`), and XTC cuts from above.

    2a bracket  low <= threshold < high, from the block table (`block_bound`, `mass_bounds`)
    2b collect  the logits in the bracket into a list (`collect.py`)
    2c refine   the bracket where they are too many, by a sample of the row (`refine.py`)
    2d search   the list by bisection (`search.py`)
    2e settle   the table: the sums of what is kept (`settle`)

Twins: `kept_set` in `fused_sampler.contract.reference`, `kernels/gpu/select.py`.
"""

from __future__ import annotations

import math

import numpy as np

from .arithmetic import (
    BLOCK,
    FORBIDDEN,
    LOWEST_KEY,
    key_of_float,
    log2_mass,
    scale_sum,
    value_of,
)
from .collect import collect, measure_mass, weigh_list
from .compiling import device
from .depth import weigh
from .near import ERROR, LEAST_C, near_depth, near_sums
from .refine import block_bound, guess
from .scan import (
    NONE,
    highest_below,
    lowest_between,
    lowest_key_from,
    z_of,
)
from .search import COUNT, EXACT, MASS, NEARNESS, search_threshold
from .space import is_cut_first
from .spread import largest_root, near_variance, variance
from .summarize import block_float, block_sum
from .top_h import BEST, lowest_of_top_h
from .typical import NEAREST, Typical, collect_near, ends, near_key

EPSILON, ETA, TOP_A, XTC = 0, 1, 2, 3  # cutoffs by probability
_NO_TYPICAL = Typical(np.float32(0.0), np.int64(0))
_NOTHING = np.int64(2**31)  # above all keys: where no list stands


@device
def weigh_blocks(row, tops, sums, mass, size):
    """The mass of each block; their sum, int64."""
    total = np.int64(0)
    for n in range(size):
        mass[n] = np.int64(scale_sum(sums[n], tops[n], row.maximum, row.c))
        total += mass[n]
    return total


@device
def mass_needed(top_p, total):
    """`P = max(1, ceil(p * mass(K)))` (contract section 4)."""
    return max(np.int64(1), np.int64(math.ceil(top_p * np.float64(total))))


@device
def certain_key(row, space, value, slack):
    """The lowest key with `z >= value`, for any value so near; `NONE` where a logit lies there."""
    if not slack < np.inf:
        return NONE
    low = lowest_key_from(row, np.float32(value - slack))
    high = lowest_key_from(row, np.float32(value + slack))
    best = np.int64(key_of_float(row.maximum))
    if value - slack > 0.0 or high == best:  # near the best, or beyond
        return NONE
    return high if lowest_between(row, space, low, high) == NONE else NONE


@device
def lowest_of_sigma(row, space):
    """The lowest key that top-n-sigma keeps."""
    n = np.float64(row.filters.top_n_sigma) * np.float64(row.c)
    near, error = near_variance(row)
    value = -n * math.sqrt(max(near, 0.0))
    key = certain_key(row, space, value, -value * (0.5 * error + 1e-6))  # of the root, half
    if key != NONE:
        return key
    return lowest_key_from(row, np.float32(-largest_root(n * n * variance(row, space))))


@device
def cutoff_value(row, cutoff, log2_total, mean, best):
    """The z from which a cutoff by probability keeps, fp64; `log2_total`, `mean`: of the mass."""
    if cutoff == EPSILON:
        return np.float64(row.filters.epsilon_log2) + log2_total
    if cutoff == ETA:
        eta_log2 = np.float64(row.filters.eta_log2)
        return min(eta_log2 + log2_total, eta_log2 * 0.5 - mean)
    if cutoff == TOP_A:
        return np.float64(row.filters.top_a_log2) - log2_total + 2.0 * np.float64(best)
    return np.float64(row.filters.xtc_log2) + log2_total


@device
def lowest_of_cutoff(row, space, low, high, cutoff):
    """The lowest key in [low, high) with the probability that a cutoff names; `high` for none.

    `high` is the key after the best of them.
    """
    best = z_of(row, high - 1)
    if low == LOWEST_KEY and high == np.int64(key_of_float(row.maximum)) + 1 and row.c >= LEAST_C:
        mass, depth = near_depth(row) if cutoff == ETA else (near_sums(row, space), 0.0)
        value = cutoff_value(row, cutoff, math.log2(mass), depth / mass, best)
        key = certain_key(row, space, value, 3.0 * ERROR * (1.0 + depth / mass))
        if key != NONE:
            return key
    mass, depth, _ = weigh(row, space, low, high, cutoff == ETA)
    mean = np.float64(depth) / np.float64(mass)
    value = np.float32(cutoff_value(row, cutoff, log2_mass(mass), mean, best))
    return high if value > best else max(low, lowest_key_from(row, value))


@device
def mass_bounds(row, space, tops, size, need, low, high):
    """Keys `low <= threshold < high` of the mass `need`; `space.mass` holds that of the blocks.

    From above: blocks that reach a key hold at most their mass. From below: at least that of their
    best tokens.
    """
    upper = search_threshold(tops, space.mass, size, need, low, high, EXACT)
    one = np.uint64(1 << 30)
    for n in range(size):
        space.mass[n] = np.int64(scale_sum(one, tops[n], row.maximum, row.c))
        if tops[n] == FORBIDDEN:
            space.mass[n] = 0
    lower = search_threshold(tops, space.mass, size, need, low, upper + 1, EXACT)
    return lower, upper + 1


@device
def search_list(row, space, by, listed, need, start, stop):
    """The largest key in [start, stop) at which listed logits reach `need`, else `start - 1`."""
    if by == COUNT:
        for i in range(listed):
            space.measure[i] = 1
        return search_threshold(space.keys, space.measure, listed, need, start - 1, stop, 0)
    if by == MASS:
        weigh_list(row, space, listed)
    # The masses of single logits lack less than one each to what they add to those of blocks.
    for i in range(listed):
        weight, top = np.uint64(space.weights[i]), space.tops[space.slots[i]]
        space.measure[i] = np.int64(scale_sum(weight, top, row.maximum, row.c))
    key = search_threshold(space.keys, space.measure, listed, need, start - 1, stop, EXACT)
    beyond = listed
    for i in range(listed):
        beyond += space.measure[i] if space.keys[i] > key else 0
    if beyond < need:
        return key
    measure_mass(row, space, listed)
    return search_threshold(space.keys, space.measure, listed, need, start - 1, stop, EXACT)


@device
def find(row, space, by, typical, need, total, low, high):
    """The largest key in [low, high) at which a measure reaches `need`, else `low`.

    By count any key that exactly `need` logits reach will do, and `total`, the row's mass, is 0. By
    nearness keys are those of `typical.py`, and `typical` what they depend on. Returns the key, the
    bracket of the list, and how many blocks, listed logits and better ones it left.
    """
    most, above_high = np.int64(0), np.int64(0)  # logits from `low` up, and from `high` up
    lowest = ends(row, typical, low)[0] if by == NEARNESS else low
    for n in range(row.num_blocks):
        most += BLOCK if space.maxima[n] >= lowest else 0
    known, anchor = np.int64(total), np.int64(high if by == COUNT else FORBIDDEN)  # from a key up
    attempt = 0
    # It ends: a round that does not return raises `low` or lowers `high`, as low < start <= stop <
    # high after all guesses but the first, and every second one is the middle.
    while True:
        start, stop = low, high
        if low + 1 >= high:
            stop = low
        elif most - above_high > space.capacity:
            start, stop = guess(row, space, by, typical, need - known, anchor, low, high, attempt)
        attempt += 1
        if by == NEARNESS:
            blocks, listed, above = collect_near(row, space, typical, start, stop)
        else:
            blocks, listed, above = collect(row, space, start, stop)
        reached = above
        if by != COUNT:
            reached = weigh_blocks(row, space.tops, space.sure, space.mass, blocks)
        if low + 1 >= high:
            return low, start, stop, blocks, listed, above
        known, anchor = reached, stop
        if reached >= need:
            low, most = stop, above
            continue
        high, above_high = stop, above
        if start == stop or listed > space.capacity:
            continue
        key = search_list(row, space, by, listed, need - reached, start, stop)
        if key < start and start > low:
            high, above_high = start, above + listed
            continue
        return max(key, start), start, stop, blocks, listed, above


@device
def settle(row, space, low, start, stop, blocks, listed, above):
    """Sum up the kept weights of each block that reaches `low`.

    Returns the list as it is afterwards: its bracket and counts, and how many logits are kept.
    """
    if not start <= low <= stop:
        start, stop = low, np.int64(key_of_float(row.maximum)) + 1
        blocks, listed, above = collect(row, space, start, stop)
        if listed > space.capacity:
            stop = low
            blocks, listed, above = collect(row, space, start, stop)
    for n in range(blocks):
        space.sums[n] = space.sure[n]
    weigh_list(row, space, listed)
    kept = above
    for i in range(listed):
        if space.keys[i] >= low:
            space.sums[space.slots[i]] += np.uint64(space.weights[i])
            kept += 1
    return start, stop, blocks, listed, above, kept


@device
def trim(row, space, blocks, high):
    """Take logits from the key `high` up out of the settled sums; how many they are."""
    dropped, highest = np.int64(0), value_of(np.int32(high))
    for slot in range(blocks):
        if space.tops[slot] >= high:
            first, top = np.int64(space.blocks[slot]) * BLOCK, block_float(space.tops[slot])
            size = min(BLOCK, row.vocab - first)
            total, count = block_sum(row.logits, first, size, top, row.c, highest)
            space.sums[slot] -= total
            dropped += count
    return dropped


@device
def sum_kept(row, space, low, high):
    """Settle what has keys in [low, high), at the row's own `c`; how many blocks, and logits."""
    blocks, _, kept = collect(row, space, low, low)
    for n in range(blocks):
        space.sums[n] = space.sure[n]
    return blocks, kept - trim(row, space, blocks, high)


@device
def keep_typical(row, space, low, end):
    """The keys [low, high) that typical keeps of those from `low` up."""
    mass, depth, size = weigh(row, space, low, end, True)
    typical = Typical(np.float32(np.float64(depth) / np.float64(mass)), low)
    need = mass_needed(row.filters.typical_p, mass)
    # Top-p's set holds the mass: what is as far away as its lower end will do.
    weigh_blocks(row, space.tops, space.sums, space.mass, size)
    lower, _ = mass_bounds(row, space, space.tops, size, need, low, end)
    best = near_key(row.maximum, row, typical.mean)
    far = min(near_key(value_of(np.int32(lower)), row, typical.mean), best)
    nearest = find(row, space, NEARNESS, typical, need, mass, np.int64(far), NEAREST + 1)[0]
    start, stop = ends(row, typical, nearest)
    return start, highest_below(row, space, stop) + 1


@device
def select(row, space):
    """The keys [low, high) that the filters keep, for a row with a filter.

    Returns both, the number of blocks in question, whose kept weights stand in `space.sums`, and
    how many logits are kept.
    """
    filters = row.filters
    end = np.int64(key_of_float(row.maximum)) + 1
    low = np.int64(LOWEST_KEY)
    has_k, has_p = filters.top_k < row.vocab, filters.top_p < 1
    start, stop = _NOTHING, _NOTHING
    blocks, listed, above, kept = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    if filters.top_n_sigma < np.inf:
        low = lowest_of_sigma(row, space)
    if filters.top_h < 1:
        low = block_bound(row, space, BEST, low, end)
        low = find(row, space, COUNT, _NO_TYPICAL, BEST, 0, low, end)[0]
        low = lowest_of_top_h(row, space, low, end)
    floor = low
    if filters.min_p_log2 > -np.inf:
        floor = max(low, lowest_key_from(row, filters.min_p_log2))
    if has_k:
        k = filters.top_k
        low = block_bound(row, space, k, low if has_p else floor, end)
        low, start, stop, blocks, listed, above = find(
            row, space, COUNT, _NO_TYPICAL, k, 0, low, end
        )
    if has_p and stop == end and listed <= space.capacity:
        weigh_list(row, space, listed)
        measure_mass(row, space, listed)
        total = np.int64(0)
        for i in range(listed):
            total += space.measure[i] if space.keys[i] >= low else 0
        need = mass_needed(filters.top_p, total)
        low = search_threshold(space.keys, space.measure, listed, need, low, end, EXACT)
    elif has_p:
        tops, size = space.maxima, row.num_blocks
        if is_cut_first(filters, row.vocab):
            start, stop, blocks, listed, above, kept = settle(
                row, space, low, start, stop, blocks, listed, above
            )
            tops, size = space.tops, blocks
        total = weigh_blocks(row, tops, space.sums, space.mass, size)
        need = mass_needed(filters.top_p, total)
        lower, upper = mass_bounds(row, space, tops, size, need, low, end)
        low, start, stop, blocks, listed, above = find(
            row, space, MASS, _NO_TYPICAL, need, total, lower, upper
        )
    low, high = max(low, floor), end
    if filters.typical_p < 1:
        low, high = keep_typical(row, space, low, end)
        start = stop = _NOTHING
    for cutoff, log2 in enumerate((filters.epsilon_log2, filters.eta_log2, filters.top_a_log2)):
        if log2 > -np.inf:  # the best token stays
            low = min(lowest_of_cutoff(row, space, low, high, cutoff), high - 1)
            if cutoff == ETA:
                start = stop = _NOTHING
    if filters.xtc_log2 < np.inf:
        likely = lowest_of_cutoff(row, space, low, high, XTC)
        if likely < high:
            high = lowest_between(row, space, likely, high) + 1
    if not start <= low <= stop:  # no list of what is in question
        blocks, kept = sum_kept(row, space, low, high)
        return low, high, blocks, kept
    _, _, blocks, _, _, kept = settle(row, space, low, start, stop, blocks, listed, above)
    return low, high, blocks, kept - trim(row, space, blocks, high)
