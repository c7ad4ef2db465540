"""Step 2c, refine: where to look in a bracket that holds more than a list does.

A sample, every few blocks of the row, tells where the threshold is likely to lie. A wrong guess
costs a pass over the row, no more: it leaves a bracket all the same, and a sum to go on from.
Twin: `kernels/gpu/refine.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, LOWEST_KEY, key_of_float, token_weight, widen
from .compiling import device
from .search import COUNT, EXACT, NEARNESS, search_threshold
from .typical import near_key

_SAMPLED = 64  # blocks, about
_HIGHEST = np.int32(0x7FFFFFFF)  # above all keys


@device
def block_bound(row, space, k, low, high):
    """A key that at least k blocks reach, hence k logits as well; `low` where fewer do."""
    if k > row.num_blocks:
        return np.int64(low)
    for n in range(row.num_blocks):
        space.mass[n] = 1
    return search_threshold(space.maxima, space.mass, row.num_blocks, k, low, high, k // 4 + 8)


@device
def put(row, space, by, typical, place, x, weight):
    """List a logit there; it weighs nothing where typical has no part in it."""
    key = key_of_float(x)
    if by == NEARNESS:
        weight = weight if key >= typical.low else np.int32(0)
        key = near_key(x, row, typical.mean)
    space.keys[place], space.measure[place] = key, weight


@device
def sample_row(row, space, by, typical):
    """List every few blocks, with a measure of 1 or, by mass, of 2**30 for the row's best logit.

    By mass a few of the best logits may weigh as much as all others: they are listed whether they
    lie in these blocks or not, at the share of their weight that a sample would have.
    Returns the number of logits, sampled and in all, and the stride between blocks. -inf is below
    all that is asked for.
    """
    stride = max(row.num_blocks // _SAMPLED, 2 * row.num_blocks * BLOCK // space.capacity) + 1
    size, best = np.int64(0), _HIGHEST
    if by != COUNT:
        end = np.int64(key_of_float(row.maximum)) + 1
        best = np.int32(block_bound(row, space, _SAMPLED, LOWEST_KEY, end) + 1)
    for n in range(stride // 2, row.vocab // BLOCK, stride):
        for j in range(BLOCK):
            x = widen(row.logits[n * BLOCK + j])
            weight = np.int32(1) if by == COUNT else token_weight(x, row.maximum, row.c)
            weight = weight if key_of_float(x) < best else np.int32(0)
            put(row, space, by, typical, size + j, x, weight)
        size += BLOCK
    sampled = size
    for n in range(row.num_blocks):
        if space.maxima[n] >= best:
            for i in range(n * BLOCK, min((n + 1) * BLOCK, row.vocab)):
                x = widen(row.logits[i])
                if key_of_float(x) >= best and size < space.capacity:
                    weight = token_weight(x, row.maximum, row.c) // np.int32(stride)
                    put(row, space, by, typical, size, x, weight)
                    size += 1
    return sampled, size, stride


@device
def guess(row, space, by, typical, lacking, anchor, low, high, attempt):
    """A bracket inside [low, high) that is likely to hold the threshold and to fit the list.

    `lacking` is what the threshold needs beyond what there is from the key `anchor` up, below 0
    where the anchor is the lower one: a sample errs by what lies between the two alone. From the
    third attempt on, every second one is the middle, so that the search ends whatever the row
    holds.
    """
    if attempt > 0 and attempt % 2 == 0:
        middle = (low + high) >> 1
        return middle, middle
    sampled, size, stride = sample_row(row, space, by, typical)
    wanted = np.float64(lacking if by == COUNT else lacking >> 10) / stride
    for i in range(size):
        wanted += space.measure[i] if space.keys[i] >= anchor else 0
    likely = search_threshold(
        space.keys, space.measure, size, max(1, np.int64(wanted)), low, high, EXACT
    )
    first, last = min(likely, anchor), max(likely, anchor)
    squares, between = 0.0, np.int64(0)
    for i in range(sampled):
        if first <= space.keys[i] and space.keys[i] <= last:
            squares += np.float64(space.measure[i]) * np.float64(space.measure[i])
            between += 1
    spread = 3.0 * (1 + attempt) * np.sqrt(squares * (1.0 - between / sampled)) + 1.0
    more, fewer = np.int64(wanted + spread), np.int64(wanted - spread)
    slack = np.int64(0.1 * spread)
    start = search_threshold(space.keys, space.measure, size, max(1, more), low, high, slack)
    start = max(start, low + 1)
    stop = search_threshold(space.keys, space.measure, size, max(1, fewer), start, high, slack)
    return start, min(stop + 1, high) if attempt == 0 else stop  # with what `stop` itself weighs
