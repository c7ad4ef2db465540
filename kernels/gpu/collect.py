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
from .edit import edit
from .rank import rank_of, reach_of
from .search import inside
from .table import block_of_group


class Found(NamedTuple):
    """What of a bracket [low, high) is listed, and what the table's sums are of."""

    listed: Any  # logits in the bracket; more than LIST: the list is not complete
    start: Any  # the sums are those of the logits from this key up: `low` or `high`
    count: Any  # how many these are, and their mass
    mass: Any


@triton.jit
def list_blocks(row, low, j, SHAPE: tl.constexpr):
    """Write which blocks `j` of the groups reach the rank `low`, in order; their number."""
    offs_n, block_key = block_of_group(row, j, SHAPE)
    reach = (block_key >= reach_of(row, low, SHAPE.SHIFT)) & (offs_n < row.num_blocks)
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
    x = widen(tl.load(logits_ptr + offs_v, mask=mask_v, other=-float("inf")))
    if row.edits is not None:
        x = edit(x, row.edits, offs_n, mask_n, row.vocab_size)
    return x


@triton.jit
def load_block(row, block):
    """The logits of one block, fp32 [64]; -inf beyond the vocabulary."""
    if row.edits is None:
        logits_ptr = row.logits_ptr
        offs_v = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + offs_v, mask=offs_v < row.vocab_size, other=-float("inf"))
        return widen(x)
    else:
        offs_n = tl.full([1], 0, tl.int32) + block
        return tl.reshape(load_logits(row, offs_n, offs_n < row.num_blocks), [BLOCK])


@triton.jit
def keep(row, offs_n, mask_n, x, rank, start, SHIFT: tl.constexpr):
    """Store the blocks' sums of what reaches the rank `start`; the mass and the count of each."""
    kept = rank >= start
    count = tl.sum(kept.to(tl.int32), axis=1)
    sums = count.to(tl.int64) << 30  # where all that is kept, if anything, is the row's largest
    block_max = tl.max(x, axis=1)
    if (row.mean is not None) | (start < key_of(row.max, SHIFT)):
        weights = tl.where(kept, token_weights(x, block_max[:, None], row.c), 0)
        sums = tl.sum(weights.to(tl.int64), axis=1)
    tl.store(row.table.sums_ptr + offs_n, sums, mask=mask_n)
    mantissa, shift = block_scale(block_max, row.max, row.c)
    return scale_sums(sums, mantissa, shift), count


@triton.jit
def append(row, offs_n, key, found, in_block, listed, SHAPE: tl.constexpr):
    """Append the keys that are `found`, so many in each block, to the list."""
    place = (listed + tl.cumsum(in_block, 0) - in_block)[:, None]
    place += tl.cumsum(found.to(tl.int32), 1) - 1
    place = tl.where(found & (place < SHAPE.LIST), place, -1)
    entries = (place, key, offs_n[:, None] + tl.zeros_like(place))
    if SHAPE.SHIFT == 0:  # a load of 128 bits gives a thread 4 logits side by side, or 8
        store_fours(row, entries, SHAPE.LIST)
    else:
        even, odd = columns(entries)
        store_fours(row, even, SHAPE.LIST)
        store_fours(row, odd, SHAPE.LIST)


