"""Step 2b, collect: read the blocks that matter and list what is in question (device functions).

Logits from the key `high` up are surely kept: the table's sums become those of their weights.
Those in [low, high) are appended to a list in scratch memory, in any order: key and block number.

Traffic: the blocks that reach `low`, once; 4 bytes each for their numbers, 8 for their sums, 8
bytes a listed logit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .arithmetic import BLOCK, block_scale, key_of, scale_sums, token_weights, widen
from .table import block_of_group


class Found(NamedTuple):
    """What `collect` has found."""

    listed: Any  # logits in [low, high); more than LIST: the list is not complete
    sure_count: Any  # logits from `high` up, and their mass
    sure_mass: Any


@triton.jit
def list_blocks(row, low, j, SHAPE: tl.constexpr):
    """Write which blocks `j` of the groups reach the key `low`, in order; their number."""
    offs_n, block_key = block_of_group(row, j, SHAPE)
    reach = (block_key >= low) & (offs_n < row.num_blocks)
    place = tl.cumsum(reach.to(tl.int32), 0)
    tl.debug_barrier()  # the blocks listed before have been read by all
    tl.store(row.blocks_ptr + place - 1, offs_n, mask=reach)
    tl.debug_barrier()  # and these can be read by all
    return tl.sum(reach.to(tl.int32))


@triton.jit
def load_blocks(row, first, count, TILE: tl.constexpr):
    """Numbers [TILE], mask [TILE] and logits [TILE, 64] of the listed blocks from `first` on."""
    listed = first + tl.arange(0, TILE)
    mask_n = listed < count
    offs_n = tl.load(row.blocks_ptr + listed, mask=mask_n, other=0)
    return offs_n, mask_n, load_logits(row, offs_n, mask_n)


@triton.jit
def load_logits(row, offs_n, mask_n):
    """The logits of blocks, fp32 [TILE, 64]; -inf where masked and beyond the vocabulary."""
    logits_ptr = row.logits_ptr
    offs_v = offs_n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask_v = mask_n[:, None] & (offs_v < row.vocab_size)
    return widen(tl.load(logits_ptr + offs_v, mask=mask_v, other=-float("inf")))


@triton.jit
def keep(row, offs_n, mask_n, x, sure):
    """Store the sums of the blocks' kept weights; of each block the mass and the count of these."""
    block_max = tl.max(x, axis=1)
    weights = tl.where(sure, token_weights(x, block_max[:, None], row.c), 0)
    sums = tl.sum(weights.to(tl.int64), axis=1)
    tl.store(row.table.sums_ptr + offs_n, sums, mask=mask_n)
    mantissa, shift = block_scale(block_max, row.max, row.c)
    return scale_sums(sums, mantissa, shift), tl.sum(sure.to(tl.int32), axis=1)


@triton.jit
def append(row, offs_n, key, found, listed, LIST: tl.constexpr):
    """Append the keys of the logits that are `found` to a list of so many; its new length."""
    found = found.to(tl.int32)
    in_block = tl.sum(found, axis=1)
    place = (listed + tl.cumsum(in_block, 0) - in_block)[:, None] + tl.cumsum(found, 1) - 1
    mask = (found > 0) & (place < LIST)
    tl.store(row.list_ptr + place, key, mask=mask)
    tl.store(row.list_ptr + LIST + place, offs_n[:, None] + tl.zeros_like(place), mask=mask)
    return listed + tl.sum(in_block)


@triton.jit
def collect(row, low, high, SHAPE: tl.constexpr):
    """List the logits in [low, high) and sum up those from `high` on, block by block.

    Reading stops where more than `LIST` belong to the list.
    """
    any_sure = key_of(row.max, SHAPE.SHIFT) >= high
    listed = 0
    sure_mass = tl.full([SHAPE.TILE], 0, tl.int64)
    sure_count = tl.full([SHAPE.TILE], 0, tl.int32)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        first = 0
        while (first < blocks) & (listed <= SHAPE.LIST):
            offs_n, mask_n, x = load_blocks(row, first, blocks, SHAPE.TILE)
            key = key_of(x, SHAPE.SHIFT)
            if any_sure:
                mass, count = keep(row, offs_n, mask_n, x, key >= high)
                sure_mass += mass
                sure_count += count
            else:
                tl.store(row.table.sums_ptr + offs_n, tl.zeros_like(sure_mass), mask=mask_n)
            if low < high:
                found = (key >= low) & (key < high)
                listed = append(row, offs_n, key, found, listed, SHAPE.LIST)
            first += SHAPE.TILE
    tl.debug_barrier()  # the list and the sums can be read by all
    return Found(listed, tl.sum(sure_count), tl.sum(sure_mass))
