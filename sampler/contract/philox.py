"""The 64 random bits behind a draw: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011). Key = seed, counter = (step low, step high, stream, draw): a pure
function of what is sampled, so no generator state can make a token depend on its neighbours.

Every function takes Python integers and int64 tensors alike: each product of two 32-bit words fits
64 bits, and what wraps around in an int64 is masked away.
"""

from __future__ import annotations

from typing import Any

Words = Any  # int or int64 tensor, mixed as it comes

_MASK = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox(key: tuple[Words, Words], counter: tuple[Words, ...]) -> tuple[Words, ...]:
    """Four 32-bit output words for two key words and four counter words, each in [0, 2**32)."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = ((product1 >> 32) & _MASK) ^ (c1 ^ k0)
        c2 = ((product0 >> 32) & _MASK) ^ (c3 ^ k1)
        c1, c3 = product1 & _MASK, product0 & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def random_words(seed: Words, step: Words, stream: Words, draw: Words) -> tuple[Words, ...]:
    """The four words of a draw (contract section 6)."""
    key = seed & _MASK, (seed >> 32) & _MASK
    return philox(key, (step & _MASK, (step >> 32) & _MASK, stream, draw))


def random_bits(seed: Words, step: Words, stream: Words, draw: Words) -> tuple[Words, Words]:
    """The high and the low half of `U`, the 64 random bits of contract section 6."""
    high, low, _, _ = random_words(seed, step, stream, draw)
    return high, low


def multiply_high(high: Words, low: Words, mass: Words) -> Words:
    """`floor(U * mass / 2**64)` for `U = high * 2**32 + low` and `0 <= mass < 2**63`."""
    mass_high, mass_low = mass >> 32, mass & _MASK
    a, b = high * mass_low, low * mass_high
    middle = ((low * mass_low >> 32) & _MASK) + (a & _MASK) + (b & _MASK)
    return high * mass_high + ((a >> 32) & _MASK) + ((b >> 32) & _MASK) + (middle >> 32)
