"""Step 2b, collect: read the blocks that reach a key and list the logits in question.

Logits from the key `high` up are surely in: their weights are summed up block by block. Those in
[low, high) are listed: their key, and the slot of their block among the blocks that reach `low`.

Traffic: the blocks that reach `low`, once; 16 bytes a block, 8 bytes a listed logit.
Twin: `kernels/gpu/collect.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, key_of, scale_sum, token_weight, value_of, widen
from .compiling import device
from .memory import trailing_zeros
from .summarize import block_float, block_sum


@device
def reaching(logits, first, size, lowest):
    """A bit for each of `size` logits from `first` on, set where it reaches `lowest`, uint64."""
    mask = np.uint64(0)
    for j in range(size):
        mask |= np.uint64(widen(logits[first + j]) >= lowest) << np.uint64(j)
    return mask


@device
def collect(row, space, low, high):
    """List the logits in [low, high), sum up those from `high` on.

    Returns the number of blocks, of listed logits (more than `space.capacity`: some are missing),
    and of those from `high` on.
    """
    lowest, highest = value_of(np.int32(low)), value_of(np.int32(high))
    slot, listed, above = np.int64(0), np.int64(0), np.int64(0)
    for n in range(row.num_blocks):
        top = space.maxima[n]
        if top < low:
            continue
        first = n * BLOCK
        whole = first + BLOCK <= row.vocab
        space.blocks[slot] = n
        space.tops[slot] = top
        total, count = np.uint64(0), np.int64(0)
        if top >= high:
            if whole:
                total, count = block_sum(row.logits, first, BLOCK, block_float(top), row.c, highest)
            else:
                size = row.vocab - first
                total, count = block_sum(row.logits, first, size, block_float(top), row.c, highest)
        space.sure[slot] = total
        above += count
        if low < high:
            if whole:
                mask = reaching(row.logits, first, BLOCK, lowest)
            else:
                mask = reaching(row.logits, first, row.vocab - first, lowest)
            while mask != 0:
                key = key_of(row.logits[first + trailing_zeros(mask)])
                mask &= mask - np.uint64(1)
                if key < high:
                    if listed < space.capacity:
                        space.keys[listed] = key
                        space.slots[listed] = slot
                    listed += 1
        slot += 1
    return slot, listed, above


@device
def weigh_list(row, space, listed):
    """The weights of the listed logits."""
    for i in range(listed):
        block_max = block_float(space.tops[space.slots[i]])
        space.weights[i] = token_weight(value_of(space.keys[i]), block_max, row.c)


@device
def measure_mass(row, space, listed):
    """The measure of mass: what each listed logit adds to its block's, the better ones taken first.

    Scaling rounds down once a block, so it depends on the better ones: with W the sum of their
    weights, sure ones and equal ones listed before included, scale(W + w) - scale(W).
    """
    start = np.int64(0)
    while start < listed:
        slot = space.slots[start]
        stop = start + 1
        while stop < listed and space.slots[stop] == slot:
            stop += 1
        for i in range(start, stop):
            before = np.int64(space.sure[slot])
            for j in range(start, stop):
                better = space.keys[j] > space.keys[i] or (space.keys[j] == space.keys[i] and j < i)
                before += np.int64(space.weights[j]) if better else np.int64(0)
            space.measure[i] = before
        start = stop
    for i in range(listed):
        top, first = space.tops[space.slots[i]], np.uint64(space.measure[i])
        upto = scale_sum(first + np.uint64(space.weights[i]), top, row.maximum, row.c)
        space.measure[i] = np.int64(upto - scale_sum(first, top, row.maximum, row.c))
