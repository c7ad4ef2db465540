"""Mirostat 2: a bound on the surprise of tokens that follows the text (arXiv 2007.14966).

A token's surprise is `-log2(p)`, in bits. Before each draw the tokens of more than `mu` bits are
dropped; after it `mu` moves towards what keeps the surprise of the drawn tokens at `tau`. As in
llama.cpp, that surprise is the one among the kept tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .params import (
    MIROSTAT_ETA,
    MIROSTAT_MU,
    MIROSTAT_TAU,
    RECORDS,
    TEMPERATURE,
    TEMPERATURE_LAST,
    Parameter,
    SamplingParams,
    is_on,
)

NAMES = (MIROSTAT_TAU.name, MIROSTAT_ETA.name)
_LOG2_E = 1.4426950408889634  # fp64
_REPLACED = [
    record
    for name, record in RECORDS.items()
    if name not in (TEMPERATURE.name, TEMPERATURE_LAST.name, MIROSTAT_MU.name)
]


def first_bound(tau: Parameter, batch: int, device: torch.device) -> torch.Tensor:
    """`mu` before the first draw, fp32 `[batch]`; inf where mirostat is off."""
    values = torch.as_tensor(tau, dtype=torch.float32, device=device).expand(batch)
    return torch.where(values > 0, 2.0 * values, torch.inf)


def next_bound(
    mu: torch.Tensor, tau: Parameter, eta: Parameter, logprobs: torch.Tensor
) -> torch.Tensor:
    """`mu` after a draw, fp32, from the log-probabilities of the drawn tokens among those kept.

    In fp64 but for the last rounding, so that it is the same on every device. Where nothing could
    be drawn it stays.
    """
    target, rate = (torch.as_tensor(v, device=mu.device).float().double() for v in (tau, eta))
    surprise = logprobs.double().reshape(mu.shape) * -_LOG2_E
    moved = (mu.double() - rate * (surprise - target)).float()
    return torch.where(moved.isnan(), mu, moved)


def without_filters(tau: Parameter, values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a draw by name, with the filters off in the rows that follow mirostat."""
    others = dict(values)
    for record in _REPLACED:
        value = others.pop(record.name, None)
        if value is not None and isinstance(tau, torch.Tensor):
            dtype = torch.int64 if record.kind is int else torch.float32
            given = torch.as_tensor(value, device=tau.device).to(dtype)
            others[record.name] = torch.where(tau > 0, record.off, given).to(dtype)
    return others


def apart(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mirostat's parameters among others, nothing where it is off; and the others."""
    others = {name: value for name, value in values.items() if name not in NAMES}
    if not is_on(MIROSTAT_TAU.name, values.get(MIROSTAT_TAU.name)):
        return {}, others
    return {name: values[name] for name in NAMES if name in values}, others


class Follower:
    """The bound of each row of a decoding loop, and the parameters that it makes of a draw's."""

    def __init__(self, values: dict[str, Any], params: SamplingParams, rows: int, device: Any):
        """With mirostat's parameters by their names: numbers, or tensors `[rows]`."""
        self.tau = values[MIROSTAT_TAU.name]
        self.eta = values.get(MIROSTAT_ETA.name, MIROSTAT_ETA.off)
        self.mu = first_bound(self.tau, rows, device)
        self._values = without_filters(self.tau, vars(params))

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(**{**self._values, MIROSTAT_MU.name: self.mu})

    def move(self, logprobs: torch.Tensor) -> None:
        """After a draw, by the log-probabilities of the tokens among those that were kept."""
        self.mu = next_bound(self.mu, self.tau, self.eta, logprobs)
