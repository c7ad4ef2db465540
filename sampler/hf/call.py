"""Where the draws of one `generate` call come from, through every decoding loop inside of it.

Most models decode in one loop. Some call `generate` again and again: Whisper for each piece of a
long recording, and once more for a piece that came out badly; Bark with one model after another.
The draws then go on: each row keeps its seed, and its next draw has the step after its last one.
Some have a second model's loop within each step of the first, as Moshi has; that one draws with
seeds of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig

from ..contract.draws import check_generator, seed_tensor
from . import processors, protocol, warpers

# 2**64 / golden ratio as an int64: the seeds of one prompt's sequences lie this far apart.
SEED_GAP = 0x9E3779B97F4A7C15 - 2**64
_LOOP_GAP = 0xBB67AE8584CAA73B - 2**64  # 2**64 (sqrt(3) - 1): and those of a loop within a loop
# The arguments of `generate` that transformers does not know: parameters of the draw, and edits.
OWN = warpers.OWN + processors.OWN


@dataclass
class LoopDraws:
    """What one decoding loop hands to `sample`, for its rows, and how far it came."""

    seed: torch.Tensor  # int64: 0-dimensional for the batch, or a seed a row
    first_step: torch.Tensor  # int64: 0-dimensional, or one a row
    values: dict[str, Any]  # of parameters: numbers, and what was given as tensors, [rows]
    edits: dict[str, Any]  # the same of the caller's edits, in greedy loops too
    lengths: torch.Tensor  # int64 [rows]: tokens drawn, counted by the loop


@dataclass
class _Rows:
    """The rows that loops share which run one after the other.

    Seeds and values come with the first loop that draws: greedy loops may have rows of other
    prompts before, as where the last token of each prompt is healed.
    """

    next_steps: torch.Tensor  # int64 on the CPU, [rows]
    seeds: torch.Tensor | None = None  # int64 on the CPU: 0-dimensional, or [rows]
    values: dict[str, Any] = field(default_factory=dict)  # numbers, and [rows] on the CPU


class Call:
    """The seed, generator and parameters of one `generate` call, and how far it has drawn.

    `values` holds by name the parameters that Hugging Face's configuration cannot: those it does
    not know, edits among them, and tensors, with a value a prompt or a value a row. `sequences` are
    those returned for each prompt, where an inner call does not know of it. Loops of `model` and of
    the models inside of it are the call's own.

    Raises TypeError or ValueError for a value of the wrong kind or out of range.
    """

    def __init__(
        self,
        seed: int | torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        values: dict[str, Any] | None = None,
        sequences: int = 1,
        model: Any = None,
    ) -> None:
        check_generator(seed, generator)
        self._seed = seed
        self._generator = generator
        self._values: dict[str, Any] = {}
        self._sequences = sequences
        self._model = model
        draws = {"seed": seed, "generator": generator}
        # The first argument that only our loop can serve, if there is one.
        self.asked_for = next((name for name, value in draws.items() if value is not None), None)
        # The first that is another for each row, and the first for draws alone.
        self.by_row = self._of_draws = self.asked_for
        self.take(values or {})
        self._reached = self._sampled = False
        self._rows: list[_Rows] = []  # of the outermost loops, of those inside of them, ...
        self._open_loops = 0

    @contextmanager
    def loop(
        self, model: Any, rows: int, config: GenerationConfig, device: torch.device
    ) -> Iterator[LoopDraws]:
        """A decoding loop of `rows` rows. Raises ValueError for a seed that fits no rows."""
        if self._seed is None and self._generator is None:
            self._seed = getattr(config, "seed", None)
            if self._seed is not None:
                self.asked_for = self.asked_for or "seed"
                self._of_draws = self._of_draws or "seed"
        self._reached = True
        self._sampled |= config.do_sample
        places = protocol.places_in_outer_call(model)
        with torch.device("cpu"):  # whatever the default is
            known = self._known_rows(model, rows, config, places)
            index = torch.zeros(rows, dtype=torch.int64)  # beyond the places: padding to a size
            counted = rows if places is None else len(places)
            index[:counted] = torch.arange(rows) if places is None else torch.tensor(places)
            seeds = torch.tensor(0) if known.seeds is None else known.seeds
            steps = known.next_steps[index] if known.next_steps.any() else torch.tensor(0)
        values = {
            name: value[index].to(device) if isinstance(value, torch.Tensor) else value
            for name, value in known.values.items()
        }
        edits = {name: values.pop(name) for name in processors.OWN if name in values}
        draws = LoopDraws(
            (seeds[index] if seeds.dim() else seeds).to(device),
            steps.to(device),
            values,
            edits,
            torch.zeros(rows, dtype=torch.int64, device=device),
        )
        self._open_loops += 1
        try:
            yield draws
        finally:
            self._open_loops -= 1
        if config.do_sample:
            known.next_steps[index[:counted]] += draws.lengths.cpu()[:counted]

    def _known_rows(
        self, model: Any, rows: int, config: GenerationConfig, places: list[int] | None
    ) -> _Rows:
        """The rows that a loop goes on with, or begins with."""
        sequences = max(config.num_return_sequences or 1, self._sequences)
        level = self._open_loops
        known = self._rows[level] if level < len(self._rows) else None
        if known is None or (places is None and rows != len(known.next_steps)):
            first = 0 if known is None else int(known.next_steps.max())
            known = _Rows(torch.full((rows,), first))
            self._rows[level:] = [known]
        total = len(known.next_steps)
        if known.seeds is None:
            known.values = {
                name: _by_row(name, value.detach().cpu(), total, sequences, model)[0]
                if isinstance(value, torch.Tensor)
                else value
                for name, value in self._values.items()
                if processors.is_on(name, value) and (config.do_sample or name in processors.OWN)
            }
        if known.seeds is None and config.do_sample:
            seeds = self._seeds(model, total, sequences, places is not None)
            known.seeds = seeds + level * _LOOP_GAP
        return known

    def has(self, model: Any) -> bool:
        """Whether a loop of `model` is a part of the call."""
        return self._model is not None and any(part is model for part in self._model.modules())

    def take(self, values: dict[str, Any]) -> None:
        """More parameters, of a `generate` that hands its own on to the one it overrides."""
        for name, value in values.items():
            if value is not None:
                value = self._values[name] = processors.checked(name, value)
            if processors.is_on(name, value):
                self.asked_for = self.asked_for or name
                if name not in processors.OWN:
                    self._of_draws = self._of_draws or name
            if isinstance(value, torch.Tensor) and value.numel() > 1:
                self.by_row = self.by_row or name

    def for_requests(self, samples: bool) -> dict[str, Any]:
        """What was given, by name, for `generate_batch` to hand to its requests."""
        self._reached = True
        self._sampled |= bool(samples)
        if self._generator is not None:
            fresh = torch.randint(2**63 - 1, (), generator=self._generator, device="cpu")
            self._seed = int(fresh)
        return self._values | ({} if self._seed is None else {"seed": self._seed})

    def close(self) -> None:
        """Tell the caller, once all loops are done, of a seed that was not needed."""
        if self.asked_for is None:
            return
        if not self._reached:
            raise ValueError(
                f"{self.asked_for} was given, but no loop of the fused sampler ran; leave it out "
                "and call torch.manual_seed."
            )
        if self._of_draws and not self._sampled:
            protocol.warn_caller(f"{self._of_draws} was given, but greedy decoding draws nothing")

    def _seeds(self, model: Any, rows: int, sequences: int, rows_come_and_go: bool) -> torch.Tensor:
        """The seed as int64 on the CPU: 0-dimensional for the batch, or one a row."""
        if self._seed is None:
            fresh = torch.randint(2**63 - 1, (), generator=self._generator)
            self._seed = protocol.shared_by_ranks(model, fresh)
        seeds = seed_tensor(self._seed).cpu()
        if seeds.shape == (1,) and rows > sequences * protocol.codebooks(model):
            seeds = seeds[0]  # one element is one number, as in `sample`
        if seeds.dim() == 1:
            seeds, turn = _by_row("seed", seeds, rows, sequences, model)
            return seeds + turn * SEED_GAP
        # Where rows come and go, each needs a seed to keep.
        return seeds + torch.arange(rows) * SEED_GAP if rows_come_and_go else seeds


def own_settings(config: GenerationConfig) -> dict[str, Any]:
    """What a generation config holds of the parameters that transformers does not know."""
    return {name: getattr(config, name, None) for name in OWN}


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
