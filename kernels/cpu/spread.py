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
from .near import near_device

_FEW = 256  # logits
_LARGEST = float(np.finfo(np.float32).max)
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
def near_moments(logits, size, center):
    """Of the finite logits up to `size`, less `center`: count, sum and sum of squares, fp64."""
    count, total, square = np.int32(0), 0.0, 0.0
    for j in range(size):
        x = widen(logits[j])
        off = np.float64(x if x >= LOWEST_FLOAT else center) - np.float64(center)
        count += np.int32(x >= LOWEST_FLOAT)
        total += off
        square += off * off
    return count, total, square


@device
def near_variance(row):
    """The variance by fp64 sums, and by how much of itself the exact one may differ, or inf.

    Sums are taken about what is near the mean, that of a few logits: NaN, and so all that follows,
    where none of them is finite. A sum in any order is off by V * 2**-53. The exact one's q stand
    for a logit within 2**-23 of its block's range, whose mean square is at most 128 variances: off
    by 3e-6 of the variance. Sums of blocks in the row's unit are off by as much at V = 2**22. From
    a deviation of 1e-6 on, the least unit a block takes is nothing.
    """
    count, total, square = near_moments(row.logits, min(_FEW, row.vocab), row.maximum)
    center = np.float32(row.maximum + total / count)
    count, total, square = near_moments(row.logits, row.vocab, center)
    mean, mean_square = total / count, square / count
    near = mean_square - mean * mean
    if not near > 0.01 * mean_square or not 1e-10 < mean_square < 1e30:
        return near, np.inf
    return near, 7e-6


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
