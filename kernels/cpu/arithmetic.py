"""The contract's arithmetic: keys, weights, block scales (contract section 3).

A word is a logit as it stands in memory: float32 is fp32, int16 the bits of bf16, uint16 those of
fp16. A **key** is an int32 in the order of the logits: `-inf` is the lowest int32, -0.0 and +0.0
share one, and `+inf` and every NaN stand above all finite ones, so that a maximum shows them.

Each step of fp32 rounds once: Numba fuses nothing without fast-math. It widens int32 to int64, so
results that are meant to be int32 are wrapped, and LLVM narrows the arithmetic again.
Twins: `fused_sampler.contract.mass`, `kernels/gpu/arithmetic.py`.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from fused_sampler.contract import mass

from .compiling import device
from .memory import bits_of, float_of, widen_half

BLOCK = mass.BLOCK  # ids a block
LOG2_E = np.float32(mass.LOG2_E)
LN_2 = mass.LN_2
LOWEST_FLOAT = np.float32(mass.LOWEST)
FORBIDDEN = np.int32(-(2**31))  # key of -inf
LOWEST_KEY = np.int32(-(2**31) + 1)  # below those of all finite logits, above that of -inf
INFINITE_KEY = np.int32(0x7F000001)  # of +inf; NaNs are above
_SHIFT_KEYS = 0x7FFFFF
_TO_INTEGER = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer, half to even
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(c) for c in mass.EXP2_COEFFICIENTS)
_W0, _W1, _W2, _W3, _W4, _W5, _W6 = (np.float32(c * 2.0**30) for c in mass.EXP2_COEFFICIENTS)


def widen(word):
    """A logit as fp32."""
    raise NotImplementedError


@overload(widen)
def _widen(word):
    if word == types.float32:
        return lambda word: word
    if word == types.int16:
        return lambda word: float_of(np.int32(np.int32(word) << 16))
    return lambda word: widen_half(word)


@device
def key_of_float(x):
    """The key of an fp32 value."""
    bits = bits_of(x + np.float32(0.0))  # -0.0 becomes +0.0
    return np.int32(np.int32(bits ^ np.int32(np.int32(bits >> 31) & 0x7FFFFFFF)) - _SHIFT_KEYS)


@device
def key_of(word):
    """The key of a logit."""
    return key_of_float(widen(word))


@device
def value_of(key):
    """The fp32 value of a key: the inverse of `key_of_float`."""
    bits = np.int32(key + _SHIFT_KEYS)
    return float_of(np.int32(bits ^ np.int32(np.int32(bits >> 31) & 0x7FFFFFFF)))


@device
def token_weight(x, block_max, c):
    """`floor(2**z * 2**30)`, int32, of a logit `x` beside its block's maximum.

    `block_max` is finite. Below z = -40 every weight is 0, so that the clamp there changes nothing.
    The coefficients stand in units of 2**-30: each step rounds as if they did not.
    """
    z = (x - block_max) * c
    z = z if z > np.float32(-40.0) else np.float32(-40.0)
    shifted = z + _TO_INTEGER
    f = z - (shifted - _TO_INTEGER)
    p = _W6 * f + _W5
    p = p * f + _W4
    p = p * f + _W3
    p = p * f + _W2
    p = p * f + _W1
    p = p * f + _W0
    return np.int32(float_of(np.int32(bits_of(p) + np.int32(bits_of(shifted) << 23))))


@device
def exp2_parts(z):
    """`2**z` for z <= 0 as a fraction in [0.7, 1.42), fp32, and an exponent, int32.

    By the contract's polynomial; the caller's clamp keeps |z| small.
    """
    shifted = z + _TO_INTEGER
    f = z - (shifted - _TO_INTEGER)
    p = _C6 * f + _C5
    p = p * f + _C4
    p = p * f + _C3
    p = p * f + _C2
    p = p * f + _C1
    p = p * f + _C0
    return p, np.int32(bits_of(shifted) - bits_of(_TO_INTEGER))


@device
def exp2(z):
    """`2**z` for -125 <= z <= 0, fp32."""
    p, n = exp2_parts(z)
    return float_of(np.int32(bits_of(p) + np.int32(n << 23)))


@device
def block_scale(block_key, row_max, c):
    """A block's scale `2**z` as a mantissa, uint64 in units of 2**-24, and an exponent, int32."""
    z = (value_of(block_key) - row_max) * c
    p, n = exp2_parts(z if z > np.float32(-64.0) else np.float32(-64.0))
    return np.uint64(np.int32(p * np.float32(16777216.0))), n


@device
def scale_sum(total, block_key, row_max, c):
    """A sum of weights inside a block, uint64, in units of mass."""
    mantissa, n = block_scale(block_key, row_max, c)
    shift = np.int32(14 - n)
    return (total * mantissa) >> np.uint64(min(shift, np.int32(63)))


@device
def log2_mass(total):
    """log2 of a mass in units of the best token's, fp64: 32 bits behind the point, by squaring."""
    exponent = np.int64(0)
    y = np.uint64(total)
    while y >> np.uint64(exponent + 1) != 0:
        exponent += 1
    if exponent >= 31:
        y >>= np.uint64(exponent - 31)
    else:
        y <<= np.uint64(31 - exponent)
    fraction = np.uint64(0)
    for _ in range(32):
        y = (y * y) >> np.uint64(31)
        bit = y >> np.uint64(32)
        y >>= bit
        fraction = fraction * np.uint64(2) + bit
    return np.float64(exponent * 2**32 + np.int64(fraction)) * 2.0**-32 - 40.0
