"""Ranks: in which order a search looks at logits (device functions).

Most filters keep the best logits, and a rank is a logit's key. Typical keeps those that are nearest
to a surprise: the rank is then the key of `-abs(z + mean)`, fp32; what earlier filters dropped
ranks below all. The list holds keys, from which ranks follow.

A row has a `mean` where its ranks may be by nearness; a NaN says that they are not.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import about_inverse, about_z, key_of, value_of

FARTHEST = tl.constexpr(-0x43000001)  # of a distance of 128: tokens that have mass are nearer
NEAREST = tl.constexpr(-1)
DROPPED = tl.constexpr(-0x80000000)


@triton.jit
def by_nearness(row):
    """1 where ranks are by nearness, else 0."""
    if row.mean is None:
        return 0
    else:
        return (row.mean == row.mean).to(tl.int32)


@triton.jit
def shift_of(row, SHIFT: tl.constexpr):
    """How many low bits a rank is without; a nearness has all."""
    if row.mean is None:
        return SHIFT
    else:
        return tl.where(row.mean == row.mean, 0, SHIFT)


@triton.jit
def beyond_mean(row, x):
    """How much likelier logits are than the surprise, `z + mean`, fp32."""
    return (x - row.max) * row.c + row.mean


@triton.jit
def place_of(row, x):
    """The places of logits, fp32, on the axis that ranks are keys of."""
    if row.mean is None:
        return x
    else:
        return tl.where(row.mean == row.mean, -tl.abs(beyond_mean(row, x)), x)


@triton.jit
def rank_of(row, x, key):
    """The ranks of logits, int32."""
    if row.mean is None:
        return key
    else:
        rank = tl.where(key >= row.floor, key_of(place_of(row, x), 0), DROPPED)
        return tl.where(row.mean == row.mean, rank, key)


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
        far = -value_of(rank, 0)
        least = -row.mean - far * 1.001 - 0.001  # with room for roundings
        key = tl.maximum(row.floor, key_of(row.max + least * about_inverse(row.c), SHIFT))
        return tl.where(row.mean == row.mean, key, rank)


@triton.jit
def z_between(row, low, high, worse):
    """About the least and the most z of logits between two places, on one side of the surprise."""
    least, most = about_z(low, row.max, row.c), about_z(high, row.max, row.c)
    if row.mean is not None:
        near = row.mean == row.mean
        least = tl.where(near, tl.where(worse, low, -high) - row.mean, least)
        most = tl.where(near, tl.where(worse, high, -low) - row.mean, most)
    return least, most
