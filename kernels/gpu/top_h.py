"""Top-h: the best tokens that hold a share of the entropy of the best hundred (device functions).

    e[i] = (u[i] * floor((l - z[i]) * 2**26)) >> 20,  u the weight beside the row's best token

At most 99 logits lie above the hundredth; those that tie with it have one e (contract section 4).

Traffic: that of top-k 100.
PyTorch twin: `fused_sampler.filters.top_h`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fused_sampler.filters import top_h

from .arithmetic import log2_mass, token_weights, value_of
from .search import load_keys, middle

BEST = tl.constexpr(top_h.BEST)
SIZE = tl.constexpr(256)  # a list that holds them


@triton.jit
def entropy_of(row, key, log2_total, SHIFT: tl.constexpr):
    """The parts of the entropy of tokens with these keys, int64."""
    x = value_of(key, SHIFT)
    z = tl.maximum((x - row.max) * row.c, -64.0)
    below = ((log2_total - z.to(tl.float64)) * 67108864.0).to(tl.int64)
    return (token_weights(x, row.max, row.c).to(tl.int64) * below) >> 20


@triton.jit
def lowest_of_top_h(row, h, hundred, found, SHAPE: tl.constexpr):
    """The lowest key that top-h keeps of the best hundred and ties.

    `found` lists them, or all but those that tie with the last.
    """
    key, mask = load_keys(row, found.listed, 0, SIZE)
    mask &= key >= hundred.low
    log2_total = log2_mass(tl.sum(hundred.group_mass))
    entropy = tl.where(mask, entropy_of(row, key, log2_total, SHAPE.SHIFT), 0)
    tied = hundred.count - tl.sum(mask.to(tl.int32))
    whole = tl.sum(entropy) + entropy_of(row, hundred.low, log2_total, SHAPE.SHIFT) * tied
    allowed = (h.to(tl.float64) * whole.to(tl.float64)).to(tl.int64)
    below = hundred.low  # reached by too much
    low = tl.where(whole > allowed, hundred.high - 1, below)
    while below + 1 < low:
        mid = middle(below, low)
        if tl.sum(tl.where(key >= mid, entropy, 0)) > allowed:
            below = mid
        else:
            low = mid
    return low
