"""Continuous batching on the fused sampler: `generate_batch`, and `transformers serve` with it.

transformers' manager keeps its scheduler, cache, CUDA graphs and compiled passes. Ours differs in
what lies between logits and token: one call of `sample` for all requests of a step, each with
parameters, seed and step of its own, in the place of two sorts, a softmax and a multinomial.

Needs transformers 5.20 or newer; the tests ran with each minor version up to 5.24.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
)
from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingAsyncIOs
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.requests import (
    RequestState,
    RequestStatus,
    logger,
)

from ..api import mask_logits, sample
from ..contract.draws import signed_word
from ..params import (
    PARAMETERS,
    RECORDS,
    TEMPERATURE,
    TEMPERATURE_LAST,
    SamplingParams,
    check_names,
    check_number,
    is_on,
)
from . import warpers
from .call import SEED_GAP, own_settings
from .loop import argmax
from .processors import OWN as OWN_EDITS
from .processors import is_on as edit_is_on
from .protocol import warn_caller

_OWN = tuple(name for name in warpers.OWN if name in PARAMETERS)
# Those of a bound that follows the text, as no request's can.
_FOLLOWING = tuple(name for name in warpers.OWN if name not in PARAMETERS)
_REFUSED = _FOLLOWING + OWN_EDITS
OF_REQUESTS = ("seed", *PARAMETERS, *_REFUSED)

# Rows of transformers' int32 tensor of arguments, a column a request: the parameters, then the two
# halves of the seed, then the step.
_ROWS = len(PARAMETERS) + 3
_LARGEST = {int: 2**31 - 1, float: torch.finfo(torch.float32).max}
_CHILD = re.compile(r"__child#(\d+)$")  # transformers' name for a prompt's further sequences

# What transformers' own warpers of requests ignore, with a warning.
_IGNORED = ("filter_value", "min_tokens_to_keep")

_OF_MANAGERS = (
    "max_new_tokens",
    "eos_token_id",
    "pad_token_id",
    "do_sample",
    "num_return_sequences",
    "continuous_batching_config",
)

# What `add_request` takes beside sampling parameters.
_OF_ADD_REQUEST = inspect.signature(ContinuousBatchingManager.add_request).parameters


def is_fused(manager: Any) -> bool:
    return isinstance(manager, FusedManager)


def without_processors(config: GenerationConfig) -> GenerationConfig:
    """All of a configuration that a manager reads itself, without what makes processors."""
    plain = GenerationConfig()
    for name in _OF_MANAGERS:
        if hasattr(config, name):
            setattr(plain, name, getattr(config, name))
    return plain


def fuse(manager: Any, config: GenerationConfig) -> FusedManager:
    """Let a manager that was made `without_processors` draw with `sample`, by the whole `config`.

    It keeps the configuration that it was made with: the processors are ours.
    """
    batching = manager.continuous_batching_config
    ranks = manager.distributed_helper
    manager.__class__ = FusedManager
    manager.logit_processor = FusedProcessors(
        manager.model, config, manager.num_return_sequences, batching.drop_unsupported_processors
    )
    seed = batching.seed if batching.seed is not None else getattr(config, "seed", None)
    manager._seeds = (
        None if seed is None else torch.Generator("cpu").manual_seed(seed + ranks.dp_rank)
    )
    # It would seed PyTorch's default generator, in the thread of the loop, at any time between two
    # requests that take their seeds from there.
    ranks.set_tp_seed = lambda seed, model_device: None
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
    batch: those between are the seeds of its further sequences. Raises TypeError or ValueError.
    """
    _refuse({name: settings.get(name) for name in OWN_EDITS})  # their values may be lists
    requests: list[dict[str, Any]] = [{} for _ in inputs]
    for name, given in settings.items():
        if name in OWN_EDITS:
            continue
        if isinstance(given, torch.Tensor):  # of one element: a number, as in `sample`
            given = given.item() if given.numel() == 1 else given.tolist()
        values = given
        if isinstance(given, str) or not isinstance(given, Sequence):
            values = [given] * len(inputs)
            if name == "seed" and given is not None:
                first = signed_word(name, given)  # type: ignore[arg-type]  # it checks
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

    logit_processor: FusedProcessors
    _seeds: torch.Generator | None  # of the seed in its configuration; None: PyTorch's default

    def add_request(self, input_ids: Any, *args: Any, **kwargs: Any) -> str | None:
        """As transformers', and: `seed`, else one from the generator; the sampling parameters.

        Raises TypeError or ValueError for a parameter of the wrong kind or out of range.
        """
        if not self.is_tp_driver:  # it gets the requests of the one that is, seeds included
            return None
        settings = {name: kwargs.pop(name) for name in [*kwargs] if name not in _OF_ADD_REQUEST}
        if not self.logit_processor.samples:
            warn_of_greedy(settings)
        settings |= getattr(input_ids, "settings", {})
        settings = {name: value for name, value in settings.items() if value is not None}
        self.logit_processor.check_kwargs(settings)
        settings = {name: value for name, value in settings.items() if name not in _REFUSED}
        if "seed" not in settings:
            fresh = torch.randint(2**63 - 1, (), generator=self._seeds, device="cpu")
            settings["seed"] = int(fresh)
        settings["seed"] = signed_word("seed", settings["seed"])  # Python's, which may be added to
        return super().add_request(input_ids, *args, **kwargs | settings)

    def add_requests(self, inputs: Any, *args: Any, **kwargs: Any) -> list[str]:
        """As transformers', with parameters and seeds as numbers or with one a prompt."""
        own = {name: kwargs.pop(name) for name in OF_REQUESTS if name in kwargs}
        if own:
            inputs = with_settings(inputs, own, self.num_return_sequences)
        return super().add_requests(inputs, *args, **kwargs)

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        processor = super()._create_batch_processor()
        if not isinstance(processor, FusedBatchProcessor):
            processor.__class__ = FusedBatchProcessor
            processor.model_runner.__class__ = FusedRunner
            if isinstance(processor.inputs_and_outputs, ContinuousBatchingAsyncIOs):
                processor.inputs_and_outputs.__class__ = FusedAsyncIOs
        return processor


