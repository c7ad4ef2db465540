"""What a call returns."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .contract.mass import LN_2, log2_mass


class SampleOutput(NamedTuple):
    """Drawn tokens and, with `return_info=True`, what they were drawn from.

    tokens: int64 `[B]` or `[B, num_samples]` (without the B for one row of logits); -1 for an
        invalid row.
    logprobs: fp32, shaped like tokens; natural logarithm of the token's probability among the kept
        tokens at the given temperature; 0 for greedy rows, NaN for invalid ones.
    raw_logprobs: the same under the untouched distribution: temperature 1, no filter.
    kept: int64 `[B]`; how many tokens the filters kept; 0 for an invalid row.
    """

    tokens: torch.Tensor
    logprobs: torch.Tensor | None = None
    raw_logprobs: torch.Tensor | None = None
    kept: torch.Tensor | None = None


def log_probability(
    x: torch.Tensor, row_max: torch.Tensor, temperature: torch.Tensor, mass: torch.Tensor
) -> torch.Tensor:
    """`(x - row_max) / temperature - ln(mass)`, mass in units of the best token's.

    In fp64 but for the last rounding, and without its logarithm, which devices round differently.
    """
    scaled = (x.double() - row_max.double()) / temperature.double()
    return (scaled - log2_mass(mass) * LN_2).float()
