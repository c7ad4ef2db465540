"""Continuous batching on the fused sampler: `generate_batch`, and `transformers serve` with it.

transformers' manager keeps its scheduler, cache, CUDA graphs and compiled passes. Ours differs in
what lies between logits and token: one call of `sample` for all requests of a step, each with
parameters, seed and step of its own, in the place of two sorts, a softmax and a multinomial.

Needs transformers 5.20 or newer; the tests ran with 5.20.0, 5.23.0 and 5.24.0.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
)
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.requests import RequestStatus

from ..api import sample
from ..contract.draws import seed_tensor, signed_word
from ..params import PARAMETERS, RECORDS, SamplingParams, check_number
from . import warpers
from .call import SEED_GAP
from .loop import argmax

# Rows of transformers' int32 tensor of arguments, a column a request: the parameters, then the two
# halves of the seed, then the step.
_ROWS = len(PARAMETERS) + 3
_CHILD = re.compile(r"__child#(\d+)$")  # transformers' name for a prompt's further sequences


def is_fused(manager: Any) -> bool:
    return isinstance(manager, FusedManager)


def without_warpers(config: GenerationConfig) -> GenerationConfig:
    """A configuration for which transformers makes none of the warpers that `sample` replaces."""
    plain = copy.deepcopy(config)
    for name, record in RECORDS.items():
        setattr(plain, name, None if name == "min_p" else record.kind(record.off))
    return plain


def fuse(manager: Any, config: GenerationConfig) -> FusedManager:
    """Let a manager that was made `without_warpers` draw with `sample`, by the whole `config`."""
    manager.__class__ = FusedManager
    manager.logit_processor = FusedProcessors(
        manager.model._get_logits_processor(config),
        bool(config.do_sample),
        manager.continuous_batching_config.drop_unsupported_processors,
    )
    seed = manager.continuous_batching_config.seed
    seed = getattr(config, "seed", None) if seed is None else seed
    manager._seeds = None if seed is None else torch.Generator().manual_seed(seed)
    return manager


class Prompt(list):
    """Token ids with the parameters of their request, which transformers passes on as they are."""

    def __init__(self, ids: Sequence[int], settings: dict[str, Any]) -> None:
        super().__init__(ids)
        self.settings = settings


def with_settings(
    inputs: Sequence[Sequence[int]], settings: dict[str, Any], sequences: int
) -> list[Prompt]:
    """Each prompt with its own: of a list or tensor its element, of one number that number.

    One seed gives request i the seed `seed + i * sequences * SEED_GAP`, for the same tokens in any
    batch: those between are the seeds of its further sequences.
    """
    requests: list[dict[str, Any]] = [{} for _ in inputs]
    for name, given in settings.items():
        values = given.squeeze().tolist() if isinstance(given, torch.Tensor) else given
        if not isinstance(values, Sequence):
            values = [values] * len(inputs)
            if name == "seed" and given is not None:
                first = int(seed_tensor(given))
                values = [wrapped(first + i * sequences * SEED_GAP) for i in range(len(inputs))]
        if len(values) != len(inputs):
            raise ValueError(
                f"{name} has {len(values)} values for {len(inputs)} prompts; pass one number or "
                "one value a prompt."
            )
        for request, value in zip(requests, values, strict=True):
            request[name] = value
    for request in requests:
        check_settings(request)  # here, for `generate_batch` logs what its requests raise
    return [Prompt(ids, own) for ids, own in zip(inputs, requests, strict=True)]


def wrapped(seed: int) -> int:
    """As 64 bits with a sign wrap."""
    return (seed + 2**63) % 2**64 - 2**63


class FusedManager(ContinuousBatchingManager):
    """A manager whose requests take temperature, filters and seed of their own."""

    _seeds: torch.Generator | None  # of the seed in its configuration; None: PyTorch's default

    def add_request(self, input_ids: Any, *args: Any, **kwargs: Any) -> str | None:
        """As transformers', and: `seed`, else one from the generator; the sampling parameters.

        Raises TypeError or ValueError for a parameter of the wrong kind or out of range.
        """
        if not self.is_tp_driver:  # it gets the requests of the one that is, seeds included
            return None
        kwargs |= getattr(input_ids, "settings", {})
        check_settings(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        if "seed" not in kwargs:
            kwargs["seed"] = int(torch.randint(2**63 - 1, (), generator=self._seeds))
        return super().add_request(input_ids, *args, **kwargs)

    def add_requests(self, inputs: Any, *args: Any, **kwargs: Any) -> list[str]:
        """As transformers', with parameters and seeds as numbers or with one a prompt."""
        own = {name: kwargs.pop(name) for name in ("seed", *PARAMETERS) if name in kwargs}
        if own:
            inputs = with_settings(inputs, own, self.num_return_sequences)
        return super().add_requests(inputs, *args, **kwargs)

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        processor = super()._create_batch_processor()
        if not isinstance(processor, FusedBatchProcessor):
            processor.__class__ = FusedBatchProcessor
            processor.model_runner.__class__ = FusedRunner
            if processor.use_async_batching:
                keep_ids_valid(processor.inputs_and_outputs)
        return processor


