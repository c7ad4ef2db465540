"""Step 3 without replacement: a row's tokens one after another, none of them twice.

Each drawn token leaves its block's sum, and the prefix of masses from that block on; a bit for each
token of a block says which are gone (contract section 5).
Twins: `sample` in `fused_sampler.contract.reference`, `kernels/gpu/distinct.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, FORBIDDEN, key_of, scale_sum, token_weight, widen
from .compiling import device
from .draw import find_slot, find_token, random_bits
from .summarize import block_float

_ONE = np.uint64(1)


@device
def draw_distinct(row, space, part, words, drawn, size):
    """Draw `size` tokens of a part of the row: blocks, keys in [low, high), mass; -1: none left.

    The slots' sums and masses become those of what is left.
    """
    blocks, low, high, total = part
    seed, step, stream = words
    for slot in range(blocks):
        space.taken[slot] = np.uint64(0)
    for draw in range(size):
        token = np.int64(-1)
        if total > 0:
            bits, _ = random_bits(seed, step, stream, draw)
            slot, left = find_slot(space, blocks, total, bits)
            token = find_token(row, space, slot, left, low, high, space.taken[slot])
            total -= take(row, space, slot, blocks, token)
        drawn[draw] = token


@device
def take(row, space, slot, blocks, token):
    """Take a token out of its slot; the mass that the row loses."""
    top = space.tops[slot]
    lane = np.uint64(token - np.int64(space.blocks[slot]) * BLOCK)
    space.taken[slot] |= _ONE << lane
    before = scale_sum(space.sums[slot], top, row.maximum, row.c)
    weight = token_weight(widen(row.logits[token]), block_float(top), row.c)
    space.sums[slot] -= np.uint64(weight)
    lost = np.int64(before - scale_sum(space.sums[slot], top, row.maximum, row.c))
    for n in range(slot, blocks):
        space.mass[n] -= lost
    return lost


@device
def best_distinct(row, space, drawn, size):
    """The row's best tokens in order, equal ones by their ids; -1 after the last finite one."""
    for n in range(row.num_blocks):
        space.taken[n] = np.uint64(0)
        space.tops[n] = space.maxima[n]  # of what is left
    for draw in range(size):
        block = np.int64(0)
        for n in range(1, row.num_blocks):
            block = np.int64(n) if space.tops[n] > space.tops[block] else block
        drawn[draw] = np.int64(-1)
        if space.tops[block] > FORBIDDEN:
            drawn[draw] = take_best(row, space, block)


@device
def take_best(row, space, block):
    """Take the best token that is left out of its block; the token."""
    best, top, after = np.int64(-1), FORBIDDEN, FORBIDDEN
    first = block * BLOCK
    for token in range(first, min(first + BLOCK, row.vocab)):
        if (space.taken[block] >> np.uint64(token - first)) & _ONE == 0:
            key = key_of(row.logits[token])
            if key > top:
                best, top, after = np.int64(token), key, top
            else:
                after = max(after, key)
    space.taken[block] |= _ONE << np.uint64(best - first)
    space.tops[block] = after
    return best
