"""Near masses: sums of weights in fp32 for a third of what the contract's integers cost.

They tell nearly every draw and every top-p threshold; where their error could change one, the exact
sums are worked out. Sums of a group of 16 blocks, in units of the row's best token's mass:

    near[g] = 2**((m_g - m) * c) * sum 2**((x - m_g) * c)         m_g = maximum of the group

Their error, as a share of the row's mass M, for at most 2**22 logits:
- z: the contract rounds twice inside a block and twice between blocks, here likewise: together
  |z| * 2**-22, that is 6.7e-6 of 2**z for z >= -40;
- what lies below z = -40: at most 2**22 * 2**-40 of the best token's mass, 3.8e-6 of M;
- the polynomial 4.1e-6 of each term, the contract's and its rounding down together 3e-7;
- fp32 sums of 64 terms in any order 3.8e-6, of 16 such sums 9e-7; scaling and fp64 sums 3e-7.
All in all 2.0e-5 of M for any set of groups. `ERROR` is half as much again.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arithmetic import (
    BLOCK,
    FORBIDDEN,
    LOWEST_FLOAT,
    exp2,
    scale_sum,
    token_weight,
    value_of,
    widen,
)
from .compiling import device
from .memory import bits_of, float_of
from .summarize import block_float, block_sum, fill_maxima

GROUP = 16  # blocks
ERROR = 2.0**-15
UNSURE = -1  # in place of a token
_D0, _D1, _D2, _D3, _D4 = (  # 2**f on [-0.5, 0.5] within 2.7e-6
    np.float32(d) for d in (0.99999926, 0.69312182, 0.24024745, 0.055917837, 0.0095700801)
)
_PER_UNIT = 2.0**-40


@njit(error_model="numpy", fastmath={"reassoc", "contract"})
def near_sum(logits, first, size, maximum, c):
    """The sum of `2**((x - maximum) * c)`, in any order, multiply and add fused where they can."""
    total = np.float32(0.0)
    for j in range(size):
        z = (widen(logits[first + j]) - maximum) * c
        z = z if z > np.float32(-100.0) else np.float32(-100.0)
        n = np.rint(z)
        f = z - n
        p = _D4 * f + _D3
        p = p * f + _D2
        p = p * f + _D1
        p = p * f + _D0
        total += float_of(np.int32(bits_of(p) + np.int32(np.int32(n) << 23)))
    return total


@device
def summarize_near(logits, vocab, c, maxima, near):
    """Fill `maxima` [N] and `near` [N / 16]; the key of the row's maximum, the near mass."""
    num_blocks = (vocab + BLOCK - 1) // BLOCK
    best = FORBIDDEN
    for start in range(0, num_blocks, GROUP):
        stop = min(start + GROUP, num_blocks)
        fill_maxima(logits, vocab, maxima, start, stop)
        top = group_top(maxima, start, stop)
        best = max(best, top)
        total = np.float32(0.0)
        for n in range(start, stop):
            first = n * BLOCK
            if first + BLOCK <= vocab:
                total += near_sum(logits, first, BLOCK, block_float(top), c)
            else:
                total += near_sum(logits, first, vocab - first, block_float(top), c)
        near[start // GROUP] = total

    mass = 0.0
    for start in range(0, num_blocks, GROUP):
        top = group_top(maxima, start, min(start + GROUP, num_blocks))
        z = (value_of(top) - value_of(best)) * c
        near[start // GROUP] *= exp2(max(z, np.float32(-100.0)))
        mass += near[start // GROUP]
    return best, mass


@device
def group_top(maxima, start, stop):
    """The largest of the keys [start, stop)."""
    top = FORBIDDEN
    for n in range(start, stop):
        top = max(top, maxima[n])
    return top


@device
def draw_near(row, space, mass, bits):
    """The token at which the masses of all tokens pass `r`, if that is beyond doubt."""
    slack = 2.0 * ERROR * mass  # r is off by its error, and what comes before a group as well
    left = np.float64(bits >> np.uint64(11)) * 2.0**-53 * mass
    group, groups = np.int64(0), (row.num_blocks + GROUP - 1) // GROUP
    while group < groups and space.near[group] <= left:
        left -= space.near[group]
        group += 1
    for n in range(group * GROUP, min((group + 1) * GROUP, row.num_blocks)):
        first = n * BLOCK
        size = min(BLOCK, row.vocab - first)
        key = space.maxima[n]
        block_max = block_float(key)
        total, _ = block_sum(row.logits, first, size, block_max, row.c, LOWEST_FLOAT)
        of_block = np.float64(scale_sum(total, key, row.maximum, row.c)) * _PER_UNIT
        if of_block <= left:
            left -= of_block
            continue
        upto, before = np.uint64(0), 0.0
        for token in range(first, first + size):
            upto += np.uint64(token_weight(widen(row.logits[token]), block_max, row.c))
            after = np.float64(scale_sum(upto, key, row.maximum, row.c)) * _PER_UNIT
            if after > left:
                sure = left - before >= slack and after - left > slack
                return token if sure else np.int64(UNSURE)
            before = after
    return np.int64(UNSURE)
