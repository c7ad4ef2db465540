"""Step 2d, search: the threshold among the listed logits, by bisection in registers (device code).

The list holds the logits in question, those of one block side by side. With w the weight of a
listed logit, and W the sum of weights of the larger ones of its block, surely kept or listed,

    count(key) = surely kept + listed logits from `key` up
    mass(key)  = their mass  + sum over listed logits from `key` up of scale(W + w) - scale(W)

In each block that sum telescopes to what its tokens add together, so that a step of the bisection
is one reduction. It takes at most 32 steps, 16 for bf16 and 19 for fp16.

Traffic: the list, 8 bytes an entry, and the maximum and the sum of each entry's block.
Races: the sums are read by all threads before the barrier after which they are written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import block_scale, load_sums, scale_sums, store_sums, token_weights, value_of
from .table import middle


@triton.jit
def mass_needed(top_p, total):
    """`P = max(1, ceil(p * mass(K)))`, int64 (contract section 4)."""
    needed = tl.math.ceil(top_p.to(tl.float64) * total.to(tl.float64))
    return tl.maximum(needed.to(tl.int64), 1)


@triton.jit
def weights_before(key, weights, start, size, LIST: tl.constexpr):
    """Of each listed logit, the weights of the larger ones listed of its block, int64 [LIST].

    Equal ones count as falling in the order of the list.
    """
    entry = tl.arange(0, LIST)
    before = tl.zeros([LIST], tl.int64)
    for distance in tl.range(1, tl.max(size), disable_licm=True):
        later = tl.where(entry + distance < start + size, entry + distance, entry)
        weight = tl.where(tl.gather(key, later, 0) > key, tl.gather(weights, later, 0), 0)
        before += weight.to(tl.int64)
        earlier = tl.where(entry - distance >= start, entry - distance, entry)
        larger = (tl.gather(key, earlier, 0) >= key) & (earlier < entry)
        before += tl.where(larger, tl.gather(weights, earlier, 0), 0).to(tl.int64)
    return before


@triton.jit
def search_by_mass(
    key,  # int32 [LIST], as are the next three
    offs_n,
    start,
    size,
    maxima_ptr,  # [N] of the row, as are the sums
    sums_low_ptr,
    sums_high_ptr,
    low,
    high,
    needed,
    top_p,
    whole,  # the list holds K, the logits from `low` up: `needed` follows from their mass
    floor,
    sure_count,
    sure_mass,
    row_max,
    c,
    LIST: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """The largest key in [low, high) at which the mass reaches `needed`, else `low`.

    `floor` raises `low`, but not what belongs to K.
    """
    mask = size > 0
    block_max = tl.load(maxima_ptr + offs_n, mask=mask, other=0.0).to(tl.float32)
    weights = token_weights(value_of(key, SHIFT), block_max, c)
    before = weights_before(key, weights, start, size, LIST)
    if sure_count > 0:  # those surely kept are all larger
        before += load_sums(sums_low_ptr, sums_high_ptr, offs_n, mask)
    mantissa, shift = block_scale(block_max, row_max, c)
    added = scale_sums(before + weights, mantissa, shift) - scale_sums(before, mantissa, shift)
    if whole:
        needed = mass_needed(top_p, tl.sum(tl.where(key >= low, added, 0)))
        low = tl.maximum(low, floor)
    while low + 1 < high:
        mid = middle(low, high)
        if sure_mass + tl.sum(tl.where(key >= mid, added, 0)) >= needed:
            low = mid
        else:
            high = mid
    return low


@triton.jit
def settle(
    key,  # int32 [LIST], as are the next three
    offs_n,
    start,
    size,
    maxima_ptr,
    sums_low_ptr,
    sums_high_ptr,
    threshold,
    sure_count,
    c,
    LIST: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """Add the listed weights from the key `threshold` up to the table's; how many are kept."""
    entry = tl.arange(0, LIST)
    last = (size > 0) & (entry == start + size - 1)  # of its block
    block_max = tl.load(maxima_ptr + offs_n, mask=size > 0, other=0.0).to(tl.float32)
    weights = tl.where(key >= threshold, token_weights(value_of(key, SHIFT), block_max, c), 0)
    sums = weights.to(tl.int64)
    for distance in tl.range(1, tl.max(size), disable_licm=True):
        earlier = entry - distance
        weight = tl.gather(weights, tl.where(earlier >= start, earlier, entry), 0)
        sums += tl.where(earlier >= start, weight, 0).to(tl.int64)
    if sure_count > 0:
        sums += load_sums(sums_low_ptr, sums_high_ptr, offs_n, last)
    tl.debug_barrier()  # all have read the sums
    store_sums(sums_low_ptr, sums_high_ptr, offs_n, sums, last)
    tl.debug_barrier()  # and all can read them back
    return sure_count + tl.sum((key >= threshold).to(tl.int32))
