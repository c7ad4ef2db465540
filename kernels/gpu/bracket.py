"""Step 2a, bracket: keys `low <= threshold < high` before any logit is read again (device code).

    top-k:  k groups hold a logit each that reaches the k-th largest group key, so that key is a
            lower bound of the k-th largest logit, and a tight one.
    top-p:  with F(key) = mass of all logits from `key` up, and P the mass that is asked for,
            sum over groups that reach key of their whole mass                       >= F(key),
            the same of max(their best token's mass, whole mass - what lies below key) <= F(key),
            where what lies below is at most 64 ids a block times the mass of the key itself.
            The largest keys at which these two reach P enclose the threshold.
    value:  a filter that names the lowest value itself has its threshold by bisection.

Traffic: none; the table is in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import BLOCK, block_scale, key_of, scale_sums, value_of
from .search import middle, search_count


@triton.jit
def bracket_count(row, low, high, k, SHAPE: tl.constexpr):
    """The largest key in [low, high) that `k` groups reach; `low` where there is none.

    And whether that is no bound at all, and more may reach it than the list holds.
    """
    bound = search_count(row.group_key, low, high, k)
    nearest = tl.min(tl.where(row.group_key >= bound, row.group_key, 0x7FFFFFFF))
    bound = tl.where(bound > low, nearest, low)
    crowded = False
    if bound == low:
        groups = tl.sum((row.group_key >= bound).to(tl.int32))
        crowded = groups * (SHAPE.PER_GROUP * BLOCK) > SHAPE.LIST
    return bound, crowded


@triton.jit
def bracket_mass(row, group_mass, low, high, need, SHAPE: tl.constexpr):
    """Keys `low <= threshold < high` around the largest key whose F reaches the mass `need`.

    Where no key of [low, high) does, the threshold is `low`.
    """
    mantissa, shift = block_scale(value_of(row.group_key, SHAPE.SHIFT), row.max, row.c)
    best_mass = scale_sums(1 << 30, mantissa, shift)
    upper, end = low, high
    while upper + 1 < end:
        mid = middle(upper, end)
        if tl.sum(tl.where(row.group_key >= mid, group_mass, 0)) >= need:
            upper = mid
        else:
            end = mid
    lower, end = low, upper + 1
    while lower + 1 < end:
        mid = middle(lower, end)
        # A token below `mid` has at most this mass: a hundredth of a bit above its own, rounded up
        # to 2**10 units, covers every rounding on the way.
        below = value_of(mid, SHAPE.SHIFT) * 0.5 - row.max * 0.5  # half: it may be infinite
        z = tl.minimum(below * row.c * 2.0 + 0.01, 0.01)
        most = (tl.exp2(tl.maximum(z, -64.0) + 30.0).to(tl.int32) + 1).to(tl.int64) << 10
        surely = tl.maximum(best_mass, group_mass - most * (BLOCK * SHAPE.PER_GROUP))
        if tl.sum(tl.where(row.group_key >= mid, surely, 0)) >= need:
            lower = mid
        else:
            end = mid
    return lower, upper + 1


@triton.jit
def value_key(row, lowest, low, SHIFT: tl.constexpr):
    """The lowest key from `low` up whose `fp32(fp32(x - max) * c)` is at least `lowest` (<= 0)."""
    high = key_of(row.max, SHIFT)  # is: its difference is 0
    low -= 1  # stands for a key that is not
    while low + 1 < high:
        mid = middle(low, high)
        if (value_of(mid, SHIFT) - row.max) * row.c >= lowest:
            high = mid
        else:
            low = mid
    return high
