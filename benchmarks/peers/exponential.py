"""The exponential race that gpt-fast made common: argmax of p / e with e exponential.

It draws the token with the shortest waiting time e / p, without `multinomial`.
"""

from __future__ import annotations

import torch

from .base import Draw, Params, Peer, differs_by_row, is_greedy
from .pytorch import warp


class ExponentialRace(Peer):
    name = "exponential-race"
    title = "exponential race"
    has = ("temperature", "top_k")

    def unsupported(self, params: Params) -> str | None:
        if is_greedy(params):
            return "it has no greedy path of its own"
        if differs_by_row(params) or super().unsupported(params):
            return "it has one temperature and one top-k"
        return None

    def prepare(self, params: Params) -> Draw:
        def draw(logits: torch.Tensor) -> torch.Tensor:
            probabilities = warp(logits.float(), **params).softmax(-1)
            waiting = torch.empty_like(probabilities).exponential_()
            return (probabilities / waiting).argmax(-1)

        return draw

    def mask(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        return warp(logits.float(), **params).isfinite()
