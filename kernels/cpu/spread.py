"""The variance of a row's finite logits, from sums of integers (contract section 4).

Traffic: 1 plane read, from the cache that `summarize` has filled where the row fits it.
Twins: `fused_sampler.contract.spread`, `kernels/gpu/spread.py`.
"""

from __future__ import annotations

import math

import numpy as np

from fused_sampler.contract import spread

from .arithmetic import BLOCK, FORBIDDEN, LOWEST_FLOAT, value_of, widen
from .compiling import device
from .memory import bits_of, float_of
from .near import GROUP, near_device

_LARGEST = float(np.finfo(np.float32).max)
_SAMPLED = 4  # groups that tell about where the mean is
_LEAST_EXPONENT = np.int32(spread.LEAST_EXPONENT)


@device
def block_moments(logits, first, size, block_max):
    """Of a block's finite logits: count, exponent e, sum of q, sum of q * q, all int64.

    `q = floor((block_max / 2 - x / 2) * 2**(25 - e))`, below 2**25.
    """
    widest, half = np.float32(0.0), np.float32(0.5)
    for j in range(size):
        x = widen(logits[first + j])
        below = block_max * half - x * half
        widest = max(widest, below if x >= LOWEST_FLOAT else np.float32(0.0))
    exponent = max(np.int32((bits_of(widest) >> 23) - 126), _LEAST_EXPONENT)
    unit = float_of(np.int32((152 - exponent) << 23))
    count, total, square = np.int64(0), np.int64(0), np.int64(0)
    for j in range(size):
        x = widen(logits[first + j])
        below = (block_max * half - x * half) * unit
        q = np.int32(below if x >= LOWEST_FLOAT else np.float32(0.0))
        count += x >= LOWEST_FLOAT
        total += q
        square += np.int64(q) * np.int64(q)
    return count, np.int64(exponent), total, square


@near_device
def near_moments(logits, first, size, pivot):
    """Of a group's finite logits: count, sum and sum of squares of half of what they lack to it."""
    count, total, square = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    half = np.float32(0.5)
    for j in range(size):
        x = widen(logits[first + j])
        below = (pivot - (x if x >= LOWEST_FLOAT else pivot)) * half
        count += np.float32(1.0) if x >= LOWEST_FLOAT else np.float32(0.0)
        total += below
        square += below * below
    return count, total, square


@device
def means_of_groups(row, pivot, stride):
    """The means of what `near_moments` adds up, fp64, of a group at every so many logits."""
    count, total, square = 0.0, 0.0, 0.0
    for first in range(0, row.vocab, stride):
        size = min(GROUP * BLOCK, row.vocab - first)
        of_group = near_moments(row.logits, first, size, pivot)
        count += of_group[0]
        total += of_group[1]
        square += of_group[2]
    return total / count, square / count


@device
def near_variance(row):
    """The variance in fp32 sums, and by how much of itself it may be off: inf where by too much.

    Of 256 terms in fp32 a sum is off by 1.6e-5 of their sizes in any order, a term by 3e-7. So they
    are what logits lack to a pivot near their mean, which a few groups tell. Logits closer together
    than 1e-6 are left to the exact sums, for which some of them are equal.
    """
    few = max(row.vocab // _SAMPLED, GROUP * BLOCK)
    pivot = row.maximum - np.float32(2.0 * means_of_groups(row, row.maximum, few)[0])
    mean, mean_square = means_of_groups(row, pivot, GROUP * BLOCK)
    near = mean_square - mean * mean
    if not near > 0.01 * mean_square or not 1e-12 < mean_square < 1e30:
        return near, np.inf
    return 4.0 * near, 6e-5 * mean_square / near


@device
def variance(row, space):
    """Of the row's finite logits, fp64. Overwrites `space.blocks`, `tops`, `sums` and `mass`."""
    reach = 0.0
    for n in range(row.num_blocks):
        space.tops[n] = 0
        if space.maxima[n] > FORBIDDEN:
            first, block_max = n * BLOCK, value_of(space.maxima[n])
            size = min(BLOCK, row.vocab - first)
            count, exponent, total, square = block_moments(row.logits, first, size, block_max)
            space.tops[n], space.blocks[n] = count, exponent
            space.sums[n], space.mass[n] = total, square
            far = np.float64(row.maximum) * 0.5 - np.float64(block_max) * 0.5
            reach = max(reach, far + math.ldexp(1.0, exponent))
    # From each block's maximum and unit to those of the row, still halves of differences.
    exponent = math.frexp(reach)[1]
    unit, square_unit = math.ldexp(1.0, 40 - exponent), math.ldexp(1.0, -exponent)
    count, total, square = np.int64(0), np.int64(0), np.int64(0)
    for n in range(row.num_blocks):
        size = np.float64(space.tops[n])
        if size > 0:
            own_unit = math.ldexp(1.0, space.blocks[n] - 25)
            far = np.float64(row.maximum) * 0.5 - np.float64(value_of(space.maxima[n])) * 0.5
            own = np.float64(space.sums[n]) * own_unit
            own_square = np.float64(space.mass[n]) * own_unit * own_unit
            count += space.tops[n]
            total += np.int64((own + size * far) * unit)
            square += np.int64((own_square + far * (2.0 * own + size * far)) * unit * square_unit)
    mean = np.float64(total) * 2.0**-40 / np.float64(count)
    own = np.float64(square) * 2.0**-40 / np.float64(count) - mean * mean
    return max(own, 0.0) * math.ldexp(1.0, 2 * exponent + 2)


@device
def largest_root(square):
    """The largest fp32 value whose square is at most `square`, fp64."""
    square = min(square, _LARGEST * _LARGEST)
    bits = np.int32(bits_of(np.float32(math.sqrt(square))) + 1)
    for _ in range(2):
        root = np.float64(float_of(bits))
        bits = np.int32(bits - (root * root > square))
    return float_of(bits)