def check_settings(settings: dict[str, Any]) -> None:
    """Raise for a parameter or seed of a request that is of the wrong kind or out of range."""
    for name, value in settings.items():
        if value is None:
            continue
        if name == "seed":
            signed_word(name, value)
        elif name in PARAMETERS:
            check_number(name, value)


class FusedProcessors(ContinuousBatchingLogitsProcessorList):
    """The processors that stay, and the parameters of the draw, which follow each request."""

    def __init__(
        self, processors: LogitsProcessorList, samples: bool, drop_unsupported: bool
    ) -> None:
        kept = [p for p in processors if warpers.fused_name(p) is None]
        super().__init__(
            LogitsProcessorList(kept), drop_unsupported_processors=drop_unsupported
        )  # says which of them it drops
        dropped = [p for p in kept if p not in self.logits_processor]
        self._all = [p for p in processors if p not in dropped]
        stages, _ = warpers.split(self._all)
        self._staged = {  # parameters that stand before a processor, which the draw must not repeat
            name
            for stage in stages
            if isinstance(stage, SamplingParams)
            for name, value in vars(stage).items()
            if value != RECORDS[name].off
        }
        held = {name: warpers.fused_value(p) for p in self._all if (name := warpers.fused_name(p))}
        self._defaults = {
            name: held.get(name, record.kind(record.off)) for name, record in RECORDS.items()
        }
        self.tensors_required = _ROWS
        self.do_processing = True
        self.samples = samples
        self.params: SamplingParams = warpers.OFF  # of the step that is being computed, as are:
        self.seed = self.step = torch.zeros(0)

    def check_kwargs(self, kwargs: dict) -> None:
        """Raise for a request with a parameter that is none."""
        check_settings(kwargs)
        super().check_kwargs({n: v for n, v in kwargs.items() if n not in (*PARAMETERS, "seed")})

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.copy_(self._columns([{**self._defaults, "seed": 0}], [0]))

    def prepare_tensor_args(self, requests_in_batch: list, arg_storage: torch.Tensor) -> Any:
        """A column for each request that gets a token: what it asked for, and its step."""
        states = [request.state for request in requests_in_batch if request.has_new_token]
        settings = [{**self._defaults, "seed": 0, **s.logit_processor_kwargs} for s in states]
        for state, own in zip(states, settings, strict=True):
            if child := _CHILD.search(state.request_id):
                own["seed"] += (int(child[1]) + 1) * SEED_GAP
        # The position is that of the token to come. A request that had to leave the cache has its
        # first tokens in its prompt.
        steps = [
            max(0, s.position_offset - (s._true_initial_tokens or len(s.initial_tokens)))
            for s in states
        ]
        columns = self._columns(settings, steps)
        arg_storage[:, : len(states)] = columns.to(arg_storage.device)
        return arg_storage

    @staticmethod
    def _columns(settings: list[dict[str, Any]], steps: list[int]) -> torch.Tensor:
        """int32 [_ROWS, requests]; floats and seeds by their bits."""
        columns = torch.empty(_ROWS, len(settings), dtype=torch.int32, device="cpu")
        for row, name in enumerate(PARAMETERS):
            dtype = torch.int32 if RECORDS[name].kind is int else torch.float32
            values = [min(own[name], 2**31 - 1) for own in settings]
            columns[row] = torch.tensor(values, dtype=dtype, device="cpu").view(torch.int32)
        seeds = [wrapped(own["seed"]) for own in settings]
        halves = torch.tensor(seeds, dtype=torch.int64, device="cpu").view(torch.int32)
        columns[-3:-1] = halves.view(-1, 2).T
        columns[-1] = torch.tensor(steps, dtype=torch.int32, device="cpu")
        return columns

    def __call__(self, input_ids: Any, scores: torch.Tensor, arguments: torch.Tensor) -> Any:
        """Scores [requests, V] as they enter the draw, for which its parameters are laid out."""
        columns = arguments[:, : len(scores)]
        values = {
            name: columns[row] if RECORDS[name].kind is int else columns[row].view(torch.float32)
            for row, name in enumerate(PARAMETERS)
        }
        stages, _ = warpers.split(self._all, values)
        scores = warpers.run(stages, input_ids, scores)
        self.params = SamplingParams(
            **{name: value for name, value in values.items() if name not in self._staged}
        )
        self.seed = columns[-3:-1].T.contiguous().view(torch.int64)[:, 0]
        self.step = columns[-1]
        return scores


