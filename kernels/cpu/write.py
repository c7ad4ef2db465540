"""Step 4, of `softmax` and `mask_logits` alone: write the row that the earlier steps have settled.

    softmax:      out[i] = 2**((x[i] - m) * c) / (M / 2**40), M the row's integer mass
    mask_logits:  out[i] = x[i] / T where x[i] is between the row's thresholds, else -inf

A greedy row is one-hot, or keeps its one token's undivided logit; an invalid row is NaN throughout.
Traffic: 1 read, 1 write in fp32.
Twins: `softmax` and `mask_logits` in `fused_sampler.contract.reference`, `kernels/gpu/write.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import exp2, key_of, widen
from .compiling import device


@device
def write_constant(output, vocab, value):
    """The same everywhere."""
    for i in range(vocab):
        output[i] = value


@device
def write_probabilities(row, output, valid, token, total):
    """`softmax`; `token` is a greedy row's, else -1. From 2**-125 of the best down it is 0."""
    if not valid or token >= 0:
        write_constant(output, row.vocab, np.float32(0.0 if valid else np.nan))
        if token >= 0:
            output[token] = np.float32(1.0)
        return
    share = np.float32(2.0**40) / np.float32(total)
    lowest = np.float32(-125.0)
    for i in range(row.vocab):
        z = (widen(row.logits[i]) - row.maximum) * row.c
        power = exp2(z if z > lowest else lowest)
        output[i] = power * share if z > lowest else np.float32(0.0)


@device
def write_kept(row, output, valid, token, low, high, temperature):
    """`mask_logits` of keys in [low, high); `token` is a greedy row's, else -1."""
    if not valid or token >= 0:
        write_constant(output, row.vocab, np.float32(-np.inf if valid else np.nan))
        if token >= 0:
            output[token] = widen(row.logits[token])
        return
    for i in range(row.vocab):
        word = row.logits[i]
        key = key_of(word)
        kept = low <= key and key < high
        output[i] = widen(word) / temperature if kept else np.float32(-np.inf)
