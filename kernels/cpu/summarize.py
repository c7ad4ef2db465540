"""Step 1, summarize: one read of the row, one line of a table for each block of 64.

    maxima[n] = key of max x[i] over the block's ids i; above that of +inf where a NaN is among them
    sums[n]   = sum floor(2**((x[i] - max) * c) * 2**30), where the row's whole mass is needed

A block's weights wait for its maximum; with several blocks at a time the processor need not.
Traffic: 1 plane read; 4 + 8 bytes a block written.
Twins: `BlockTable` in `fused_sampler.contract.reference`, `kernels/gpu/summarize.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, FORBIDDEN, LOWEST_FLOAT, key_of, token_weight, value_of, widen
from .compiling import device

_GROUP = 16  # blocks in the first-level cache, while their sums follow their maxima


@device
def block_maximum(logits, first, size):
    """The key of the largest of `size` logits from `first` on."""
    highest = FORBIDDEN
    for j in range(size):
        highest = max(highest, key_of(logits[first + j]))
    return highest


@device
def block_float(block_key):
    """A block's maximum as it enters weights: finite, so that -inf weighs 0 beside it."""
    return max(value_of(block_key), LOWEST_FLOAT)


@device
def block_sum(logits, first, size, block_max, c, lowest):
    """The sum of the weights of the block's logits from `lowest` up, uint64, and their number.

    In 32 bits, which vectors hold twice as many of: pairs of weights, then halves of the pairs.
    """
    low, high, count = np.int32(0), np.int32(0), np.int32(0)
    half = size // 2
    for j in range(half):
        x, y = widen(logits[first + j]), widen(logits[first + half + j])
        one = token_weight(x, block_max, c) if x >= lowest else np.int32(0)
        other = token_weight(y, block_max, c) if y >= lowest else np.int32(0)
        pair = np.uint32(np.uint32(one) + np.uint32(other))
        low = np.int32(low + np.int32(pair & np.uint32(0xFFFF)))
        high = np.int32(high + np.int32(pair >> np.uint32(16)))
        count = np.int32(count + np.int32(x >= lowest) + np.int32(y >= lowest))
    total = (np.uint64(high) << np.uint64(16)) + np.uint64(low)
    if size % 2:
        x = widen(logits[first + size - 1])
        total += np.uint64(token_weight(x, block_max, c)) if x >= lowest else np.uint64(0)
        count = np.int32(count + np.int32(x >= lowest))
    return total, np.int64(count)


@device
def fill_maxima(logits, vocab, maxima, start, stop):
    """Maxima of the blocks [start, stop)."""
    for n in range(start, stop):
        first = n * BLOCK
        if first + BLOCK <= vocab:
            maxima[n] = block_maximum(logits, first, BLOCK)
        else:
            maxima[n] = block_maximum(logits, first, vocab - first)


@device
def fill_sums(logits, vocab, c, maxima, sums, start, stop):
    """Sums of the weights of the blocks [start, stop)."""
    for n in range(start, stop):
        first = n * BLOCK
        if first + BLOCK <= vocab:
            sums[n] = block_sum(logits, first, BLOCK, block_float(maxima[n]), c, LOWEST_FLOAT)[0]
        else:
            size = vocab - first
            sums[n] = block_sum(logits, first, size, block_float(maxima[n]), c, LOWEST_FLOAT)[0]


@device
def summarize(logits, vocab, c, maxima, sums, with_sums):
    """Fill `maxima` and, where asked, `sums` [N]; the key of the row's maximum."""
    num_blocks = (vocab + BLOCK - 1) // BLOCK
    for start in range(0, num_blocks, _GROUP):
        stop = min(start + _GROUP, num_blocks)
        fill_maxima(logits, vocab, maxima, start, stop)
        if with_sums:
            fill_sums(logits, vocab, c, maxima, sums, start, stop)
    highest = FORBIDDEN
    for n in range(num_blocks):
        highest = max(highest, maxima[n])
    return highest