@triton.jit
def columns(entries):
    """The even and the odd columns."""
    place, key, number = entries
    pairs: tl.constexpr = [place.shape[0], place.shape[1] // 2, 2]
    even_place, odd_place = tl.split(tl.reshape(place, pairs))
    even_key, odd_key = tl.split(tl.reshape(key, pairs))
    even_number, odd_number = tl.split(tl.reshape(number, pairs))
    return (even_place, even_key, even_number), (odd_place, odd_key, odd_number)


@triton.jit
def store_fours(row, entries, LIST: tl.constexpr):
    """Store entries of the list: their places, keys and blocks' numbers.

    Triton scatters in a layout where a thread has one entry of a row, and would get there through
    shared memory. Taken apart into every fourth column, what threads hold has that layout.
    """
    even, odd = columns(entries)
    first, third = columns(even)
    second, fourth = columns(odd)
    store_entries(row, first, LIST)
    store_entries(row, second, LIST)
    store_entries(row, third, LIST)
    store_entries(row, fourth, LIST)


@triton.jit
def store_entries(row, entries, LIST: tl.constexpr):
    """The same as they are; none where the place is -1."""
    place, key, number = entries
    tl.store(row.list_ptr + place, key, mask=place >= 0)
    tl.store(row.list_ptr + LIST + place, number, mask=place >= 0)


@triton.jit
def collect(row, low, high, SHAPE: tl.constexpr):
    """List the logits with ranks in [low, high) and sum up those from `high` on, by block.

    Reading stops where more than `LIST` belong to the list.
    """
    listed = 0
    mass = tl.full([SHAPE.TILE], 0, tl.int64)
    count = tl.full([SHAPE.TILE], 0, tl.int32)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        first = 0
        while (first < blocks) & (listed <= SHAPE.LIST):
            offs_n, mask_n, x = load_blocks(row, first, blocks, SHAPE.TILE)
            key = key_of(x, SHAPE.SHIFT)
            rank = rank_of(row, x, key)
            more_mass, more = keep(row, offs_n, mask_n, x, rank, high, SHAPE.SHIFT)
            mass += more_mass
            count += more
            if low < high:
                found = inside(rank, low, high)
                in_block = tl.sum(found.to(tl.int32), axis=1)
                append(row, offs_n, key, found, in_block, listed, SHAPE)
                listed += tl.sum(in_block)
            first += SHAPE.TILE
    tl.debug_barrier()  # the list and the sums can be read by all
    return Found(listed, high, tl.sum(count), tl.sum(mass))


@triton.jit
def lowest_between(row, low, high, SHAPE: tl.constexpr):
    """The smallest key of the row in [low, high)."""
    lowest = tl.full([SHAPE.TILE], 0x7FFFFFFF, tl.int32)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        for first in range(0, blocks, SHAPE.TILE):
            _, _, x = load_blocks(row, first, blocks, SHAPE.TILE)
            key = key_of(x, SHAPE.SHIFT)
            found = tl.where(inside(key, low, high), key, 0x7FFFFFFF)
            lowest = tl.minimum(lowest, tl.min(found, axis=1))
    return tl.min(lowest)


@triton.jit
def highest_between(row, low, high, SHAPE: tl.constexpr):
    """The largest key of the row in [low, high)."""
    highest = tl.full([SHAPE.TILE], -0x80000000, tl.int32)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        for first in range(0, blocks, SHAPE.TILE):
            _, _, x = load_blocks(row, first, blocks, SHAPE.TILE)
            key = key_of(x, SHAPE.SHIFT)
            found = tl.where(inside(key, low, high), key, -0x80000000)
            highest = tl.maximum(highest, tl.max(found, axis=1))
    return tl.max(highest)


@triton.jit
def first_with(row, key, SHAPE: tl.constexpr):
    """The lowest id of the logits with this key."""
    lowest = tl.full([SHAPE.TILE], 0x7FFFFFFF, tl.int32)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, key, j, SHAPE)
        for first in range(0, blocks, SHAPE.TILE):
            offs_n, _, x = load_blocks(row, first, blocks, SHAPE.TILE)
            ids = offs_n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
            ids = tl.where(key_of(x, SHAPE.SHIFT) == key, ids, 0x7FFFFFFF)
            lowest = tl.minimum(lowest, tl.min(ids, axis=1))
    return tl.min(lowest)


@triton.jit
def trim(row, low, high, SHAPE: tl.constexpr):
    """Take the logits with keys in [low, high) out of the table's sums; how many they are."""
    count = tl.full([SHAPE.TILE], 0, tl.int32)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        for first in range(0, blocks, SHAPE.TILE):
            offs_n, mask_n, x = load_blocks(row, first, blocks, SHAPE.TILE)
            found = inside(key_of(x, SHAPE.SHIFT), low, high)
            count += tl.sum(found.to(tl.int32), axis=1)
            weights = tl.where(found, token_weights(x, tl.max(x, axis=1)[:, None], row.c), 0)
            sums_ptr = row.table.sums_ptr + offs_n
            sums = tl.load(sums_ptr, mask=mask_n, other=0)
            tl.store(sums_ptr, sums - tl.sum(weights.to(tl.int64), axis=1), mask=mask_n)
    tl.debug_barrier()  # the sums can be read by all
    return tl.sum(count)
