"""What every peer offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Any

import torch

Params = dict[str, Any]  # arguments of `sample`, on values only
Draw = Callable[[torch.Tensor], torch.Tensor]


class Peer(ABC):
    """One other way from logits to tokens."""

    name: str  # on the command line and in the files
    title: str  # in tables and pictures
    has: Collection[str] = ("temperature", "top_k", "top_p", "min_p")  # of the parameters

    def unavailable(self, device: torch.device) -> str | None:
        """None, or one line: what is missing and how to get it."""
        return None

    def unsupported(self, params: Params) -> str | None:
        """None, or one line: what of these parameters it cannot do."""
        lacking = [name for name in params if name not in self.has]
        return f"it has no {lacking[0]}" if lacking else None

    def countable(self, device: torch.device) -> bool:
        """Whether PyTorch's books know what it allocates and launches."""
        return True

    @abstractmethod
    def prepare(self, params: Params) -> Draw:
        """The function that is timed: logits [B, V] to tokens int64 [B].

        What a decoding loop sets up once, for all its steps, is done here.
        """

    @abstractmethod
    def mask(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        """The kept set as this peer computes it, bool [B, V]."""


def not_installed(package: str, install: str) -> str | None:
    """The line for a package that is missing, None where it is there."""
    if find_spec(package) is not None:
        return None
    return f"{package} is not installed; run pip install {install}"


def differs_by_row(params: Params) -> bool:
    return any(isinstance(value, torch.Tensor) for value in params.values())


def is_greedy(params: Params) -> bool:
    """Whether every row takes its best token."""
    temperature = params.get("temperature", 1.0)
    return not isinstance(temperature, torch.Tensor) and temperature == 0


def best_token(logits: torch.Tensor) -> torch.Tensor:
    """The kept set of greedy decoding."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, logits.argmax(-1)[:, None], True)
