"""Near masses: sums of weights in fp32, at half the cost of the contract's integers.

They tell nearly every draw from a row without filters; where their error could change one, the
exact sums are worked out. In units of the row's best token, for each group of 4 blocks:

    near[g] = sum 2**((x - m) * c)

Their error as a share of the row's mass M, for any set of groups and V <= 2**22:
- z: contract and this each round twice, together |z| * 2**-22; for z >= -40 that is 6.7e-6 of 2**z;
- what lies below z = -40: at most 2**22 * 2**-40 of the best token, 3.8e-6 of M;
- the polynomial 4e-6 of each term; the contract's two, and its rounding down, together 4e-7;
- fp32 sums of 256 terms in any order 1.6e-5; sums of groups in fp64, nothing.
Together 3.1e-5 of M. `ERROR` is a third more.

Differences x - m beyond fp32 are infinite here, while the contract adds up two finite ones: that is
harmless from `LEAST_C` on, where they weigh nothing. Below it, rows take the exact sums.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arithmetic import (
    BLOCK,
    LOWEST_FLOAT,
    scale_sum,
    token_weight,
    widen,
)
from .compiling import device
from .memory import bits_of, float_of
from .summarize import block_float, block_sum

GROUP = 4  # blocks
ERROR = 4e-5
LEAST_C = np.float32(2.0**-120)  # 2**127 times it, half of what fp32 lacks, is 128 below the best
UNSURE = -1  # in place of a token
_D0, _D1, _D2, _D3, _D4 = (  # 2**f on [-0.5, 0.5] within 2.7e-6
    np.float32(d) for d in (0.99999926, 0.69312182, 0.24024745, 0.055917837, 0.0095700801)
)
_PER_UNIT = 2.0**-40


# Sums in any order, multiply and add fused where they can.
near_device = njit(error_model="numpy", fastmath={"reassoc", "contract"})


@near_device
def near_power(x, maximum, c):
    """`2**z` of a logit, and z."""
    z = (x - maximum) * c
    z = z if z > np.float32(-100.0) else np.float32(-100.0)
    n = np.rint(z)
    f = z - n
    p = _D4 * f + _D3
    p = p * f + _D2
    p = p * f + _D1
    p = p * f + _D0
    return float_of(np.int32(bits_of(p) + np.int32(np.int32(n) << 23))), z


@near_device
def near_sum(logits, first, size, maximum, c):
    """The sum of `2**((x - maximum) * c)`."""
    total = np.float32(0.0)
    for j in range(size):
        total += near_power(widen(logits[first + j]), maximum, c)[0]
    return total


@near_device
def near_depth_sum(logits, first, size, maximum, c):
    """The same, and the sum of `-z * 2**z`."""
    total, depth = np.float32(0.0), np.float32(0.0)
    for j in range(size):
        power, z = near_power(widen(logits[first + j]), maximum, c)
        total += power
        depth += power * -z
    return total, depth


@device
def near_depth(row):
    """The near mass of the row, and its depth: off by twice `ERROR` of itself at most."""
    mass, depth = 0.0, 0.0
    for first in range(0, row.vocab, GROUP * BLOCK):
        size = min(GROUP * BLOCK, row.vocab - first)
        of_group = near_depth_sum(row.logits, first, size, row.maximum, row.c)
        mass += of_group[0]
        depth += of_group[1]
    return mass, depth


@device
def near_sums(row, space):
    """Fill `space.near`; the near mass of the row."""
    mass = 0.0
    size = GROUP * BLOCK
    for group in range(row.vocab // size):
        space.near[group] = near_sum(row.logits, group * size, size, row.maximum, row.c)
        mass += space.near[group]
    rest = row.vocab % size
    if rest > 0:
        group = row.vocab // size
        space.near[group] = near_sum(row.logits, group * size, rest, row.maximum, row.c)
        mass += space.near[group]
    return mass


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