def warn_of_greedy(settings: dict[str, Any]) -> None:
    """Tell of what greedy decoding does not need: as `Call.close`, which batches have none of."""
    given = {"seed": settings.get("seed") is not None}
    given |= {name: is_on(name, settings.get(name)) for name in _OWN}
    if name := next((name for name, found in given.items() if found), None):
        warn_caller(f"{name} was given, but greedy decoding draws nothing")


def check_settings(settings: dict[str, Any]) -> None:
    """Raise for a parameter or seed of a request that is of the wrong kind or out of range."""
    values = {name: value for name, value in settings.items() if value is not None}
    _refuse(values)
    values = {name: value for name, value in values.items() if name not in _REFUSED}
    if "seed" in values:
        signed_word("seed", values.pop("seed"))
    check_names(None, values)
    for name, value in values.items():
        check_number(name, value)


def _refuse(settings: dict[str, Any]) -> None:
    """Raise ValueError for what `generate` alone serves."""
    for name in _FOLLOWING:
        if is_on(name, settings.get(name)):
            raise ValueError(
                f"{name} follows a text from token to token, which continuous batching does not; "
                "leave it out, or call generate."
            )
    for name in OWN_EDITS:
        if edit_is_on(name, settings.get(name)):
            raise ValueError(
                f"{name} is an edit of a request's logits, and continuous batching has none; leave "
                "it out, or call generate."
            )


