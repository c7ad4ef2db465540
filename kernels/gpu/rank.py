"""Ranks: in which order a search looks at logits (device functions).

Most filters keep the best logits, and a rank is a logit's key. Typical keeps those that are nearest
to a surprise: the rank is then the bits of `-abs(z + mean)`, fp32, as a negative number; what
earlier filters dropped ranks below all. The list holds keys, from which ranks follow.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import about_inverse, key_of, value_of

FARTHEST = tl.constexpr(-0x43000000)  # 128: tokens that have mass are nearer
NEAREST = tl.constexpr(0)
DROPPED = tl.constexpr(-0x80000000)


@triton.jit
def rank_of(row, x, key):
    """The ranks of logits, int32."""
    if row.mean is None:
        return key
    else:
        distance = tl.abs((x - row.max) * row.c + row.mean)
        return tl.where(key >= row.floor, -distance.to(tl.int32, bitcast=True), DROPPED)


@triton.jit
def rank_of_key(row, key, SHIFT: tl.constexpr):
    """The same of listed keys."""
    if row.mean is None:
        return key
    else:
        return rank_of(row, value_of(key, SHIFT), key)


@triton.jit
def reach_of(row, rank, SHIFT: tl.constexpr):
    """A key that the largest logit of a block reaches if one of its logits reaches the rank."""
    if row.mean is None:
        return rank
    else:
        far = (-rank).to(tl.float32, bitcast=True)
        least = -row.mean - far * 1.001 - 0.001  # with room for roundings
        return tl.maximum(row.floor, key_of(row.max + least * about_inverse(row.c), SHIFT))
