"""Which random bits a draw uses: seed, step, stream and draw index (contract section 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .philox import random_bits

Seed = int | torch.Tensor | None
Step = int | torch.Tensor
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FEW_DRAWS = 8  # up to here Python integers beat the launch of a hundred tiny tensor operations


class Draws(NamedTuple):
    """The random numbers of a batch: `num_samples` draws from each of B rows."""

    seed: torch.Tensor  # int64 [B]
    step: torch.Tensor  # int64 [B]
    stream: torch.Tensor  # int64 [B]
    num_samples: int

    def bits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """High and low half of the 64 random bits of each draw, int64 [B, num_samples] each."""
        if self.seed.device.type == "cpu" and len(self.seed) * self.num_samples <= _FEW_DRAWS:
            keys = zip(self.seed.tolist(), self.step.tolist(), self.stream.tolist(), strict=True)
            pairs = [
                [random_bits(*key, draw) for draw in range(self.num_samples)] for key in keys
            ]
            both = torch.tensor(pairs).view(-1, self.num_samples, 2)
            return both[..., 0], both[..., 1]
        draw = torch.arange(self.num_samples, device=self.seed.device)
        return random_bits(self.seed[:, None], self.step[:, None], self.stream[:, None], draw)

    def select(self, index: torch.Tensor | slice) -> Draws:
        """The draws of the rows that `index` names."""
        return Draws(self.seed[index], self.step[index], self.stream[index], self.num_samples)


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
    if isinstance(num_samples, bool) or not isinstance(num_samples, int):
        raise TypeError(f"num_samples must be an integer, got {num_samples!r}.")
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; ask for at least 1.")
    if generator is not None and seed is not None:
        raise ValueError("seed and generator were both given; pass one of them.")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"generator lives on {generator.device}; pass a CPU generator, as torch.Generator() is."
        )
    if seed is None:
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
    seeds, steps = seed_tensor(seed), _int64("step", step, lowest=0)
    for name, value in (("seed", seeds), ("step", steps)):
        if value.shape not in ((), (batch,)):
            raise ValueError(
                f"{name} has shape {list(value.shape)} but logits have {batch} rows; "
                f"pass an integer or a tensor of shape [{batch}]."
            )
    if validate and (steps < 0).any():
        row = int((steps.expand(batch) < 0).nonzero()[0])
        raise ValueError(f"step is {steps.expand(batch)[row]} in row {row}; count from 0.")
    streams = torch.arange if seeds.dim() == 0 else torch.zeros
    return Draws(
        seeds.to(device).expand(batch),
        steps.to(device).expand(batch),
        streams(batch, dtype=torch.int64, device=device),
        num_samples,
    )


def seed_tensor(seed: int | torch.Tensor) -> torch.Tensor:
    """A seed as int64, 0-dimensional or `[B]`; an integer from 2**63 on wraps, as its bits do."""
    return _int64("seed", seed, lowest=-(2**63))


def _int64(name: str, value: int | torch.Tensor, lowest: int) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        if value.dtype not in _INTEGERS:
            raise TypeError(f"{name} must be an int64 tensor, got {value.dtype}; convert it first.")
        return value.long()
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer or an int64 [B] tensor, got {value!r}.")
    if not lowest <= value < 2**64:
        raise ValueError(f"{name} is {value}; it must fit 64 bits, from {lowest} to {2**64 - 1}.")
    return torch.tensor(value - 2**64 if value >= 2**63 else value)
