"""Bins of a bracket, and the few of them that enclose the threshold (device functions).

Bins are equally wide in value, where most logits lie; the first and the last also have what lies
beyond. Beside the count in each, the masses from every 8th part of the bins up are known. So the
mass from the lower end of a bin up lies between

    mass(from the next 8th up) + sum over bins up to there of count * 2**(z of a bin's lower end)
    and the same with z of the upper ends.

Where ranks are by nearness, every second bin is of what is less likely than the surprise, and both
of a pair begin and end at one distance.

These masses are fp32 sums, and the window is as wide as their error asks for: no result depends on
them, nor on the order of additions, for what programs share is integers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import BEST_MASS, LOWEST_FLOAT, about_inverse, key_of, value_of
from .bracket import WEIGHTLESS
from .rank import beyond_mean, by_nearness, place_of, shift_of, z_between

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
def half_width(row, first, last, SHAPE: tl.constexpr):
    """Half of a bin's width: the whole may be infinite."""
    width = tl.maximum(last * 0.5 - first * 0.5, 1e-30) * (1.0 / SHAPE.BINS)
    return width * (1 + by_nearness(row))


@triton.jit
def bin_of(row, x, first, width, SHAPE: tl.constexpr):
    """The number of the bin of logits `x`; `width` is half of a bin's."""
    near = by_nearness(row)
    place = (place_of(row, x) * 0.5 - first * 0.5) * about_inverse(width)
    bins = tl.minimum(tl.maximum(place, 0.0), (SHAPE.BINS >> near) - 1.0).to(tl.int32)
    if row.mean is not None:
        bins = (bins << near) + (near & (beyond_mean(row, x) < 0).to(tl.int32))
    return bins


@triton.jit
def below(bins, first, width):
    """The key of a place below all in these bins and beyond: where a bin begins is rounded."""
    j = bins.to(tl.float32) - FUZZ
    return key_of(first + j * width + j * width, 0) - 2


@triton.jit
def beyond(bins, first, width):
    """The key of a place above all in lower bins."""
    j = bins.to(tl.float32) + FUZZ
    return key_of(first + j * width + j * width, 0) + 2


@triton.jit
def masses_from(row, around, in_bin, coarse, first, width, SHAPE: tl.constexpr):
    """The least and the most mass, fp32 [BINS], from the lower end of each bin up."""
    near = by_nearness(row)
    bins = tl.arange(0, SHAPE.BINS)
    worse, steps = (bins & near) > 0, bins >> near
    start = value_of(below(steps, first, width), 0)
    end = value_of(beyond(steps + 1, first, width), 0)
    largest = value_of(around.high - 1, shift_of(row, SHAPE.SHIFT))
    end = tl.where(steps < (SHAPE.BINS >> near) - 1, end, largest)
    if row.mean is not None:  # what is likelier than the surprise is the more so the farther it is
        start = tl.where(steps > 0, start, -float("inf"))
    least_z, most_z = z_between(row, start, end, worse)
    least = tl.where(steps > 0, in_bin * tl.exp2(tl.maximum(least_z, -126.0)), 0.0)
    most = in_bin * tl.exp2(tl.minimum(most_z, 0.0))
    part: tl.constexpr = SHAPE.BINS // COARSE
    least = tl.cumsum(tl.reshape(least, [COARSE, part]), 1, reverse=True)
    most = tl.cumsum(tl.reshape(most, [COARSE, part]), 1, reverse=True)
    above = (coarse.to(tl.float32) * 2.0**-UNIT)[:, None]
    return tl.reshape(above + least, [SHAPE.BINS]), tl.reshape(above + most, [SHAPE.BINS])


@triton.jit
def window(row, around, in_bin, coarse, above, first, width, SHAPE: tl.constexpr):
    """Ranks `low <= threshold < high` inside of a bracket, a bin or a few apart; the count there.

    `in_bin` int32 [BINS]: how many logits of the bracket are in each; `coarse` int64 [COARSE]: the
    mass of those from the end of each 8th of the bins up;
    `above` int64: the count or mass of what lies beyond the bracket.
    """
    near, shift = by_nearness(row), shift_of(row, SHAPE.SHIFT)
    bins = tl.arange(0, SHAPE.BINS)
    need = around.need - above
    if around.by_mass:
        mass = need.to(tl.float32) * (1.0 / BEST_MASS)
        least, most = masses_from(row, around, in_bin, coarse, first, width, SHAPE)
        # Weights are rounded down, and shared masses: by less than one a token and a program.
        lost = (tl.sum(in_bin) + 64).to(tl.float32) * 2.0**-UNIT
        error = tl.max(most) * ROUNDING + lost
        first_of_pair = (bins & near) == 0
        surely = (least - error >= mass) & first_of_pair
        maybe = (most + error >= mass) & first_of_pair
        last = tl.max(tl.where(surely, bins, -1))
        end = tl.max(tl.where(maybe, bins, -1)) + 1 + near
    else:
        reach = tl.cumsum(in_bin, 0, reverse=True)
        last = tl.max(tl.where(reach >= need, bins, -1))
        end = last + 1
    count = tl.sum(tl.where((bins >= last) & (bins < end), in_bin, 0))
    low = below(last >> near, first, width) >> shift
    high = (beyond(end >> near, first, width) >> shift) + 1
    low = tl.where(last > 0, tl.maximum(low, around.low), around.low)
    high = tl.where(end < SHAPE.BINS, tl.minimum(high, around.high), around.high)
    return low, high, count
