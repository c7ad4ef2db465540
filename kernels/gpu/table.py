"""What the block table says about a row before any logit is read again (device functions).

The table is looked at through at most `GROUPS` groups of consecutive blocks, which fit registers;
up to V = 131,072 a group is one block. A group's key is that of its largest logit.

    top-k:  k groups hold a logit each that reaches the k-th largest group key, so that key is a
            lower bound of the k-th largest logit, and a tight one.
    top-p:  with F(key) = mass of all logits from `key` up, and P the mass that is asked for,
            sum over groups that reach key of their whole mass                       >= F(key),
            the same of max(their best token's mass, whole mass - what lies below key) <= F(key),
            where what lies below is at most 64 ids a block times the mass of the key itself.
            The largest keys at which these two reach P enclose the threshold.

Traffic: the table once, 9 bytes a block; nothing is written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import BLOCK, block_scale, key_of, load_sums, scale_sums, value_of, widen


@triton.jit
def middle(low, high):
    """The key halfway, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def load_block_key(maxima_ptr, offs_n, num_blocks, SHIFT: tl.constexpr):
    """The keys of block maxima, int32; that of -inf beyond the last."""
    block_max = tl.load(maxima_ptr + offs_n, mask=offs_n < num_blocks, other=-float("inf"))
    return key_of(widen(block_max), SHIFT)


@triton.jit
def load_group_key(
    maxima_ptr, num_blocks, GROUPS: tl.constexpr, PER_GROUP: tl.constexpr, SHIFT: tl.constexpr
):
    """The key of the largest logit of each group, int32 [GROUPS]."""
    group_key = key_of(tl.full([GROUPS], -float("inf"), tl.float32), SHIFT)
    for j in range(PER_GROUP):
        offs_n = tl.arange(0, GROUPS) * PER_GROUP + j
        group_key = tl.maximum(group_key, load_block_key(maxima_ptr, offs_n, num_blocks, SHIFT))
    return group_key


@triton.jit
def block_of_group(
    maxima_ptr, group_key, j, num_blocks, GROUPS: tl.constexpr, PER_GROUP: tl.constexpr, SHIFT
):
    """Number and key of block `j` of each group, without a load where a group is one block."""
    offs_n = tl.arange(0, GROUPS) * PER_GROUP + j
    block_key = group_key
    if PER_GROUP > 1:
        block_key = load_block_key(maxima_ptr, offs_n, num_blocks, SHIFT)
    return offs_n, block_key


@triton.jit
def load_group_mass(
    maxima_ptr,
    sums_low_ptr,
    sums_high_ptr,
    group_key,  # int32 [GROUPS]
    row_max,
    threshold,  # key: blocks that do not reach it have no mass
    c,
    num_blocks,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """The mass of each group, int64 [GROUPS], from the sums in the table."""
    mass = tl.zeros([GROUPS], tl.int64)
    for j in range(PER_GROUP):
        offs_n, block_key = block_of_group(
            maxima_ptr, group_key, j, num_blocks, GROUPS, PER_GROUP, SHIFT
        )
        mask_n = (offs_n < num_blocks) & (block_key >= threshold)
        sums = load_sums(sums_low_ptr, sums_high_ptr, offs_n, mask_n)
        mantissa, shift = block_scale(value_of(block_key, SHIFT), row_max, c)
        mass += scale_sums(sums, mantissa, shift)
    return mass


@triton.jit
def count_bound(group_key, low, high, k):
    """The largest key in [low, high) that k groups reach; `low` where there is none."""
    while low + 1 < high:
        mid = middle(low, high)
        if tl.sum((group_key >= mid).to(tl.int32)) >= k:
            low = mid
        else:
            high = mid
    return low


@triton.jit
def mass_bounds(
    group_key,
    group_mass,
    low,
    high,
    needed,
    row_max,
    c,
    PER_GROUP: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """Keys `low <= threshold < high` around the largest key whose F reaches the mass `needed`.

    Where no key of [low, high) does, the threshold is `low`.
    """
    mantissa, shift = block_scale(value_of(group_key, SHIFT), row_max, c)
    best_mass = scale_sums(1 << 30, mantissa, shift)
    upper, end = low, high
    while upper + 1 < end:
        mid = middle(upper, end)
        if tl.sum(tl.where(group_key >= mid, group_mass, 0)) >= needed:
            upper = mid
        else:
            end = mid
    lower, end = low, upper + 1
    while lower + 1 < end:
        mid = middle(lower, end)
        # A token below `mid` has at most this mass: a hundredth of a bit above its own, rounded up
        # to 2**10 units, covers every rounding on the way.
        below = value_of(mid, SHIFT) * 0.5 - row_max * 0.5  # half: it may be infinite
        z = tl.minimum(below * c * 2.0 + 0.01, 0.01)
        most = (tl.exp2(tl.maximum(z, -64.0) + 30.0).to(tl.int32) + 1).to(tl.int64) << 10
        surely = tl.maximum(best_mass, group_mass - most * (BLOCK * PER_GROUP))
        if tl.sum(tl.where(group_key >= mid, surely, 0)) >= needed:
            lower = mid
        else:
            end = mid
    return lower, upper + 1
