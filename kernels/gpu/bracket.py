"""Step 2a, bracket: a key `low <= threshold` before any logit is read again (device code).

    top-k:  k groups hold a logit each that reaches the k-th largest group key, so that key is a
            lower bound of the k-th largest logit, and a tight one.
    top-p:  with F(key) = mass of all logits from `key` up, and P the mass that is asked for,
            sum over groups that reach key of max(best token's mass, whole mass - what lies below
            key) <= F(key), where what lies below is at most 64 ids a block times the mass of key.
            So the largest key at which this reaches P is a lower bound. It is looked for down to an
            eighth of a bit: the bound is rarely as near as that.
    typical: what a top-p of its share would keep holds enough, so typical looks no further than the
            farther end of that.
    value:  a filter that names the lowest value itself has its threshold by bisection.

Traffic: none; the table is in registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .arguments import is_cut_first
from .arithmetic import (
    BLOCK,
    about_inverse,
    about_z,
    block_scale,
    key_of,
    lowest_key,
    scale_sums,
    value_of,
)
from .collect import collect
from .rank import FARTHEST, NEAREST, place_of
from .search import middle, search_count
from .spread import largest_root, variance
from .table import load_group_mass

NEAR = tl.constexpr(0.125)  # logits times c, as is the next
WEIGHTLESS = tl.constexpr(64.0)  # tokens so far below the best have no mass


class Bracket(NamedTuple):
    """Ranks `low <= threshold < high`, and what has to be reached at the threshold."""

    low: Any
    high: Any  # from the table alone, the one after the largest
    need: Any  # int64: a count or a mass
    by_mass: Any


@triton.jit
def mass_needed(top_p, total):
    """`P = max(1, ceil(p * mass(K)))`, int64 (contract section 4)."""
    needed = tl.math.ceil(top_p.to(tl.float64) * total.to(tl.float64))
    return tl.maximum(needed.to(tl.int64), 1)


@triton.jit
def lowest_of_sigma(row, filters, SHAPE: tl.constexpr):
    """The lowest key that top-n-sigma keeps."""
    low = lowest_key(SHAPE.SHIFT)
    if filters.top_n_sigma is not None:
        if filters.top_n_sigma < float("inf"):
            n = filters.top_n_sigma.to(tl.float64) * row.c.to(tl.float64)
            least = -largest_root(n * n * variance(row, SHAPE))
            low = value_key(row, least, low, SHAPE.SHIFT)
    return low


@triton.jit
def lowest_kept(row, filters, SHAPE: tl.constexpr):
    """The lowest key that min-p keeps: no search has to go below."""
    floor = lowest_key(SHAPE.SHIFT)
    if filters.min_p > -float("inf"):
        floor = value_key(row, filters.min_p, floor, SHAPE.SHIFT)
    return floor


@triton.jit
def bracket(row, filters, low, floor, SHAPE: tl.constexpr):
    """Around the threshold of top-k, of top-p for a row without; none below the key `floor`.

    Earlier filters keep the keys from `low` up. Of a part of the row the table gets the sums.
    """
    floor = tl.maximum(low, floor)
    end = key_of(row.max, SHAPE.SHIFT) + 1
    by_mass = filters.top_k >= row.vocab_size
    need = filters.top_k.to(tl.int64)
    if by_mass:
        if (filters.top_n_sigma is not None) | (filters.top_h is not None):
            if is_cut_first(filters, row.vocab_size):
                collect(row, low, low, SHAPE)
        group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
        need = mass_needed(filters.top_p, tl.sum(group_mass))
        low = bracket_mass(row, group_mass, floor, need, SHAPE)
    else:
        low = tl.where(filters.top_p < 1, low, floor)  # top-p counts what min-p drops
        low = bracket_count(row, low, end, need)
    return Bracket(low, end, need, by_mass)


@triton.jit
def bracket_near(row, typical_p, group_mass, end, SHAPE: tl.constexpr):
    """Around the threshold of typical, by nearness, where the keys in [floor, end) are kept."""
    need = mass_needed(typical_p, tl.sum(group_mass))
    worst = bracket_mass(row, group_mass, row.floor, need, SHAPE)
    best = place_of(row, value_of(end - 1, SHAPE.SHIFT))
    low = key_of(tl.minimum(best, place_of(row, value_of(worst, SHAPE.SHIFT))), 0)
    low = tl.where(worst > row.floor, tl.maximum(low, FARTHEST), FARTHEST)
    return Bracket(low, tl.full([], NEAREST + 1, tl.int32), need, typical_p < 1)


@triton.jit
def bracket_count(row, low, high, k):
    """The largest key in [low, high) that `k` groups reach; `low` where there is none."""
    bound = search_count(row.group_key, low, high, k)
    nearest = tl.min(tl.where(row.group_key >= bound, row.group_key, 0x7FFFFFFF))
    return tl.where(bound > low, nearest, low)


@triton.jit
def bracket_mass(row, group_mass, low, need, SHAPE: tl.constexpr):
    """About the largest key from `low` up whose F surely reaches the mass `need`, else `low`."""
    low = tl.maximum(low, key_of(row.max - WEIGHTLESS * about_inverse(row.c), SHAPE.SHIFT))
    mantissa, shift = block_scale(value_of(row.group_key, SHAPE.SHIFT), row.max, row.c)
    best_mass = scale_sums(1 << 30, mantissa, shift)
    first, last = value_of(low, SHAPE.SHIFT), row.max
    value = first * 0.5 + last * 0.5  # half: the sum may be infinite
    while ((last - first) * row.c > NEAR) & (first < value) & (value < last):
        mid = key_of(value, SHAPE.SHIFT)
        # A token below has at most this mass: a hundredth of a bit above that of `mid`, rounded up
        # to 2**10 units, covers every rounding on the way.
        z = tl.minimum(about_z(value_of(mid, SHAPE.SHIFT), row.max, row.c) + 0.01, 0.01)
        most = (tl.exp2(tl.maximum(z, -64.0) + 30.0).to(tl.int32) + 1).to(tl.int64) << 10
        surely = tl.maximum(best_mass, group_mass - most * (BLOCK * SHAPE.PER_GROUP))
        if tl.sum(tl.where(row.group_key >= mid, surely, 0)) >= need:
            first = value
            low = mid
        else:
            last = value
        value = first * 0.5 + last * 0.5
    return low


@triton.jit
def z_of(row, key, SHIFT: tl.constexpr):
    """`fp32(fp32(x - max) * c)` of a key's logit."""
    return (value_of(key, SHIFT) - row.max) * row.c


@triton.jit
def first_key(row, mean, least, low, high, SHIFT: tl.constexpr):
    """The lowest key in [low, high) with z, or `fp32(z + mean)`, from `least` up; else `high`."""
    low -= 1  # stands for a key that is not
    while low + 1 < high:
        mid = middle(low, high)
        z = z_of(row, mid, SHIFT)
        if mean is not None:
            z += mean
        if z >= least:
            high = mid
        else:
            low = mid
    return high


@triton.jit
def value_key(row, lowest, low, SHIFT: tl.constexpr):
    """The lowest key from `low` up whose z is `lowest` (<= 0) or more; the best token's at most."""
    return first_key(row, None, lowest, low, key_of(row.max, SHIFT), SHIFT)
