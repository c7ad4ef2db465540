"""What a call returns."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .contract.mass import LN_2, log2_mass


class SampleOutput(NamedTuple):
    """Drawn tokens and, with `return_info=True`, what they were drawn from.

    The fields after `kept` are None unless the call asks for them.

    Fields:
        tokens: int64 `[B]` or `[B, num_samples]` (without the B for one row of logits, here and
            below); -1 for an invalid row, and without replacement where nothing is left to draw.
        logprobs: fp32, shaped like tokens; natural logarithm of the token's probability among the
            kept tokens at the given temperature, those drawn before it included; of a greedy row 0
            for its best token, -inf for all others; NaN for the token -1.
        raw_logprobs: the same under the untouched distribution: temperature 1, no filter, no edit.
        kept: int64 `[B]`; how many tokens the filters kept; 0 for an invalid row.
        top_ids: int64 `[B, n]`; the n most probable kept tokens, of equals the lowest id first; -1
            where fewer are kept.
        top_logprobs: fp32 `[B, n]`; their logarithms among the kept tokens; NaN for the id -1.
        raw_top_ids: int64 `[B, n]`; the n most probable of all tokens.
        raw_top_logprobs: fp32 `[B, n]`; theirs under the untouched distribution.
        id_logprobs: fp32 `[B, n]`; of the tokens named by `logprob_ids`, among the kept ones; -inf
            for one that is dropped, NaN for the id -1 and for an invalid row.
        raw_id_logprobs: fp32 `[B, n]`; the same under the untouched distribution.
        ranks: int64, shaped like tokens; 1 for the largest logit, equals share one; 0: no token.
        entropy: fp32 `[B]`; of the kept tokens at the given temperature, in nats.
        kept_ids: int32 `[total]`; row b keeps `kept_ids[kept_offsets[b] : kept_offsets[b + 1]]`, in
            ascending order.
        kept_offsets: int64 `[B + 1]`; where the rows begin.
        kept_overflow: bool `[B]`; the row keeps more than `kept_cap`, and none of its ids is here.
        kept_bitmask: int32 `[B, ceil(V / 32)]`; token i is bit `i % 32` of word `i // 32`.
    """

    tokens: torch.Tensor
    logprobs: torch.Tensor | None = None
    raw_logprobs: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    top_ids: torch.Tensor | None = None
    top_logprobs: torch.Tensor | None = None
    raw_top_ids: torch.Tensor | None = None
    raw_top_logprobs: torch.Tensor | None = None
    id_logprobs: torch.Tensor | None = None
    raw_id_logprobs: torch.Tensor | None = None
    ranks: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    kept_ids: torch.Tensor | None = None
    kept_offsets: torch.Tensor | None = None
    kept_overflow: torch.Tensor | None = None
    kept_bitmask: torch.Tensor | None = None


class RowState(NamedTuple):
    """What the draws of a batch were made from: enough for the log-probability of any token.

    row_max: fp32 `[B]`, the largest logit; NaN in an invalid row.
    lowest, highest: fp32 `[B]`; the kept tokens are those with logits from one to the other.
    log_mass: fp64 `[B]`, the natural logarithm of the mass of the kept tokens, in units of the best
        token's; of a greedy row it says nothing.
    raw_log_mass: fp64 `[B]`, of all at temperature 1, and
    raw_max: fp32 `[B]`, the largest logit, both before any edit.
    """

    row_max: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor
    log_mass: torch.Tensor
    raw_log_mass: torch.Tensor
    raw_max: torch.Tensor


class Drawn(NamedTuple):
    """What a backend returns: the tokens `[B, num_samples]` and, where asked for, all the rest."""

    tokens: torch.Tensor
    logprobs: torch.Tensor | None = None
    raw_logprobs: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    state: RowState | None = None


def log_probability(
    x: torch.Tensor, row_max: torch.Tensor, temperature: torch.Tensor, log_mass: torch.Tensor
) -> torch.Tensor:
    """`(x - row_max) / temperature - log_mass`, in fp64 but for the last rounding."""
    scaled = (x.double() - row_max.double()) / temperature.double()
    return (scaled - log_mass).float()


def logarithm(mass: torch.Tensor) -> torch.Tensor:
    """ln(mass), fp64: without fp64's own logarithm, which devices round differently."""
    return log2_mass(mass) * LN_2
