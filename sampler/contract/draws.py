"""Which random bits a draw uses: seed, step, stream and draw index (contract section 6)."""

from __future__ import annotations

import numbers
from typing import NamedTuple

import torch

from ..ids import check_plain
from ..slots import Slots
from .philox import multiply_high, random_bits, random_words

Seed = int | torch.Tensor | None
Step = int | torch.Tensor
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Draws(NamedTuple):
    """The random numbers of a batch: `num_samples` draws from each of B rows.

    Seed, step and stream are one number for all rows, or int64 `[B]`; a number is a signed word.
    With `slots` seed and step may be tables `[S]` instead.
    """

    seed: int | torch.Tensor
    step: int | torch.Tensor
    stream: int | torch.Tensor | None  # None: each row's own number
    num_samples: int
    replacement: bool = True  # False: no token of a row comes twice
    slots: torch.Tensor | None = None  # int32 [B]

    def third_words(self, batch: int, device: torch.device) -> torch.Tensor:
        """The third output word of each row's first draw, int64 [B]: XTC's chance."""
        seed, step, stream = self._words(batch, device)
        return random_words(seed, step, stream, 0)[2]

    def _words(self, batch: int, device: torch.device) -> list[torch.Tensor]:
        """Seed, step and stream, int64 [B]."""
        stream = torch.arange(batch, device=device) if self.stream is None else self.stream
        slots = None if self.slots is None else self.slots.to(device).long()

        def own(word: int | torch.Tensor) -> torch.Tensor:
            word = torch.as_tensor(word, device=device)
            return word[slots] if slots is not None and word.dim() else word.expand(batch)

        return [
            own(self.seed),
            own(self.step),
            torch.as_tensor(stream, device=device).expand(batch),
        ]

    def below(self, mass: torch.Tensor, draw: int | None = None) -> torch.Tensor:
        """`r = floor(U * mass / 2**64)` of every draw, int64 [B, num_samples], for mass [B, 1].

        Of one draw, [B, 1], where it is given.
        """
        words = self._words(len(mass), mass.device)
        seed, step, stream = (word[:, None] for word in words)
        first, end = (0, self.num_samples) if draw is None else (draw, draw + 1)
        indices = torch.arange(first, end, device=mass.device)
        return multiply_high(*random_bits(seed, step, stream, indices), mass)


NO_DRAWS = Draws(seed=0, step=0, stream=0, num_samples=1)  # where nobody looks at them


def check_generator(seed: Seed, generator: torch.Generator | None) -> None:
    """Raise for a generator that is none, is on another device, or comes beside a seed."""
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}.")
    if generator is not None and seed is not None:
        raise ValueError("seed and generator were both given; pass one of them.")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"generator lives on {generator.device}; pass a CPU generator, as torch.Generator() is."
        )


def resolve_draws(
    seed: Seed,
    step: Step,
    num_samples: int,
    generator: torch.Generator | None,
    batch: int,
    device: torch.device,
    validate: bool = True,
    replacement: bool = True,
    slots: Slots | None = None,
) -> Draws:
    """Check seed, step, num_samples and replacement and give every row its own.

    One seed for the batch, a number or a tensor of one element, gives row b the stream b; a seed a
    row gives each the stream 0, so that a request draws the same tokens in any slot of any batch.
    For one row both are the same. With `slots` tensors are tables.
    """
    batch = batch if slots is None else slots.size
    check_num_samples(num_samples)
    check_flag("replacement", replacement)
    check_generator(seed, generator)
    if seed is None:
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
    shared = not isinstance(seed, torch.Tensor) or (seed.shape in ((), (1,)) and batch != 1)
    return Draws(
        _int64("seed", seed, batch, device),
        _int64("step", step, batch, device, lowest=0, validate=validate),
        None if shared else 0,
        num_samples,
        replacement or num_samples == 1,  # one draw is the same either way
        None if slots is None else slots.numbers,
    )


def seed_tensor(seed: int | torch.Tensor) -> torch.Tensor:
    """A seed as int64: 0-dimensional, or `[B]` for a seed a row."""
    if not isinstance(seed, torch.Tensor):
        return torch.tensor(signed_word("seed", seed), device="cpu")
    if seed.dim() == 0:
        return seed_tensor(seed[None])[0]
    if seed.dim() > 1:
        raise ValueError(
            f"seed has shape {list(seed.shape)}; pass an integer or a tensor of shape [B]."
        )
    words = _int64("seed", seed, len(seed), seed.device)
    assert isinstance(words, torch.Tensor)
    return words


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


def check_flag(name: str, value: bool) -> None:
    """Raise where this is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")


def _is_integer(value: object) -> bool:
    # The first is a tenth of the time of the others.
    return type(value) is int or (
        isinstance(value, numbers.Integral) and not isinstance(value, bool)
    )


def _int64(
    name: str,
    value: int | torch.Tensor,
    batch: int,
    device: torch.device,
    lowest: int = -(2**63),
    validate: bool = False,
) -> int | torch.Tensor:
    """A number as a signed word, a tensor as int64 [B] beside the logits."""
    if not isinstance(value, torch.Tensor):
        return signed_word(name, value, lowest)
    if value.dtype not in _INTEGERS:
        raise TypeError(f"{name} must be an int64 tensor, got {value.dtype}; convert it first.")
    check_plain(name, value)
    if value.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"{name} has shape {list(value.shape)} but logits have {batch} rows; "
            f"pass an integer or a tensor of shape [{batch}]."
        )
    words = value.to(device=device, dtype=torch.int64).expand(batch)
    if validate and (words < lowest).any():
        row = int((words < lowest).nonzero()[0])
        raise ValueError(f"{name} is {words[row]} in row {row}; count from {lowest}.")
    return words
