"""Step 2b, collect: read the blocks that matter and list what is in question (device functions).

Logits from the key `high` up are surely kept: their weights are summed up in the block table.
Those in [low, high) are appended to a list in scratch memory: their key, and one word with their
block's number, their rank among its entries, and how many these are. A block's entries lie side by
side.

Traffic: the blocks that reach `low`, once; 4 bytes each for their numbers, 8 bytes a listed logit.
Races: the list and the sums are written by threads of one program and read back by others of the
same program, with a barrier between; no program touches another's row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .arithmetic import BLOCK, block_scale, key_of, scale_sums, token_weights, widen
from .table import block_of_group, store_sums


class Found(NamedTuple):
    """What `collect` has found."""

    listed: Any  # logits in [low, high); more than LIST: the list is not complete
    sure_count: Any  # logits from `high` up, and their mass
    sure_mass: Any


class Entries(NamedTuple):
    """The list in registers, int32 [LIST] each."""

    key: Any
    offs_n: Any  # the block's number
    start: Any  # first entry of the block
    size: Any  # number of its entries; 0 beyond the list


@triton.jit
def list_blocks(row, low, j, SHAPE: tl.constexpr):
    """Write which blocks `j` of the groups reach the key `low`, in order; their number."""
    offs_n, block_key = block_of_group(row, j, SHAPE)
    reach = (block_key >= low) & (offs_n < row.num_blocks)
    place = tl.cumsum(reach.to(tl.int32), 0)
    tl.debug_barrier()  # the blocks listed before have been read by all
    tl.store(row.blocks_ptr + place - 1, offs_n, mask=reach)
    tl.debug_barrier()
    return tl.sum(reach.to(tl.int32))


@triton.jit
def load_blocks(row, first, count, TILE: tl.constexpr):
    """Numbers [TILE], mask [TILE] and logits [TILE, 64] of the listed blocks from `first` on."""
    logits_ptr = row.logits_ptr
    listed = first + tl.arange(0, TILE)
    mask_n = listed < count
    offs_n = tl.load(row.blocks_ptr + listed, mask=mask_n, other=0)
    offs_v = offs_n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask_v = mask_n[:, None] & (offs_v < row.vocab_size)
    x = tl.load(logits_ptr + offs_v, mask=mask_v, other=-float("inf"))
    return offs_n, mask_n, widen(x)


@triton.jit
def collect(row, low, high, SHAPE: tl.constexpr):
    """List the logits in [low, high) and sum up those from `high` on, block by block.

    Reading stops where more than `LIST` belong to the list. Where nothing lies from `high` up, no
    sums are written, and none may be read.
    """
    any_sure = key_of(row.max, SHAPE.SHIFT) >= high
    listed = 0
    sure_count = 0
    sure_mass = tl.zeros([], tl.int64)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        first = 0
        while (first < blocks) & (listed <= SHAPE.LIST):
            offs_n, mask_n, x = load_blocks(row, first, blocks, SHAPE.TILE)
            key = key_of(x, SHAPE.SHIFT)
            sure = key >= high
            if any_sure:
                block_max = tl.max(x, axis=1)
                weights = tl.where(sure, token_weights(x, block_max[:, None], row.c), 0)
                sums = tl.sum(weights.to(tl.int64), axis=1)
                mantissa, shift = block_scale(block_max, row.max, row.c)
                sure_mass += tl.sum(scale_sums(sums, mantissa, shift))
                sure_count += tl.sum(sure.to(tl.int32))
                store_sums(row.table, offs_n, sums, mask_n)

            found = ((key >= low) & (key < high)).to(tl.int32)
            in_block = tl.sum(found, axis=1)
            start = listed + tl.cumsum(in_block, 0) - in_block
            place = start[:, None] + tl.cumsum(found, 1) - 1
            mask = (found > 0) & (place < SHAPE.LIST)
            tl.store(row.list_ptr + place, key, mask=mask)
            place_in_block = pack(offs_n[:, None], place - start[:, None], in_block[:, None])
            tl.store(row.list_ptr + SHAPE.LIST + place, place_in_block, mask=mask)
            listed += tl.sum(in_block)
            first += SHAPE.TILE
    tl.debug_barrier()  # the list and the sums are there for all
    return Found(listed, sure_count, sure_mass)


@triton.jit
def pack(block, rank, size):
    """One word of 16, 6 and 6 bits; sizes are 1 to 64."""
    return (block << 12) | (rank << 6) | (size - 1)


@triton.jit
def load_entries(row, listed, LIST: tl.constexpr):
    """The list back in registers."""
    entry = tl.arange(0, LIST)
    mask = entry < listed
    key = tl.load(row.list_ptr + entry, mask=mask, other=-0x80000000)
    word = tl.load(row.list_ptr + LIST + entry, mask=mask, other=0)
    rank, size = (word >> 6) & 63, (word & 63) + 1
    return Entries(key, word >> 12, entry - rank, tl.where(mask, size, 0))
