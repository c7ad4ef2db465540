"""Where the draws of one `generate` call come from, through every decoding loop inside of it.

Most models decode in one loop. Some call `generate` again and again: Whisper for each piece of a
long recording, and once more for a piece that came out badly; Bark with one model after another.
The draws then go on: each row keeps its seed, and its next token has the step after its last one.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig

from ..contract.draws import seed_tensor
from . import protocol

# 2**64 / golden ratio as an int64: the seeds of one prompt's sequences lie this far apart.
SEED_GAP = 0x9E3779B97F4A7C15 - 2**64


class LoopDraws(NamedTuple):
    """What one decoding loop hands to `sample`, for its rows."""

    seed: torch.Tensor  # int64: 0-dimensional for the batch, or a seed a row
    first_step: torch.Tensor  # int64: 0-dimensional, or one a row
    values: dict[str, torch.Tensor]  # parameters that were given as tensors, [rows]
    places: torch.Tensor  # the rows' places in the first loop of the call, [rows]
    counted: int  # so many rows count; more are padding


class Call:
    """The seed, generator and parameter tensors of one `generate` call, and how far it has drawn.

    `values` holds parameters by name, each a tensor with a value a prompt or a value a row;
    `sequences` are those returned for each prompt, where an inner call does not know of it.
    """

    def __init__(
        self,
        seed: int | torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        values: dict[str, torch.Tensor] | None = None,
        sequences: int = 1,
    ) -> None:
        if seed is not None and generator is not None:
            raise ValueError("seed and generator were both given; pass one of them.")
        self.seed = seed
        self.generator = generator
        self.values = values or {}
        self.sequences = sequences
        self._reached = self._sampled = False
        self._values: dict[str, torch.Tensor] = {}  # by the rows of the first loop
        self._seeds: torch.Tensor | None = None  # of the first loop's rows, once there was one
        self._steps = torch.zeros(0, dtype=torch.int64)  # the next step of each of these rows

    def asked_for(self, config: GenerationConfig | None = None) -> str | None:
        """The name of something that only our loop can give, if the caller wanted any."""
        if self.seed is not None or getattr(config, "seed", None) is not None:
            return "seed"
        return "generator" if self.generator is not None else next(iter(self.values), None)

    def begin(
        self, model: Any, rows: int, config: GenerationConfig, device: torch.device
    ) -> LoopDraws:
        """What a loop of `rows` rows draws with. Raises ValueError for what fits no rows."""
        if self.seed is None and self.generator is None:
            self.seed = getattr(config, "seed", None)
        self._reached = True
        self._sampled |= config.do_sample
        places = protocol.places_in_outer_call(model)
        if self._seeds is None or (places is None and rows != len(self._steps)):
            self._start(model, rows, config, places is not None)
        assert self._seeds is not None
        counted = rows if places is None else len(places)
        index = torch.arange(rows)
        if places is not None:
            index[:counted] = torch.tensor(places)
            index[counted:] = 0  # padding up to a static size
        steps = self._steps[index] if self._steps.any() else torch.zeros((), dtype=torch.int64)
        seeds = self._seeds if self._seeds.dim() == 0 else self._seeds[index]
        values = {name: value[index].to(device) for name, value in self._values.items()}
        return LoopDraws(seeds.to(device), steps.to(device), values, index, counted)

    def end(self, draws: LoopDraws, lengths: torch.Tensor) -> None:
        """Count the tokens that a loop has drawn, int64 [rows]: the next ones are other draws."""
        self._steps[draws.places[: draws.counted]] += lengths.cpu()[: draws.counted]

    def close(self) -> None:
        """Tell the caller, once all loops are done, of a seed that was not needed."""
        if (asked := self.asked_for()) is None:
            return
        if not self._reached:
            raise ValueError(
                f"{asked} was given, but no loop of the fused sampler ran; leave it out and call "
                "torch.manual_seed."
            )
        if not self._sampled:
            warnings.warn(f"{asked} was given, but greedy decoding draws nothing", stacklevel=4)

    def _start(self, model: Any, rows: int, config: GenerationConfig, is_outer_loop: bool) -> None:
        """Seeds, steps and values for rows of a number that was not seen before."""
        sequences = max(config.num_return_sequences or 1, self.sequences)
        if self.seed is None and not config.do_sample:  # leaves the generator alone
            seeds = torch.zeros((), dtype=torch.int64)
        else:
            if self.seed is None:
                fresh = torch.randint(2**63 - 1, (), generator=self.generator)
                self.seed = protocol.shared_by_ranks(model, fresh)
            seeds = seed_tensor(self.seed).cpu()
        if seeds.shape == (1,) and rows > sequences * protocol.codebooks(model):
            seeds = seeds[0]  # one element is one number, as in `sample`
        if seeds.dim() == 0 and is_outer_loop:  # rows come and go: each needs a seed to keep
            seeds = seeds + torch.arange(rows) * SEED_GAP
        elif seeds.dim() == 1:
            seeds, turn = _by_row("seed", seeds, rows, sequences, model)
            seeds = seeds + turn * SEED_GAP
        last = int(self._steps.max()) if len(self._steps) else 0
        self._seeds, self._steps = seeds, torch.full((rows,), last)
        self._values = {
            name: _by_row(name, value.detach().cpu(), rows, sequences, model)[0]
            for name, value in self.values.items()
        }


def _by_row(
    name: str, given: torch.Tensor, rows: int, sequences: int, model: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """One value a row, [rows], from one a row or one a prompt; and each row's turn in its prompt.

    The rows of a prompt follow one another: its returned sequences, and for audio models, which
    decode a sequence in one row for each codebook, the codebooks of each.
    """
    count = given.numel()
    if count == 1:
        return given.reshape(1).expand(rows), torch.arange(rows)
    if count == rows:
        return given, torch.zeros(rows, dtype=torch.int64)
    for rows_a_prompt in (sequences, sequences * protocol.codebooks(model)):
        if count * rows_a_prompt == rows:
            turn = torch.arange(rows_a_prompt).repeat(count)
            return given.repeat_interleave(rows_a_prompt), turn
    raise ValueError(
        f"{name} has shape {list(given.shape)} for {rows // sequences} prompts and {rows} returned "
        "rows; pass one number, one value a prompt or one a returned row."
    )
