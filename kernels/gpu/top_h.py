"""Top-h: the best tokens that hold a share of the entropy of the best hundred (device functions).

    e[i] = (u[i] * floor((l - z[i]) * 2**26)) >> 20,  u the weight beside the row's best token

At most 99 logits lie above the hundredth; those that tie with it have one e (contract section 4).

Traffic: the blocks that hold them, twice.
PyTorch twin: `fused_sampler.filters.top_h`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fused_sampler.filters import top_h

from .arithmetic import log2_mass, token_weights, value_of
from .collect import collect, lowest_between
from .search import load_keys, middle

BEST = tl.constexpr(top_h.BEST)
SIZE = tl.constexpr(128)  # of a list that holds them


@triton.jit
def entropy_of(row, key, log2_total, SHIFT: tl.constexpr):
    """The parts of the entropy of tokens with these keys, int64."""
    x = value_of(key, SHIFT)
    z = tl.maximum((x - row.max) * row.c, -64.0)
    below = ((log2_total - z.to(tl.float64)) * 67108864.0).to(tl.int64)
    return (token_weights(x, row.max, row.c).to(tl.int64) * below) >> 20


@triton.jit
def lowest_of_top_h(row, h, hundred, SHAPE: tl.constexpr):
    """The lowest key that top-h keeps of the best hundred and ties."""
    best = hundred.high - 1
    worst = lowest_between(row, hundred.low, best + 1, SHAPE)
    listed = collect(row, worst + 1, best + 1, SHAPE).listed
    log2_total = log2_mass(tl.sum(hundred.group_mass))
    key, mask = load_keys(row, listed, 0, SIZE)
    entropy = tl.where(mask, entropy_of(row, key, log2_total, SHAPE.SHIFT), 0)
    tied = entropy_of(row, worst, log2_total, SHAPE.SHIFT) * (hundred.count - listed)
    whole = tl.sum(entropy) + tied
    allowed = (h.to(tl.float64) * whole.to(tl.float64)).to(tl.int64)
    below = worst  # the largest key that holds too much
    high = tl.where(whole > allowed, best + 1, worst)
    while below + 1 < high:
        mid = middle(below, high)
        if tl.sum(tl.where(key >= mid, entropy, 0)) > allowed:
            below = mid
        else:
            high = mid
    return tl.where(whole > allowed, tl.minimum(below + 1, best), worst)