class FusedRunner(ModelRunner):
    """Draws by `sample`; a request that cannot be drawn for gets the token -1."""

    def _sample(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        rows, draw = scores[0], cast(FusedProcessors, self.logit_processor)
        logprobs = None
        own: dict[str, Any] = {"params": draw.params, "seed": draw.seed, "step": draw.step}
        if draw.samples and self.return_logprobs:
            tokens, logprobs, *_ = sample(rows, **own, validate=False, return_info=True)
        elif draw.samples:
            tokens = sample(rows, **own, validate=False)
        else:
            tokens = argmax(rows)
            if self.return_logprobs:
                drawn = tokens.clamp(min=0)[:, None]
                logprobs = rows.log_softmax(-1).gather(1, drawn)[:, 0]
        output_ids[0, : len(tokens)].copy_(tokens)
        if logprobs is not None:
            output_ids[1, : len(tokens)].copy_(logprobs.view(torch.int32))


class FusedBatchProcessor(ContinuousBatchProcessor):
    """Fails a request that cannot be drawn for, and no other."""

    def update_batch(self) -> None:
        ios: Any = self.inputs_and_outputs
        requests, tokens, logprobs = ios.prepare_batch_update()
        drawing = [request for request in requests if request.has_new_token]
        bad = [i for i, request in enumerate(drawing) if tokens[i] < 0]
        if not bad:
            super().update_batch()
            return
        for i in bad:
            state = drawing[i].state
            if state.status == RequestStatus.FINISHED:
                continue
            error = ValueError(
                f"request {state.request_id} cannot be sampled: its scores hold a NaN or +inf, or "
                "forbid every token; mend the model or the logits processors."
            )
            self._handle_request_error(error, state)
            self.scheduler.finish_request(state.request_id)
            state.status = RequestStatus.FINISHED  # a batch that is under way still holds it
        good = [i for i in range(len(drawing)) if i not in bad]
        left = (
            [request for request in requests if request not in [drawing[i] for i in bad]],
            [tokens[i] for i in good],
            None if logprobs is None else [logprobs[i] for i in good],
        )
        ios.prepare_batch_update = lambda: left
        try:
            super().update_batch()
        finally:
            del ios.prepare_batch_update


def keep_ids_valid(ios: Any) -> None:
    """Let a batch that is computed before the host has seen the last tokens read a -1 as a 0."""
    carry_over = ios.carry_over_tokens

    def carry_over_valid(input_ids: torch.Tensor, *args: Any) -> None:
        carry_over(input_ids, *args)
        input_ids.clamp_(min=0)

    ios.carry_over_tokens = carry_over_valid
