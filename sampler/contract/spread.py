"""The variance of a row's logits, from sums of integers (contract section 4).

Like masses, in two levels: inside a block of 64 in units that fit the block's range, then in units
that fit the row's. So the order of a sum cannot matter, and one logit far away costs no precision
but its own.
"""

from __future__ import annotations

import torch

LEAST_EXPONENT = -20  # of a block's range: logits closer together than 2**-45 count as equal


def block_moments(x: torch.Tensor, block_max: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of the finite logits of each block: count, exponent e, sum of q, sum of q * q, int64 [B, N].

    `q = floor((max / 2 - x / 2) * 2**(25 - e))`, with all of `max / 2 - x / 2` below `2**e`; halves
    because the difference of two logits may be infinite. x is fp32 [B, N, 64], block_max [B, N].
    """
    finite = x > -torch.inf
    below = (block_max[..., None] * 0.5 - x * 0.5).masked_fill(~finite, 0.0)
    exponent = (below.amax(-1).view(torch.int32) >> 23).sub(126).clamp(LEAST_EXPONENT, 128)
    unit = (152 - exponent << 23).view(torch.float32)  # 2**(25 - e)
    q = (below * unit[..., None]).nan_to_num(0.0).to(torch.int64)
    return finite.sum(-1), exponent.long(), q.sum(-1), (q * q).sum(-1)


def variance(x: torch.Tensor, block_max: torch.Tensor) -> torch.Tensor:
    """Of each row's finite logits, the population's, fp64 [B]; x is fp32 [B, N, 64]."""
    count, exponent, first, second = block_moments(x, block_max)
    unit = _power_of_2(exponent - 25)
    first, second, size = first.double() * unit, second.double() * unit * unit, count.double()

    # From each block's maximum to the row's, still halves.
    row_max = block_max.amax(-1, keepdim=True)
    far = (row_max.double() * 0.5 - block_max.double() * 0.5).masked_fill(count == 0, 0.0)
    second = second + far * (2.0 * first + size * far)
    first = first + size * far
    reach = (far + _power_of_2(exponent)).masked_fill(count == 0, 0.0).amax(-1)
    exponent = (reach.view(torch.int64) >> 52) - 1022  # all below 2**exponent
    unit = _power_of_2(40 - exponent)[:, None]
    total = count.sum(-1).double()
    first = _whole(first * unit).double() * 2.0**-40 / total
    second = _whole(second * unit * _power_of_2(-exponent)[:, None]).double() * 2.0**-40 / total
    return (second - first * first).clamp(min=0.0) * _power_of_2(2 * exponent + 2)


def largest_root(square: torch.Tensor) -> torch.Tensor:
    """The largest fp32 value whose square, exact in fp64, is at most `square`, fp64.

    PyTorch's own root is not the same on every device.
    """
    square = square.clamp(max=torch.finfo(torch.float32).max ** 2)
    bits = square.sqrt().float().view(torch.int32) + 1
    for _ in range(2):
        bits -= (bits.view(torch.float32).double().square() > square).int()
    return bits.view(torch.float32)


def _whole(values: torch.Tensor) -> torch.Tensor:
    """The sum over blocks of values rounded down, int64 [B]."""
    return values.floor().nan_to_num(0.0).to(torch.int64).sum(-1)


def _power_of_2(exponent: torch.Tensor) -> torch.Tensor:
    return (exponent + 1023 << 52).view(torch.float64)