class FusedProcessors(ContinuousBatchingLogitsProcessorList):
    """The processors that stay, and the parameters of the draw, which follow each request."""

    def __init__(
        self, model: Any, config: GenerationConfig, sequences: int, drop_unsupported: bool
    ) -> None:
        def processors(names: Sequence[Any] = ()) -> LogitsProcessorList:
            """Those of the configuration, with a warper for each of these parameters."""
            changed = copy.copy(config)
            for name in names:
                setattr(changed, name, warpers.PLACEHOLDERS[name])
            return model._get_logits_processor(changed)

        own: dict[str | None, float] = {
            warpers.fused_name(p): warpers.fused_value(p) for p in processors() if _fused(p)
        }
        if config.temperature is not None:  # near 0 too, where `generate` divides
            own["temperature"] = config.temperature
        others = own_settings(config)
        check_settings(others)
        own.update({name: others[name] for name in _OWN if others[name] is not None})
        self._defaults = {name: own.get(name, r.kind(r.off)) for name, r in RECORDS.items()}

        # What is no warper of ours by its kind or its other attributes stays, with its own value.
        replaced = [warpers.fused_name(p) for p in processors([*warpers.PLACEHOLDERS]) if _fused(p)]
        placed = processors(replaced)
        kept = [p for p in placed if not _fused(p)]
        super().__init__(
            LogitsProcessorList(kept), drop_unsupported_processors=drop_unsupported
        )  # says which of them it drops
        stages, drawn = warpers.split(p for p in placed if _fused(p) or p in self.logits_processor)
        self._stages = [_names_in(s) if isinstance(s, SamplingParams) else s for s in stages]
        last = _OWN if config.do_sample else ()
        self._names = [*replaced, *last]
        self._drawn = [*_names_in(drawn), *last]
        self._sequences = sequences
        self.samples = bool(config.do_sample)
        self.tensors_required = _ROWS
        self.do_processing = True  # or the draw would not see its arguments, as below
        self.draw: dict[str, Any] = {}  # arguments of `sample` for the step under way

    def check_kwargs(self, kwargs: dict) -> None:
        """Raise for a request's parameter that is none, is out of range, or has no effect."""
        known = {name: value for name, value in kwargs.items() if name not in _IGNORED}
        if known != kwargs:
            logger.warning(f"Ignored of a request: {', '.join(kwargs.keys() - known.keys())}.")
        check_settings(known)
        effective = ("seed", *_REFUSED, *self._names)
        if lost := self.samples and [name for name in known if name not in effective]:
            raise ValueError(
                f"{lost[0]} of a request has no effect, for the generation config asks for a "
                f"warper of {lost[0]} that the fused sampler does not replace; set it there."
            )

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.copy_(self._columns([{**self._defaults, "seed": 0}], [0]))

    def prepare_tensor_args(self, requests_in_batch: list, arg_storage: torch.Tensor) -> Any:
        """A column for each request that gets a token: what it asked for, and its step."""
        states = [request.state for request in requests_in_batch if request.has_new_token]
        settings = [{**self._defaults, "seed": 0, **s.logit_processor_kwargs} for s in states]
        if self._sequences > 1:
            for state, own in zip(states, settings, strict=True):
                if child := _CHILD.search(str(state.request_id)):
                    own["seed"] += (int(child[1]) + 1) * SEED_GAP
        # The position is that of the token to come.
        steps = [state.position_offset - _prompt_length(state) for state in states]
        columns = self._columns(settings, steps)
        arg_storage[:, : len(states)] = columns.to(arg_storage.device)
        return arg_storage

    @staticmethod
    def _columns(settings: list[dict[str, Any]], steps: list[int]) -> torch.Tensor:
        """int32 [_ROWS, requests]; floats and seeds by their bits."""
        columns = torch.empty(_ROWS, len(settings), dtype=torch.int32, device="cpu")
        for row, name in enumerate(PARAMETERS):
            kind = RECORDS[name].kind
            values = [min(own[name], _LARGEST.get(kind, 1)) for own in settings]
            dtype = torch.float32 if kind is float else torch.int32
            columns[row] = torch.tensor(values, dtype=dtype, device="cpu").view(torch.int32)
        seeds = [wrapped(own["seed"]) for own in settings]
        halves = torch.tensor(seeds, dtype=torch.int64, device="cpu").view(torch.int32)
        columns[-3:-1] = halves.view(-1, 2).T
        columns[-1] = torch.tensor(steps, dtype=torch.int32, device="cpu")
        return columns

    def __call__(self, input_ids: Any, scores: torch.Tensor, arguments: torch.Tensor) -> Any:
        """Scores [requests, V] as they enter the draw, whose arguments are laid out beside them.

        Rows without a request have the arguments of an earlier one, and nobody looks at their
        tokens.
        """
        columns = arguments[:, : len(scores)]
        values: dict[str, Any] = {
            name: _read_column(columns[row], RECORDS[name].kind)
            for row, name in enumerate(PARAMETERS)
        }
        late = {}  # the temperature of rows that divide behind all that stays
        if self.samples and TEMPERATURE.name not in self._drawn:
            first, late[TEMPERATURE.name] = warpers.apart(
                values[TEMPERATURE.name], values[TEMPERATURE_LAST.name]
            )
            values[TEMPERATURE.name] = first
        for stage in self._stages:
            if isinstance(stage, LogitsProcessorList):
                for processor in stage:
                    scores = processor(input_ids, scores)
                scores = scores.to(torch.float32)
            else:
                own = {name: values[name] for name in stage}
                scores = mask_logits(scores, validate=False, **own)
        self.draw = {name: values[name] for name in self._drawn} | late
        self.draw["seed"] = columns[-3:-1].T.contiguous().view(torch.int64)[:, 0]
        self.draw["step"] = columns[-1]
        return scores


