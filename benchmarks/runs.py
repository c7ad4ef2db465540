"""One timed run of a model that writes tokens: what is written, and what is timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ..models.load import LoadedModel

PROMPT_TOKENS = 16
TEXT = (
    "The lighthouse stood at the end of a long stone pier. Every evening an old man walked out to "
    "it, counted the boats that were still at sea, and wrote their number in a book. Nobody had "
    "asked him to. When the wind was strong he stayed until the last of them had come home."
)
THEIRS, OURS = SAMPLERS = "hugging-face", "fused-sampler"


class Run(NamedTuple):
    """One run, whichever sampler drew the tokens and whichever call asked for them."""

    tokens_per_second: float
    share: float  # of sampling in the decode steps after the first


def prompts(loaded: LoadedModel, batch: int) -> torch.Tensor:
    """Token ids [batch, 16]: of one text, each row a token further on."""
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"][0]
    places = torch.arange(batch)[:, None] + torch.arange(PROMPT_TOKENS)
    return ids[places % len(ids)].to(loaded.model.device)


class Draws:
    """Start and end of each draw, in seconds: `begin` and `end` are called around it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = 0.0
        self.times: list[tuple[float, float]] = []

    def begin(self) -> None:
        self.started = self._now()

    def end(self) -> None:
        self.times.append((self.started, self._now()))

    def run(self, tokens: int, seconds: float) -> Run:
        """The figures of a call that wrote so many tokens in so many seconds."""
        sampled = sum(end - begin for begin, end in self.times[1:])
        return Run(tokens / seconds, sampled / (self.times[-1][1] - self.times[0][1]))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or the model's time would count as the sampler's
        return time.perf_counter()


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for an attribute while the block runs."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
