"""Edits: a row of logits with mask, bias and penalties, in scratch memory (contract section 1).

The other steps then read that row: fp32, in the caches where the logits would be after one read.
Traffic: 1 plane read, 1 in fp32 written; a bit a token of the mask; 8 bytes for each bias, 12 for
each different token of the history.
Twins: `fused_sampler.edits.apply`, `kernels/gpu/edit.py`.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from fused_sampler.edits.bitmask import WORD
from fused_sampler.edits.history import END

from .arithmetic import widen
from .compiling import device
from .memory import pointer

# Places in the table of addresses; 0 stands for none. Strides are in elements, from row to row.
ALLOWED, ALLOWED_STRIDE = 0, 1  # int32
BIAS_IDS, BIAS_IDS_STRIDE, BIAS, BIAS_STRIDE, BIASES = 2, 3, 4, 5, 6  # int32, fp32; how many
COUNT_IDS, COUNT_IDS_STRIDE, COUNTS, COUNTS_STRIDE, DIFFERENT = 7, 8, 9, 10, 11  # int32; how many
DRY, DRY_STRIDE = 12, 13  # fp32
COLUMNS, COLUMNS_STRIDE = 14, 15  # fp32 [B, 3]: repetition, frequency, presence


@device
def copy_allowed(words, vocab, allowed, x):
    """The logits as fp32, -inf where a bit of the mask is 0."""
    forbidden = np.float32(-np.inf)
    whole = vocab // WORD
    for w in range(whole):
        bits, first = allowed[w], w * WORD
        for j in range(WORD):
            own = widen(words[first + j])
            x[first + j] = own if (bits >> np.int32(j)) & np.int32(1) else forbidden
    for i in range(whole * WORD, vocab):
        bit = (allowed[whole] >> np.int32(i - whole * WORD)) & np.int32(1)
        x[i] = widen(words[i]) if bit else forbidden


@device
def penalize(x, count, repetition, frequency, presence):
    """A logit of prompt or output, which is `count` times in the output."""
    x = x * repetition if x < np.float32(0.0) else x / repetition
    if count > 0:
        x = x - (frequency * np.float32(count) + presence)
    return x


@device
def edit_row(words, vocab, table, b, x):
    """Write row `b` with all edits to `x`, fp32 [V]. `table`: int64, with the places above."""
    if table[ALLOWED] != 0:
        allowed = pointer(table[ALLOWED] + 4 * table[ALLOWED_STRIDE] * b, np.int32)
        copy_allowed(words, vocab, allowed, x)
    else:
        for i in range(vocab):
            x[i] = widen(words[i])
    ids = pointer(table[BIAS_IDS] + 4 * table[BIAS_IDS_STRIDE] * b, np.int32)
    values = pointer(table[BIAS] + 4 * table[BIAS_STRIDE] * b, np.float32)
    for i in range(table[BIASES]):
        if ids[i] == END:
            break
        if ids[i] < vocab:
            x[ids[i]] += values[i]
    ids = pointer(table[COUNT_IDS] + 4 * table[COUNT_IDS_STRIDE] * b, np.int32)
    counts = pointer(table[COUNTS] + 4 * table[COUNTS_STRIDE] * b, np.int32)
    dry = pointer(table[DRY] + 4 * table[DRY_STRIDE] * b, np.float32)
    columns = pointer(table[COLUMNS] + 4 * table[COLUMNS_STRIDE] * b, np.float32)
    for i in range(table[DIFFERENT]):
        if ids[i] == END:
            break
        token = ids[i]
        if token < vocab:
            x[token] = penalize(x[token], counts[i], columns[0], columns[1], columns[2])
            if table[DRY] != 0:
                x[token] -= dry[i]


def seen_row(words, vocab, edits, b, address):
    """The row `b` as the other steps see it: its words, or with edits fp32 at `address`."""
    raise NotImplementedError


@overload(seen_row)
def _seen_row(words, vocab, edits, b, address):
    if edits == types.none:
        return lambda words, vocab, edits, b, address: words

    def edited(words, vocab, edits, b, address):
        x = pointer(address, np.float32)
        edit_row(words, vocab, pointer(edits, np.int64), b, x)
        return x

    return edited
