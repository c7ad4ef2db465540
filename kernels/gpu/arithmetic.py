"""The contract's arithmetic as device functions: keys, weights, block scales.

PyTorch twin: `fused_sampler.contract.mass`. Everything here is compiled without fused
multiply-add, so that each operation rounds once, as it does on the host (contract section 3).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fused_sampler import params
from fused_sampler.contract import mass

BLOCK = tl.constexpr(mass.BLOCK)  # ids a block
BEST_MASS = tl.constexpr(float(mass.BEST_MASS))
LOG2_E = tl.constexpr(mass.LOG2_E)
LN_2 = tl.constexpr(mass.LN_2)
LOWEST_FLOAT = tl.constexpr(mass.LOWEST)
GREEDY_BELOW = tl.constexpr(params.GREEDY_BELOW)
C0, C1, C2, C3, C4, C5, C6 = (tl.constexpr(c) for c in mass.EXP2_COEFFICIENTS)
TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer, half to even
TO_INTEGER_BITS = tl.constexpr(0x4B400000)


@triton.jit
def widen(x):
    """Logits as fp32; -0.0 becomes +0.0."""
    return x.to(tl.float32) + 0.0


@triton.jit
def key_of(x, SHIFT: tl.constexpr):
    """An int32 in the order of the floats `x`; `SHIFT` low bits say nothing and are dropped.

    16-bit logits leave 16 (bf16) or 13 (fp16) bits of the fp32 word constant.
    """
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> SHIFT


@triton.jit
def lowest_key(SHIFT: tl.constexpr):
    """The key of the lowest finite logit."""
    return key_of(tl.full([], LOWEST_FLOAT, tl.float32), SHIFT)


@triton.jit
def value_of(key, shift):
    """The float of a key, fp32: the inverse of `key_of` for every value of the logits' dtype."""
    bits = (key << shift) | ((key >> 31) & ((1 << shift) - 1))
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def exp2_parts(z):
    """`2**z` for z <= 0 as a fraction `p` in [0.7, 1.42), fp32, and an exponent `n`, int32.

    The contract's polynomial, multiply and add apart. The caller's clamp keeps |z| small.
    """
    shifted = z + TO_INTEGER
    n = shifted.to(tl.int32, bitcast=True) - TO_INTEGER_BITS
    f = z - (shifted - TO_INTEGER)
    p = C6 * f + C5
    p = p * f + C4
    p = p * f + C3
    p = p * f + C2
    p = p * f + C1
    p = p * f + C0
    return p, n


@triton.jit
def about_inverse(x):
    """1 / x, about, for x > 0; a division would be fused multiply-adds on AMD."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def about_z(x, row_max, c):
    """`(x - row_max) * c`, in halves: the difference itself may be infinite."""
    return (x * 0.5 - row_max * 0.5) * c * 2.0


@triton.jit
def token_weights(x, block_max, c):
    """`floor(2**z * 2**30)`, int32, for logits `x` (fp32) beside their block's maximum.

    Forbidden tokens (-inf) weigh 0, in a block of nothing else too. Below z = -40 every weight is
    0, so the clamp there changes nothing; the product with a power of two is exact.
    """
    z = (x - tl.maximum(block_max, LOWEST_FLOAT)) * c
    p, n = exp2_parts(tl.maximum(z, -40.0))
    return (p * ((n + 157) << 23).to(tl.float32, bitcast=True)).to(tl.int32)


@triton.jit
def block_scale(block_max, row_max, c):
    """Mantissa (int64, below 2**25) and right shift (int64) of `scale_sums`, for block maxima.

    Below z = -49 the shift is 63 and every scaled sum 0, as at the contract's own clamp of -64.
    """
    z = (block_max - row_max) * c
    p, n = exp2_parts(tl.maximum(z, -50.0))
    # By way of int32: fp32 to int64 is expanded into fused multiply-adds on AMD.
    mantissa = (p * 16777216.0).to(tl.int32).to(tl.int64)
    return mantissa, tl.minimum(14 - n, 63).to(tl.int64)


@triton.jit
def scale_sums(sums, mantissa, shift):
    """Sums of weights inside a block, int64, in units of mass."""
    return (sums * mantissa) >> shift


@triton.jit
def log2_mass(mass):
    """log2 of a mass (int64, from 1 to below 2**63) in units of the best token's, fp64.

    32 bits behind the point, by squaring, as the contract has it.
    """
    n = tl.zeros([], tl.int64)  # where the highest bit stands
    for i in tl.static_range(6):
        half = 32 >> i
        n += half * ((mass >> (n + half)) > 0).to(tl.int64)
    y = ((mass << (62 - n)) >> 31).to(tl.uint64)  # 1 to 2, 31 bits behind the point
    bits = n
    for _ in range(32):
        y = (y * y) >> 31
        bit = y >> 32
        y = y >> bit
        bits = bits * 2 + bit.to(tl.int64)
    return bits.to(tl.float64) * (1.0 / 4294967296.0) - 40.0
