"""Which random bits a draw uses: seed, step, stream and draw index (contract section 6)."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .philox import multiply_high, random_bits

Seed = int | torch.Tensor | None
Step = int | torch.Tensor
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FEW_DRAWS = 8  # up to here Python integers beat the launch of a hundred tiny tensor operations
_AHEAD = 16  # steps whose bits are worked out together, as that costs hardly more than one does
# Last streams for which it is done: fewer are quick one by one, of more the bits would take memory.
_STREAMS_AHEAD = range(4, 512)


class Draws(NamedTuple):
    """The random numbers of a batch: `num_samples` draws from each of B rows."""

    seed: torch.Tensor  # int64 [B]
    step: torch.Tensor  # int64 [B]
    stream: torch.Tensor | None  # int64 [B]; None: each row's own number
    num_samples: int
    lasting: bool = False  # the seed was given: later steps are likely to use it too

    def to(self, device: torch.device) -> Draws:
        """All of them beside logits on `device`; on the CPU they are there already."""
        if device.type == "cpu":
            return self
        seed, step, stream = self.seed.to(device), self.step.to(device), self._streams().to(device)
        return Draws(seed, step, stream, self.num_samples, self.lasting)

    def _streams(self) -> torch.Tensor:
        """The stream of each row, int64 [B]."""
        if self.stream is not None:
            return self.stream
        return torch.arange(len(self.seed), device=self.seed.device)

    def below(self, mass: torch.Tensor) -> torch.Tensor:
        """`r = floor(U * mass / 2**64)` of every draw, int64 [B, num_samples], for masses [B]."""
        return multiply_high(*self._bits(), mass[:, None])

    def uniform(self) -> torch.Tensor:
        """`U / 2**64` of every draw, fp64 [B, num_samples]."""
        high, low = self._bits()
        return high.double().mul_(2.0**-32).add_(low, alpha=2.0**-64)

    def _bits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """High and low half of `U`, int64 [B, num_samples]."""
        seed, step = _shared(self.seed), _shared(self.step)
        lasting = self.lasting and self.num_samples == 1
        if lasting and isinstance(seed, int) and isinstance(step, int):
            last = len(self.seed) - 1 if self.stream is None else int(self.stream.max())
            if last in _STREAMS_AHEAD:
                ahead = _bits_ahead(seed, step // _AHEAD, 1 << last.bit_length())
                high, low = ahead[step % _AHEAD]
                own = slice(last + 1) if self.stream is None else self.stream
                return high[own], low[own]
        device, streams = self.seed.device, self._streams()
        if device.type == "cpu" and len(streams) * self.num_samples <= _FEW_DRAWS:
            words = zip(self.seed.tolist(), self.step.tolist(), streams.tolist(), strict=True)
            bits = [[random_bits(*row, i) for i in range(self.num_samples)] for row in words]
            high, low = torch.tensor(bits, device=device).unbind(-1)
            return high, low
        draw = torch.arange(self.num_samples, device=device)
        return random_bits(seed, step, streams[:, None], draw)

    def select(self, rows: Sequence[int]) -> Draws:
        """The draws of these rows, in ascending order."""
        if len(rows) == len(self.seed):
            return self
        index = torch.tensor(rows, device=self.seed.device)
        stream = index if self.stream is None else self.stream[index]
        seed, step = self.seed[index], self.step[index]
        return Draws(seed, step, stream, self.num_samples, self.lasting)


@functools.lru_cache(maxsize=16)
def _bits_ahead(seed: int, turn: int, rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """High and low half of `U`, int64 [rows, 1], of the streams below `rows` in `_AHEAD` steps.

    The first step is `turn * _AHEAD`.
    """
    step = turn * _AHEAD + torch.arange(_AHEAD, device="cpu")[:, None, None]
    high, low = random_bits(seed, step, torch.arange(rows, device="cpu")[:, None], 0)
    return list(zip(high, low, strict=True))


def _shared(words: torch.Tensor) -> int | torch.Tensor:
    """One integer for all rows where they agree, as they mostly do; else [B, 1]."""
    if words.device.type == "cpu" and (words.stride(0) == 0 or (words == words[0]).all()):
        return int(words[0])
    return words[:, None]


def resolve_draws(
    seed: Seed,
    step: Step,
    num_samples: int,
    generator: torch.Generator | None,
    batch: int,
    device: torch.device,
    validate: bool = True,
) -> Draws:
    """Check seed, step and num_samples and give every row its own.

    One seed for the batch gives row b the stream b; a seed a row gives each the stream 0, so that a
    request draws the same tokens in any slot of any batch.
    """
    check_num_samples(num_samples)
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}.")
    if generator is not None and seed is not None:
        raise ValueError("seed and generator were both given; pass one of them.")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"generator lives on {generator.device}; pass a CPU generator, as torch.Generator() is."
        )
    lasting = seed is not None
    if seed is None:
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
    shared = not isinstance(seed, torch.Tensor) or seed.dim() == 0
    return Draws(
        _int64("seed", seed, batch, device),
        _int64("step", step, batch, device, lowest=0, validate=validate),
        None if shared else torch.zeros(1, dtype=torch.int64, device="cpu").expand(batch),
        num_samples,
        lasting,
    )


def seed_tensor(seed: int | torch.Tensor) -> torch.Tensor:
    """A seed as int64: 0-dimensional, or `[B]` for a seed a row."""
    if isinstance(seed, torch.Tensor) and seed.dim() == 1:
        return _int64("seed", seed, len(seed), seed.device)
    return _int64("seed", seed, 1, torch.device("cpu"))[0]


def signed_word(name: str, value: int, lowest: int = -(2**63)) -> int:
    """A number as a signed 64-bit word, checked; from 2**63 on it wraps, as its bits do."""
    if not _is_integer(value):
        raise TypeError(f"{name} must be an integer or an int64 [B] tensor, got {value!r}.")
    if not lowest <= value < 2**64:
        limits = f"from {lowest} to {2**64 - 1}"
        raise ValueError(f"{name} is {value}; it must fit 64 bits, {limits}.")
    return int(value) - 2**64 if value >= 2**63 else int(value)


def check_num_samples(num_samples: int) -> None:
    """Raise where this is not a number of draws."""
    if not _is_integer(num_samples):
        raise TypeError(f"num_samples must be an integer, got {num_samples!r}.")
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; ask for at least 1.")


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _int64(
    name: str,
    value: int | torch.Tensor,
    batch: int,
    device: torch.device,
    lowest: int = -(2**63),
    validate: bool = False,
) -> torch.Tensor:
    """`value` as 64-bit words [B], a number's on the CPU, as in `Rows`."""
    if not isinstance(value, torch.Tensor):
        word = signed_word(name, value, lowest)
        return torch.full((1,), word, dtype=torch.int64, device="cpu").expand(batch)
    if value.dtype not in _INTEGERS:
        raise TypeError(f"{name} must be an int64 tensor, got {value.dtype}; convert it first.")
    if value.shape not in ((), (batch,)):
        raise ValueError(
            f"{name} has shape {list(value.shape)} but logits have {batch} rows; "
            f"pass an integer or a tensor of shape [{batch}]."
        )
    words = value.to(device=device, dtype=torch.int64).expand(batch)
    if validate and (words < lowest).any():
        row = int((words < lowest).nonzero()[0])
        raise ValueError(f"{name} is {words[row]} in row {row}; count from {lowest}.")
    return words
