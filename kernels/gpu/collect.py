"""Step 2b, collect: read the blocks that matter and list what is in question (device functions).

Logits from the key `high` up are surely kept: their weights are summed up in the block table.
Those in [low, high) are appended to a list: their key, and one word with their block's number,
their rank among its entries, and how many these are.

Traffic: the blocks that reach `low`, once; 4 bytes each for their numbers, 8 bytes a listed logit.
Races: the list and the sums are written by threads of one program and read back by others of the
same program, with a barrier between; no program touches another's row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    BLOCK,
    block_scale,
    key_of,
    scale_sums,
    store_sums,
    token_weights,
    widen,
)
from .candidates import pack
from .table import block_of_group


@triton.jit
def list_blocks(
    blocks_ptr, maxima_ptr, group_key, low, j, num_blocks, GROUPS, PER_GROUP, SHIFT: tl.constexpr
):
    """Write which blocks `j` of the groups reach the key `low`, in order; their number."""
    offs_n, block_key = block_of_group(
        maxima_ptr, group_key, j, num_blocks, GROUPS, PER_GROUP, SHIFT
    )
    reach = (block_key >= low) & (offs_n < num_blocks)
    place = tl.cumsum(reach.to(tl.int32), 0)
    tl.debug_barrier()  # the blocks listed before have been read by all
    tl.store(blocks_ptr + place - 1, offs_n, mask=reach)
    tl.debug_barrier()
    return tl.sum(reach.to(tl.int32))


@triton.jit
def load_blocks(logits_ptr, blocks_ptr, first, count, vocab_size, TILE: tl.constexpr):
    """Numbers [TILE], mask [TILE] and logits [TILE, 64] of the listed blocks from `first` on."""
    listed = first + tl.arange(0, TILE)
    mask_n = listed < count
    offs_n = tl.load(blocks_ptr + listed, mask=mask_n, other=0)
    offs_v = offs_n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask_v = mask_n[:, None] & (offs_v < vocab_size)
    x = tl.load(logits_ptr + offs_v, mask=mask_v, other=-float("inf"))
    return offs_n, mask_n, widen(x)


@triton.jit
def collect(
    logits_ptr,
    maxima_ptr,
    sums_low_ptr,
    sums_high_ptr,
    list_ptr,
    blocks_ptr,
    group_key,
    low,
    high,
    row_max,
    c,
    vocab_size,
    num_blocks,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    LIST: tl.constexpr,
    TILE: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """List the logits in [low, high) and sum up those from `high` on, block by block.

    Returns how many belong to the list (more than `LIST`: it is not complete, and reading stopped),
    and count and mass of those from `high` on. Where nothing lies that high, no sums are written,
    and none may be read.
    """
    any_sure = key_of(row_max, SHIFT) >= high
    listed = 0
    sure_count = 0
    sure_mass = tl.zeros([], tl.int64)
    for j in tl.range(PER_GROUP, disable_licm=True):
        blocks = list_blocks(
            blocks_ptr, maxima_ptr, group_key, low, j, num_blocks, GROUPS, PER_GROUP, SHIFT
        )
        first = 0
        while (first < blocks) & (listed <= LIST):
            offs_n, mask_n, x = load_blocks(logits_ptr, blocks_ptr, first, blocks, vocab_size, TILE)
            key = key_of(x, SHIFT)
            sure = key >= high
            if any_sure:
                block_max = tl.max(x, axis=1)
                weights = tl.where(sure, token_weights(x, block_max[:, None], c), 0)
                sums = tl.sum(weights.to(tl.int64), axis=1)
                mantissa, shift = block_scale(block_max, row_max, c)
                sure_mass += tl.sum(scale_sums(sums, mantissa, shift))
                sure_count += tl.sum(sure.to(tl.int32))
                store_sums(sums_low_ptr, sums_high_ptr, offs_n, sums, mask_n)

            found = ((key >= low) & (key < high)).to(tl.int32)
            in_block = tl.sum(found, axis=1)
            start = listed + tl.cumsum(in_block, 0) - in_block
            place = start[:, None] + tl.cumsum(found, 1) - 1
            mask = (found > 0) & (place < LIST)
            tl.store(list_ptr + place, key, mask=mask)
            place_in_block = pack(offs_n[:, None], place - start[:, None], in_block[:, None])
            tl.store(list_ptr + LIST + place, place_in_block, mask=mask)
            listed += tl.sum(in_block)
            first += TILE
    tl.debug_barrier()  # the list and the sums are there for all
    return listed, sure_count, sure_mass
