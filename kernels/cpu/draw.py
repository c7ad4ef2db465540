"""Step 3, draw: from the masses of the kept tokens to the tokens of a row.

    M = mass of the kept tokens,  r = floor(U * M / 2**64),  U = 64 bits of Philox-4x32-10
    token = first id whose prefix of masses, in vocabulary order, passes r (contract sections 5, 6)

The prefix sums of the blocks' masses find the block; its 64 logits are read again, and a cumulative
sum among them finds the token.
Twins: `sample` in `fused_sampler.contract.reference`, `kernels/gpu/draw.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, key_of, scale_sum, token_weight, widen
from .compiling import device
from .memory import multiply_high
from .scan import highest_below
from .summarize import block_float

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEP_0, _KEY_STEP_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_WORD, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@device
def random_bits(seed, step, stream, draw):
    """`U`, uint64, and the word after it: key = seed, counter = (step, stream, draw)."""
    key_0, key_1 = np.uint64(seed) & _WORD, np.uint64(seed) >> _HALF
    a, b = np.uint64(step) & _WORD, np.uint64(step) >> _HALF
    c, d = np.uint64(stream) & _WORD, np.uint64(draw) & _WORD
    for _ in range(10):
        product_0, product_1 = a * _MULTIPLIER_0, c * _MULTIPLIER_1
        a, b = (product_1 >> _HALF) ^ b ^ key_0, product_1 & _WORD
        c, d = (product_0 >> _HALF) ^ d ^ key_1, product_0 & _WORD
        key_0, key_1 = (key_0 + _KEY_STEP_0) & _WORD, (key_1 + _KEY_STEP_1) & _WORD
    return (a << _HALF) | b, c


@device
def accumulate(row, space, blocks):
    """The mass of each block and all before in `space.mass`; the mass of the kept tokens."""
    for n in range(blocks):
        space.mass[n] = np.int64(scale_sum(space.sums[n], space.tops[n], row.maximum, row.c))
    total = np.int64(0)
    for n in range(blocks):
        total += space.mass[n]
        space.mass[n] = total
    return total


@device
def find_slot(space, blocks, total, bits):
    """The slot in which the masses pass `r`, and what is left of it there."""
    left = np.int64(multiply_high(bits, np.uint64(total)))
    slot, end = np.int64(0), blocks - 1  # the first slot whose prefix passes
    while slot < end:
        middle = (slot + end) >> 1
        if space.mass[middle] > left:
            end = middle
        else:
            slot = middle + 1
    if slot > 0:
        left -= space.mass[slot - 1]
    return slot, left


@device
def find_token(row, space, slot, left, low, high, taken):
    """The token of a slot, among those with keys in [low, high), at which the masses pass `left`.

    A bit for each token of the block in `taken`: those that do not count.
    """
    first = np.int64(space.blocks[slot]) * BLOCK
    block_max = block_float(space.tops[slot])
    upto = np.uint64(0)
    for token in range(first, min(first + BLOCK, row.vocab)):
        word = row.logits[token]
        free = (taken >> np.uint64(token - first)) & np.uint64(1) == 0
        if free and low <= key_of(word) < high:
            upto += np.uint64(token_weight(widen(word), block_max, row.c))
            if np.int64(scale_sum(upto, space.tops[slot], row.maximum, row.c)) > left:
                return token
    return np.int64(-1)  # never: the block's mass is above `left`


@device
def draw_token(row, space, blocks, low, high, total, bits):
    """The token, among those with keys in [low, high), at which the masses pass `r`."""
    slot, left = find_slot(space, blocks, total, bits)
    return find_token(row, space, slot, left, low, high, np.uint64(0))


@device
def first_best(row, space, best):
    """The lowest id with the key `best`, the row's maximum."""
    block = np.int32(row.num_blocks)
    for n in range(row.num_blocks):
        block = min(block, np.int32(n) if space.maxima[n] == best else block)
    first = np.int64(block) * BLOCK
    size = min(BLOCK, row.vocab - first)
    lane = np.int32(BLOCK)
    for j in range(size):
        lane = min(lane, np.int32(j) if key_of(row.logits[first + j]) == best else lane)
    return first + lane


@device
def best_kept(row, space, low, high):
    """The lowest id of the largest logit among those with keys in [low, high)."""
    best = np.int32(highest_below(row, space, high))
    token = np.int64(0)
    while best >= low and key_of(row.logits[token]) != best:
        token += 1
    return token


@device
def log_probability(x, maximum, temperature, log_mass):
    """Of a logit in a row with this natural logarithm of its mass, fp32."""
    below = (np.float64(x) - np.float64(maximum)) / np.float64(temperature)
    return np.float32(below - log_mass)
