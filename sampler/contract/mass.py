"""Masses: probabilities as integers, so that a sum never depends on the order of its terms.

Inside a block of 64 ids a token weighs `floor(2**z * 2**30)` relative to the block's best token;
a block's sum is then scaled to units of `2**-40` of the row's best token (contract section 3).
"""

from __future__ import annotations

import struct

import torch

BLOCK_BITS = 6
BLOCK = 2**BLOCK_BITS  # ids a block
MAX_VOCAB = 2**22
BEST_MASS = 2**40  # of the row's best token alone
LOWEST = torch.finfo(torch.float32).min


def _fp32(bits: str) -> float:
    return struct.unpack(">f", bytes.fromhex(bits))[0]


LOG2_E = _fp32("3fb8aa3b")
LN_2 = 0.6931471805599453  # fp64
# 2**f on [-0.5, 0.5], lowest power first.
_WORDS = ("3f800000", "3f317218", "3e75fdee", "3d635774", "3c1d96a6", "3aaf9f2a", "3920fddd")
EXP2_COEFFICIENTS = tuple(map(_fp32, _WORDS))


def exp2_parts(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`2**z` in int32: `mantissa` in units of 2**-24, below 2**25, and exponent `n`."""
    z = z.clamp(min=-64.0)
    n = z.round()  # half to even
    f = z - n
    p = torch.full_like(f, EXP2_COEFFICIENTS[-1])
    for coefficient in reversed(EXP2_COEFFICIENTS[:-1]):
        p = p * f + coefficient  # two roundings: eager PyTorch never fuses them
    return (p * 2.0**24).to(torch.int32), n.to(torch.int32)


def token_weights(x: torch.Tensor, block_max: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Weights `floor(2**z * 2**30)`, int64, of logits `x` (fp32) beside their block's maximum.

    The three broadcast. Forbidden tokens (`-inf`) weigh 0, in a block without finite entries too.
    """
    mantissa, n = exp2_parts((x - block_max.clamp(min=LOWEST)) * c)
    shift = n.long() + 6
    return (mantissa.long() << shift.clamp(min=0)) >> (-shift).clamp(min=0)


def scale_sums(sums: torch.Tensor, mantissa: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """`scale_b`: sums of weights (int64) to mass, with the block scale from `exp2_parts`."""
    return (sums * mantissa) >> (14 - exponent).clamp(max=63)


def whole_depth(z: torch.Tensor) -> torch.Tensor:
    """`-z` in units of 2**-20, int64, rounded down; at most 64."""
    return (z.clamp(min=-64.0) * -(2.0**20)).to(torch.int64)


def log2_mass(mass: torch.Tensor) -> torch.Tensor:
    """log2 of masses (int64, at least 1) in units of the best token's, fp64, the same everywhere.

    32 bits behind the point, by squaring: the square of a number from 1 to 2 passes 2 where its
    logarithm's next bit is 1.
    """
    n = torch.zeros_like(mass)  # where the highest bit stands
    for half in (32, 16, 8, 4, 2, 1):
        n += half * (mass >> (n + half) > 0)
    y = (mass >> (n - 31).clamp(min=0)) << (31 - n).clamp(min=0)  # 1 to 2, 31 bits behind the point
    bits = n
    for _ in range(32):
        y = ((y * y) >> 31) & (2**33 - 1)  # the product may fill 64 bits: a sign is masked away
        bit = y >> 32
        y = y >> bit
        bits = bits * 2 + bit
    return bits.double() * 2.0**-32 - 40
