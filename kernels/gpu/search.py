"""Step 2d, search: the threshold among the listed logits, in registers (device code).

By count:  the digits of a key, eight bits a step, by a histogram of the keys in question. The
           search ends where a count is met, mostly at the second or third digit.
By mass:   bisection, at most 32 steps, 16 for bf16 and 19 for fp16. Listed logits weigh what they
           would in blocks of their own, and 1 more: at least their share of the block's mass, which
           is rounded down once (contract section 3). So no key above the one that is found reaches
           what is needed; `select.py` makes sure that this one does.

Traffic: the maximum of each entry's block.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import block_scale, scale_sums, token_weights, value_of
from .rank import rank_of_key

BINS = tl.constexpr(256)
FEW = tl.constexpr(8)  # lists of an eighth of the length


@triton.jit
def middle(low, high):
    """The key halfway, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def inside(key, low, high):
    """Whether keys are in [low, high), by one comparison: LLVM puts two into local memory."""
    return (key - low).to(tl.uint32, bitcast=True) < (high - low).to(tl.uint32, bitcast=True)


@triton.jit
def search_count(keys, low, high, k):
    """A key in [low, high) that the `k` largest of the keys reach, and no others; `low` if none is.

    Ties of the k-th largest reach it too. No key is `high` or larger.
    """
    steps = tl.arange(0, BINS).to(tl.int64) + 1
    above = tl.zeros([], tl.int64)  # keys from `high` up
    while low + 1 < high:
        # The width as a float tells its highest bit, or one more: it is rounded.
        width = (high.to(tl.int64) - low).to(tl.float32).to(tl.int32, bitcast=True)
        shift = tl.maximum((width >> 23) - (127 + 7), 0)
        digits = (keys - low).to(tl.uint32, bitcast=True) >> shift
        in_bin = tl.histogram(digits.to(tl.int32), BINS, inside(keys, low, high)).to(tl.int64)
        reach = above + tl.cumsum(in_bin, 0, reverse=True)  # the lower end of each bin
        # Of the last bin that `k` keys reach: its number from 1 on, and both counts, 24 bits each.
        last = tl.max(tl.where(reach >= k, (steps << 48) | (reach << 24) | in_bin, 0))
        count = (last >> 24) & 0xFFFFFF
        above = count - (last & 0xFFFFFF)
        end = low.to(tl.int64) + ((last >> 48) << shift)
        high = tl.where(last > 0, tl.minimum(end, high).to(tl.int32), low)
        low = tl.where(last > 0, end.to(tl.int32) - (1 << shift), low)
        high = tl.where(count == k, low, high)  # found
    return low


@triton.jit
def load_keys(row, listed, first, SIZE: tl.constexpr):
    """Entries of the list from `first` on: keys, the lowest int32 beyond the end, and the mask."""
    entry = first + tl.arange(0, SIZE)
    mask = entry < listed
    return tl.load(row.list_ptr + entry, mask=mask, other=-0x80000000), mask


@triton.jit
def load_weights(row, key, mask, first, SHAPE: tl.constexpr):
    """Of these entries the block's number and maximum, fp32, and the weight, int32."""
    entry = first + tl.arange(0, key.shape[0])
    offs_n = tl.load(row.list_ptr + SHAPE.LIST + entry, mask=mask, other=0)
    block_max = tl.load(row.table.maxima_ptr + offs_n, mask=mask, other=0.0).to(tl.float32)
    return offs_n, block_max, token_weights(value_of(key, SHAPE.SHIFT), block_max, row.c)


@triton.jit
def listed_count(row, found, low, high, k, SIZE: tl.constexpr):
    """`search_count` among so many listed keys."""
    key, _ = load_keys(row, found.listed, 0, SIZE)
    above = found.count - tl.sum((key >= found.start).to(tl.int32))
    return search_count(key, low, high, k - above)


@triton.jit
def listed_mass(row, found, low, high, need, SIZE: tl.constexpr, SHAPE: tl.constexpr):
    """The largest rank in [low, high) at which the mass may reach `need`, else `low`."""
    key, mask = load_keys(row, found.listed, 0, SIZE)
    rank = rank_of_key(row, key, SHAPE.SHIFT)
    _, block_max, weight = load_weights(row, key, mask, 0, SHAPE)
    mantissa, shift = block_scale(block_max, row.max, row.c)
    mass = scale_sums(weight.to(tl.int64), mantissa, shift)
    above = found.mass - tl.sum(tl.where(rank >= found.start, mass, 0))
    packed = tl.where(mask, ((mass + 1) << 12) + 1, 0).to(tl.uint64)  # 2,048 masses have 52 bits
    reach_low, reach_high = found.listed, 0
    while (low + 1 < high) & (reach_low - reach_high > 1):
        mid = middle(low, high)
        both = tl.sum(tl.where(rank >= mid, packed, 0))
        count = (both & 0xFFF).to(tl.int32)
        if above + (both >> 12).to(tl.int64) >= need:
            low = mid
            reach_low = count
        else:
            high = mid
            reach_high = count
    return low


@triton.jit
def search_list(row, found, low, high, by_mass, need, SHAPE: tl.constexpr):
    """The threshold in [low, high), else `low`. A short list takes few instructions."""
    if found.listed <= SHAPE.LIST // FEW:
        if by_mass:
            low = listed_mass(row, found, low, high, need, SHAPE.LIST // FEW, SHAPE)
        else:
            low = listed_count(row, found, low, high, need, SHAPE.LIST // FEW)
    elif by_mass:
        low = listed_mass(row, found, low, high, need, SHAPE.LIST, SHAPE)
    else:
        low = listed_count(row, found, low, high, need, SHAPE.LIST)
    return low
