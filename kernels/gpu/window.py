"""Bins of a bracket, and the few of them that enclose the threshold (device functions).

Bins are equally wide in value, where most logits lie; the first and the last also have what lies
beyond. Beside the count in each, the masses from every 8th part of the bins up are known. So the
mass from the lower end of a bin up lies between

    mass(from the next 8th up) + sum over bins up to there of count * 2**(z of a bin's lower end)
    and the same with z of the upper ends.

These masses are fp32 sums, and the window is as wide as their error asks for: no result depends on
them, nor on the order of additions, for what programs share is integers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import BEST_MASS, LOWEST_FLOAT, about_inverse, about_z, key_of, value_of
from .bracket import WEIGHTLESS

COARSE = tl.constexpr(8)
UNIT = tl.constexpr(30)  # masses that programs share are in units of 2**-30 of the best token's
# Of masses in fp32, to that of all bins: z is off by 2**-22 of itself, tokens below z = -46 hardly
# count, and a mass may be a difference of two.
ROUNDING = tl.constexpr(2.0**-15)
FUZZ = tl.constexpr(0.0625)  # of a bin


@triton.jit
def spread(row, around, SHAPE: tl.constexpr):
    """The values between which bins are spread, fp32: where most logits of a bracket lie.

    With d the distance from the lowest block maximum to the mean of all, from 3 d below the lowest
    to 3 d above the mean: a few logits far above do not widen the bins. Blocks without weight, as
    where a mask is a large number, do not count, unless they are most and matter: by count.
    """
    block_max = value_of(row.group_key, SHAPE.SHIFT)
    finite = block_max >= LOWEST_FLOAT
    weighty = finite & (block_max >= row.max - WEIGHTLESS * about_inverse(row.c))
    few = 2 * tl.sum(weighty.to(tl.int32)) < tl.sum(finite.to(tl.int32))
    counts = weighty | (finite & few & (around.by_mass == 0))
    lowest = tl.min(tl.where(counts, block_max, row.max))
    share = about_inverse(tl.sum(counts.to(tl.float32)))
    mean = tl.sum(tl.where(counts, block_max * share, 0.0))
    first = tl.maximum(lowest - 3.0 * (mean - lowest), value_of(around.low, SHAPE.SHIFT))
    last = mean + 3.0 * (mean - lowest)
    return first, tl.where(first < last, tl.minimum(last, row.max), row.max)


@triton.jit
def half_width(first, last, SHAPE: tl.constexpr):
    """Half of a bin's width: the whole may be infinite."""
    return tl.maximum(last * 0.5 - first * 0.5, 1e-30) * (1.0 / SHAPE.BINS)


@triton.jit
def bin_of(x, first, width, SHAPE: tl.constexpr):
    """The number of the bin of logits `x`; `width` is half of a bin's."""
    place = (x * 0.5 - first * 0.5) * about_inverse(width)
    return tl.minimum(tl.maximum(place, 0.0), SHAPE.BINS - 1.0).to(tl.int32)


@triton.jit
def below(bins, first, width):
    """An fp32 key below all logits in these bins and beyond: where a bin begins is rounded."""
    j = bins.to(tl.float32) - FUZZ
    return key_of(first + j * width + j * width, 0) - 2


@triton.jit
def beyond(bins, first, width):
    """An fp32 key above all logits in lower bins."""
    j = bins.to(tl.float32) + FUZZ
    return key_of(first + j * width + j * width, 0) + 2


@triton.jit
def masses_from(row, around, in_bin, coarse, first, width, SHAPE: tl.constexpr):
    """The least and the most mass, fp32 [BINS], from the lower end of each bin up."""
    bins = tl.arange(0, SHAPE.BINS)
    least_z = about_z(value_of(below(bins, first, width), 0), row.max, row.c)
    end = value_of(beyond(bins + 1, first, width), 0)
    end = tl.where(bins < SHAPE.BINS - 1, end, value_of(around.high - 1, SHAPE.SHIFT))
    most_z = about_z(end, row.max, row.c)
    least = tl.where(bins > 0, in_bin * tl.exp2(tl.maximum(least_z, -126.0)), 0.0)
    most = in_bin * tl.exp2(tl.minimum(most_z, 0.0))
    part: tl.constexpr = SHAPE.BINS // COARSE
    least = tl.cumsum(tl.reshape(least, [COARSE, part]), 1, reverse=True)
    most = tl.cumsum(tl.reshape(most, [COARSE, part]), 1, reverse=True)
    above = (coarse.to(tl.float32) * 2.0**-UNIT)[:, None]
    return tl.reshape(above + least, [SHAPE.BINS]), tl.reshape(above + most, [SHAPE.BINS])


@triton.jit
def window(row, around, in_bin, coarse, above, first, width, SHAPE: tl.constexpr):
    """Keys `low <= threshold < high` inside of a bracket, a bin or a few apart; the count there.

    `in_bin` int32 [BINS]: how many logits of the bracket are in each; `coarse` int64 [COARSE]: the
    mass of those from the end of each 8th of the bins up;
    `above` int64: the count or mass of what lies beyond the bracket.
    """
    bins = tl.arange(0, SHAPE.BINS)
    need = around.need - above
    if around.by_mass:
        mass = need.to(tl.float32) * (1.0 / BEST_MASS)
        least, most = masses_from(row, around, in_bin, coarse, first, width, SHAPE)
        # Weights are rounded down, and shared masses: by less than one a token and a program.
        lost = (tl.sum(in_bin) + 64).to(tl.float32) * 2.0**-UNIT
        error = tl.max(most) * ROUNDING + lost
        surely = least - error >= mass
        maybe = most + error >= mass
        last = tl.max(tl.where(surely, bins, -1))
        end = tl.max(tl.where(maybe, bins, -1)) + 1
    else:
        reach = tl.cumsum(in_bin, 0, reverse=True)
        last = tl.max(tl.where(reach >= need, bins, -1))
        end = last + 1
    count = tl.sum(tl.where((bins >= last) & (bins < end), in_bin, 0))
    low = below(last, first, width) >> SHAPE.SHIFT
    high = (beyond(end, first, width) >> SHAPE.SHIFT) + 1
    low = tl.where(last > 0, tl.maximum(low, around.low), around.low)
    high = tl.where(end < SHAPE.BINS, tl.minimum(high, around.high), around.high)
    return low, high, count