def _read_column(column: torch.Tensor, kind: type) -> torch.Tensor:
    if kind is float:
        return column.view(torch.float32)
    return column if kind is int else column > 0


def _fused(processor: Any) -> bool:
    return warpers.fused_name(processor) is not None


def _names_in(params: SamplingParams) -> list[str]:
    """The parameters that are on."""
    return [name for name, value in vars(params).items() if value != RECORDS[name].off]


def _prompt_length(state: RequestState) -> int:
    """Without the new tokens that are part of it once a request had to leave the cache."""
    return state._true_initial_tokens or len(state.initial_tokens)


class FusedRunner(ModelRunner):
    """Draws by `sample`; a request that cannot be drawn for gets the token -1."""

    logit_processor: FusedProcessors

    def _sample(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        rows, logprobs = scores[0], None
        if not self.do_sample:
            tokens = argmax(rows)
            if self.return_logprobs:
                best = tokens.clamp(min=0)[:, None]
                logprobs = rows.log_softmax(-1).gather(1, best)[:, 0]
        elif self.return_logprobs:
            drawn = sample(rows, **self.logit_processor.draw, validate=False, return_info=True)
            tokens, logprobs = drawn.tokens, drawn.logprobs
        else:
            tokens = sample(rows, **self.logit_processor.draw, validate=False)
        output_ids[0, : len(tokens)].copy_(tokens)
        if logprobs is not None:  # their bits
            output_ids[1, : len(tokens)].copy_(logprobs.view(torch.int32))


class FusedBatchProcessor(ContinuousBatchProcessor):
    """Fails a request that cannot be drawn for, and no other."""

    def update_batch(self) -> None:
        ios: Any = self.inputs_and_outputs
        requests, tokens, logprobs = ios.prepare_batch_update()
        drawn = [request for request in requests if request.has_new_token]
        invalid = {i for i in range(len(drawn)) if tokens[i] < 0}
        if not invalid:
            super().update_batch()
            return
        for i in invalid:
            self._fail(drawn[i].state)
        valid = [i for i in range(len(drawn)) if i not in invalid]
        left = (
            [request for request in requests if request not in [drawn[i] for i in invalid]],
            [tokens[i] for i in valid],
            None if logprobs is None else [logprobs[i] for i in valid],
        )
        ios.prepare_batch_update = lambda: left
        try:
            super().update_batch()
        finally:
            del ios.prepare_batch_update

    def _fail(self, state: RequestState) -> None:
        if self.scheduler.active_requests.get(state.request_id) is not state:
            return  # has failed, was cancelled, or had to leave the cache and will draw this again
        position = len(state.initial_tokens) + len(state.generated_tokens) - _prompt_length(state)
        error = ValueError(
            f"request {state.request_id} cannot be sampled at new token {position}: its scores "
            "hold a NaN or +inf, or forbid every token; mend the model or the logits processors, "
            "or set remove_invalid_values=True to replace NaN and inf."
        )
        self._handle_request_error(error, state)
        self.scheduler.finish_request(state.request_id)
        self.scheduler.block_new_requests = False  # there is room, as after any that ends
        state.status = RequestStatus.FINISHED  # a batch that is under way still holds it


class FusedAsyncIOs(ContinuousBatchingAsyncIOs):
    """Batches that are computed before the host has seen the tokens of the last one."""

    def carry_over_tokens(self, input_ids: torch.Tensor, *args: Any) -> None:
        super().carry_over_tokens(input_ids, *args)
        input_ids.clamp_(min=0)  # no model has an embedding of -1
