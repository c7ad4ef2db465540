"""The variance of a row's finite logits, from sums of integers (device functions).

Inside a block of 64 in units that fit the block's range, then in units that fit the row's (contract
section 4). `summarize.py` keeps two words a block:

    moments[b, n] = sum of q * 2**16 + count * 2**8 + exponent - LEAST_EXPONENT
    squares[b, n] = sum of q * q,  q = floor((max / 2 - x / 2) * 2**(25 - exponent))

Traffic: 16 bytes a block written, and read twice.
PyTorch twin: `fused_sampler.contract.spread`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fused_sampler.contract import mass, spread

from .arithmetic import LOWEST_FLOAT, value_of
from .table import block_of_group

LARGEST = tl.constexpr(-mass.LOWEST)
LEAST_EXPONENT = tl.constexpr(spread.LEAST_EXPONENT)


@triton.jit
def block_moments(x, block_max):
    """The two words of each block, int64 [ROWS], for its logits, fp32 [ROWS, 64]."""
    finite = x >= LOWEST_FLOAT
    below = tl.where(finite, block_max[:, None] * 0.5 - x * 0.5, 0.0)
    widest = tl.max(below, axis=1)
    exponent = tl.maximum((widest.to(tl.int32, bitcast=True) >> 23) - 126, LEAST_EXPONENT)
    unit = ((152 - exponent) << 23).to(tl.float32, bitcast=True)  # 2**(25 - exponent)
    q = (below * unit[:, None]).to(tl.int32)
    count = tl.sum(finite.to(tl.int32), axis=1)
    first = tl.sum(q, axis=1).to(tl.int64)  # below 63 * 2**25
    wide = q.to(tl.int64)
    moments = (first << 16) + (count << 8) + exponent - LEAST_EXPONENT
    return moments, tl.sum(wide * wide, axis=1)


@triton.jit
def power_of_2(exponent):
    """Of an int64 exponent, fp64."""
    return ((exponent + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def load_moments(row, j, SHAPE: tl.constexpr):
    """Of block `j` of each group: count, how far its maximum is below the row's, the exponent.

    The distance is in halves, fp64; the others and the packed word are int64.
    """
    offs_n, block_key = block_of_group(row, j, SHAPE)
    block_max = value_of(block_key, SHAPE.SHIFT)
    finite = (offs_n < row.num_blocks) & (block_max >= LOWEST_FLOAT)
    moments = tl.load(row.table.moments_ptr + offs_n, mask=finite, other=0)
    far = row.max.to(tl.float64) * 0.5 - block_max.to(tl.float64) * 0.5
    far = tl.where(finite, far, 0.0)
    return (moments >> 8) & 0xFF, far, (moments & 0xFF) + LEAST_EXPONENT, moments


@triton.jit
def variance(row, SHAPE: tl.constexpr):
    """Of the row's finite logits, fp64."""
    reach = tl.full([SHAPE.GROUPS], 0.0, tl.float64)
    for j in range(SHAPE.PER_GROUP):
        count, far, exponent, _ = load_moments(row, j, SHAPE)
        reach = tl.maximum(reach, tl.where(count > 0, far + power_of_2(exponent), 0.0))
    whole = (tl.max(reach, axis=0).to(tl.int64, bitcast=True) >> 52) - 1022
    unit = power_of_2(40 - whole)
    total = tl.full([SHAPE.GROUPS], 0, tl.int64)
    square = tl.full([SHAPE.GROUPS], 0, tl.int64)
    counts = tl.full([SHAPE.GROUPS], 0, tl.int64)
    for j in range(SHAPE.PER_GROUP):
        count, far, exponent, moments = load_moments(row, j, SHAPE)
        offs_n = tl.arange(0, SHAPE.GROUPS) * SHAPE.PER_GROUP + j
        squares = tl.load(row.table.squares_ptr + offs_n, mask=count > 0, other=0)
        size, own_unit = count.to(tl.float64), power_of_2(exponent - 25)
        own = (moments >> 16).to(tl.float64) * own_unit
        own_square = squares.to(tl.float64) * own_unit * own_unit
        counts += count
        total += ((own + size * far) * unit).to(tl.int64)
        own_square += far * (2.0 * own + size * far)
        square += (own_square * unit * power_of_2(-whole)).to(tl.int64)
    size = tl.sum(counts).to(tl.float64)
    mean = tl.sum(total).to(tl.float64) * 2.0**-40 / size
    own = tl.sum(square).to(tl.float64) * 2.0**-40 / size - mean * mean
    return tl.maximum(own, 0.0) * power_of_2(2 * whole + 2)


@triton.jit
def largest_root(square):
    """The largest fp32 value whose square is at most `square`, fp64."""
    square = tl.minimum(square, LARGEST * LARGEST)
    bits = tl.sqrt(square).to(tl.float32).to(tl.int32, bitcast=True) + 1
    for _ in tl.static_range(2):
        root = bits.to(tl.float32, bitcast=True).to(tl.float64)
        bits -= (root * root > square).to(tl.int32)
    return bits.to(tl.float32, bitcast=True)
