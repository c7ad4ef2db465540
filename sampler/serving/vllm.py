"""vLLM on the fused sampler: temperature, filters and the draw, in both of its model runners.

vLLM keeps its batches, its logits processors and its log-probabilities. Ours stands where vLLM
sorts for top-k and top-p and draws with noise: one call of `sample` for all rows of a step, each
with parameters, seed and step of its own. What a row draws follows from its logits, seed and step
alone, so a seeded request has the same tokens in any batch that gives it the same logits.

Methods of vLLM's classes are replaced, not the classes: other modules of vLLM have imported those
by name. What is not ours goes on to the method that was there before.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config.model import PROCESSED_LOGPROBS_MODES
from vllm.exceptions import VLLMValidationError
from vllm.logger import init_logger
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.sample import logits_processor
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor, process_dict_updates
from vllm.v1.sample.sampler import Sampler

from ..api import mask_logits, sample
from ..contract.draws import signed_word
from ..edits.history import History
from ..edits.records import NUMBERS
from ..filters import FILTERS
from ..params import RECORDS, XTC_PROBABILITY, check_number
from ..warmup import warmup

logger = init_logger("vllm.fused_sampler")  # below vLLM's own, so that its handlers show it

_GREEDY_BELOW = 1e-5  # vLLM's, and ours
_OF_VLLM = ("top_k", "top_p", "min_p")
EXTRA_FILTERS = (*(f.name for f in FILTERS if f.name not in _OF_VLLM), XTC_PROBABILITY.name)
EXTRA_DRY = tuple(name for name in NUMBERS if name.startswith("dry_"))
DRY_BREAKERS = "dry_breakers"
# What vLLM lacks: keys of the `extra_args` of its SamplingParams.
EXTRAS = (*EXTRA_FILTERS, *EXTRA_DRY, DRY_BREAKERS)
# Filters that come before top-k and top-p; vLLM has min-p before them, too.
_FIRST = "min_p_first"
_BEFORE = ("top_n_sigma", "top_h", "min_p")


def install() -> None:
    """Put the sampler in place, once in a process."""
    if logits_processor.BUILTIN_LOGITS_PROCESSORS.count(Requests):
        return
    logits_processor.BUILTIN_LOGITS_PROCESSORS.append(Requests)
    _wrap(Sampler, "sample", _sample)
    _wrap(InputProcessor, "_validate_params", _validate_params)
    _let_requests_ask_for_tokens()
    _install_v2()
    _let_vllm_look_at_llvmlite()
    logger.info("The fused sampler draws the tokens (FUSED_SAMPLER_VLLM=1).")


def _wrap(owner: Any, name: str, ours: Callable[..., Any]) -> None:
    """Replace a method by `ours`, which gets the one that was there as its first argument."""
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(functools.partial(plain, self), self, *args, **kwargs)

    setattr(owner, name, method)


# Requests: what is asked of them, and what vLLM's metadata do not tell.


def extras(params: Any) -> dict[str, Any]:
    """Those of ours among the `extra_args` of vLLM's SamplingParams, checked.

    Raises TypeError or ValueError. Other keys are other plugins'.
    """
    given = {n: v for n, v in (params.extra_args or {}).items() if n in EXTRAS and v is not None}
    for name, value in given.items():
        if name == DRY_BREAKERS:
            _check_breakers(value)
        else:
            check_number(name, value)
    return given


def _check_breakers(ids: Any) -> None:
    good = isinstance(ids, Sequence) and not isinstance(ids, str)
    if not good or not all(type(token) is int and token >= 0 for token in ids):
        raise TypeError(f"{DRY_BREAKERS} must be a list of token ids, got {ids!r}.")


def _validate_params(plain: Any, processor: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    """vLLM's check of a request, and ours: the server answers 400 where it raises."""
    result = plain(params, *args, **kwargs)
    check_request(params, processor.vllm_config)
    return result


def check_request(params: Any, config: Any) -> None:
    """Raise vLLM's error where `extra_args` are wrong, or ask for what this engine cannot do."""
    try:
        given = extras(params) if hasattr(params, "extra_args") else {}
    except (TypeError, ValueError) as error:
        raise VLLMValidationError(str(error)) from error
    if given and config.speculative_config is not None:
        raise VLLMValidationError(
            f"{next(iter(given))} does not go with speculative decoding, whose draws are vLLM's "
            "own; leave it out of extra_args."
        )
    dry = [name for name in given if name.startswith("dry_")]
    if dry and config.use_v2_model_runner:
        raise VLLMValidationError(
            f"{dry[0]} needs vLLM's V1 model runner; start it with VLLM_USE_V2_MODEL_RUNNER=0."
        )


@dataclass
class Request:
    """What one row of vLLM's batch draws with, beside temperature, top-k and top-p."""

    seed: int  # a signed word
    filters: dict[str, float]  # min_p and those of `extra_args`, where they are on
    dry: dict[str, Any]
    prompt: Sequence[int]
    output: Sequence[int]  # vLLM's own list, which grows
    min_p_first: bool = False  # it has top-p too, which in vLLM sees what min-p left
    history: History | None = field(default=None, repr=False)
    noted: int = 0  # tokens of the output that the history has

    def tokens(self, device: torch.device) -> History:
        """Prompt and output so far."""
        if self.history is None:
            self.history = History(torch.tensor([list(self.prompt)], dtype=torch.int64).to(device))
        for token in self.output[self.noted :]:
            if token < 0:  # a place that vLLM has not filled yet
                raise RuntimeError("vLLM gave no token where DRY needs one; report this version.")
            self.history.append(torch.tensor([token]))
        self.noted = len(self.output)
        return self.history


class Requests(logits_processor.LogitsProcessor):
    """The rows of vLLM's batch. As a logits processor it is told of every change, and changes none.

    A request without a seed gets one from a generator of the engine's: as in plain vLLM it repeats
    when the engine starts anew with the same seed, and all ranks of a model draw the same.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        self.rows: dict[int, Request] = {}
        self.columns: dict[str, torch.Tensor] = {}
        replica = getattr(vllm_config.parallel_config, "data_parallel_rank", 0)
        self.fresh = torch.Generator().manual_seed((vllm_config.model_config.seed or 0) + replica)
        _compile_ahead(vllm_config.model_config.get_vocab_size(), torch.device(device))

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def update_state(self, batch_update: Any) -> None:
        if process_dict_updates(self.rows, batch_update, self._request) or batch_update:
            self.columns.clear()

    def needs_tokens(self) -> bool:
        """Whether a request looks at its output, which vLLM then waits for."""
        return any(row.dry for row in self.rows.values())

    def _request(self, params: Any, prompt: Sequence[int] | None, output: Sequence[int]) -> Request:
        seed = params.seed
        if seed is None:
            seed = int(torch.randint(2**63 - 1, (), generator=self.fresh))
        given = extras(params)
        dry = {name: value for name, value in given.items() if name.startswith("dry_")}
        filters = {name: value for name, value in given.items() if name in EXTRA_FILTERS}
        if params.min_p:
            filters["min_p"] = params.min_p
        if params.temperature < _GREEDY_BELOW:  # greedy: vLLM's filters are off, and so are ours
            filters = {}
        return Request(
            signed_word("seed", seed),
            filters,
            dry if dry.get("dry_multiplier") else {},
            () if prompt is None else prompt,
            output,
            "min_p" in filters and params.top_p < 1,
        )

    def filters(self, device: torch.device) -> dict[str, torch.Tensor]:
        """A column [B] for each filter that is on in a row, and the seeds.

        And which rows, int64 [n], are to see min-p first, if any are.
        """
        if not self.columns:
            ordered = [self.rows[i] for i in range(len(self.rows))]
            named = [n for n in (*EXTRA_FILTERS, "min_p") if any(n in r.filters for r in ordered)]
            for name in named:
                record = RECORDS[name]
                values = [row.filters.get(name, record.off) for row in ordered]
                dtype = torch.int64 if record.kind is int else torch.float32
                self.columns[name] = _upload(values, dtype, device)
            self.columns["seed"] = _upload([r.seed for r in ordered], torch.int64, device)
            if first := [i for i, row in enumerate(ordered) if row.min_p_first]:
                self.columns[_FIRST] = _upload(first, torch.int64, device)
        return self.columns

    def steps(self, device: torch.device) -> torch.Tensor:
        """How many tokens each row has generated, int64 [B]."""
        counts = [len(self.rows[i].output) for i in range(len(self.rows))]
        return _upload(counts, torch.int64, device)


def _compile_ahead(vocab: int, device: torch.device) -> None:
    """The kernels of what requests ask for most, before the first of them waits."""
    row = {"temperature": 0.5, "seed": 1, "step": 0}
    sets: list[dict[str, float]] = [{}]
    if device.type != "cpu":  # whose kernels are the same for all
        sets += [{"top_k": 50}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}]
    for filters in sets:
        columns: dict[str, Any] = {
            name: torch.tensor([value], device=device) for name, value in (row | filters).items()
        }
        warmup(vocab, device=device, **columns)
    _let_vllm_look_at_llvmlite()


def _let_vllm_look_at_llvmlite() -> None:
    """Without this a CPU engine that starts after Numba was loaded, as a second one does, fails.

    vLLM asks every object of every module for its `__dict__`. llvmlite's library, which Numba
    loads, answers to any name with a function of that name; now it has something to say.
    """
    module = sys.modules.get("llvmlite.binding.ffi")
    known = getattr(getattr(module, "lib", None), "_fntab", None)
    if isinstance(known, dict):
        known.setdefault("__dict__", {})


def _upload(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    column = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type == "cpu":
        return column
    return column.pin_memory().to(device, non_blocking=True)


def _let_requests_ask_for_tokens() -> None:
    """vLLM fills in sampled tokens late; it waits for them where a flag of the batch says so."""
    from vllm.v1.worker.gpu_input_batch import InputBatch

    name = "logitsprocs_need_output_token_ids"

    def asked(batch: Any) -> bool:
        found = (p for p in batch.logitsprocs.all if isinstance(p, Requests))
        return batch.__dict__[name] or any(p.needs_tokens() for p in found)

    def keep(batch: Any, value: bool) -> None:
        batch.__dict__[name] = value

    setattr(InputBatch, name, property(asked, keep))


# V1: `vllm.v1.sample.sampler.Sampler`.


def _sample(
    plain: Any,
    sampler: Any,
    logits: torch.Tensor,
    metadata: Any,
    logprobs_mode_override: Any = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The place of `Sampler.sample`: fp32 logits [B, V] after bias, penalties, masks; tokens [B].

    With processed log-probabilities where they are asked for. vLLM's own runs in its dummy batches,
    with speculative decoding, and for a batch that is greedy throughout.
    """
    found = [p for p in metadata.logitsprocs.argmax_invariant if isinstance(p, Requests)]
    if not found:
        return plain(logits, metadata, logprobs_mode_override)
    if len(found[0].rows) != len(logits):
        logger.warning_once("A batch of other rows than its requests is drawn by vLLM's own code.")
        return plain(logits, metadata, logprobs_mode_override)
    requests = found[0]
    _apply_dry(logits, requests)
    if metadata.all_greedy:
        return plain(logits, metadata, logprobs_mode_override)
    custom = _custom(metadata)
    greedy = sampler.greedy_sample(logits) if custom and not metadata.all_random else None
    logits, values = _prepare(sampler, logits, metadata, requests, custom)
    seed = values.pop("seed")
    draw = {"seed": seed, "step": requests.steps(logits.device), "validate": False}
    tokens = _mended(sampler, logits, sample(logits, **values, **draw), custom)
    if greedy is not None:
        tokens = torch.where(metadata.temperature < _GREEDY_BELOW, greedy.long(), tokens)
    mode = logprobs_mode_override or sampler.logprobs_mode
    return tokens, _processed(sampler, logits, metadata, values, draw, mode)


def _custom(metadata: Any) -> bool:
    """Whether there are other processors of the divided logits than min-p."""
    known = (Requests, MinPLogitsProcessor)
    return any(type(p) not in known for p in metadata.logitsprocs.argmax_invariant)


def _mended(sampler: Any, logits: torch.Tensor, tokens: torch.Tensor, custom: bool) -> torch.Tensor:
    """A row with NaN, +inf or nothing but -inf is vLLM's, which gives it a token too.

    On a GPU nobody waits to know whether there is one: where only the model can have made it, its
    token is 0.
    """
    invalid = int(tokens.min()) < 0 if tokens.device.type == "cpu" else custom
    if invalid:
        tokens = torch.where(tokens < 0, sampler.greedy_sample(logits).long(), tokens)
    return tokens.clamp(min=0)


def _apply_dry(logits: torch.Tensor, requests: Requests) -> None:
    """DRY after all of vLLM's penalties, on the rows that ask for it, greedy ones too."""
    for row, request in requests.rows.items():
        if request.dry:
            history = request.tokens(logits.device)
            own = logits[row : row + 1]
            own.copy_(mask_logits(own, **request.dry, history=history, validate=False))


def _prepare(
    sampler: Any, logits: torch.Tensor, metadata: Any, requests: Requests, custom: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The logits to draw from, and the parameters of the draw by row, seeds among them."""
    values: dict[str, Any] = dict(requests.filters(logits.device))
    values |= {"top_k": metadata.top_k, "top_p": metadata.top_p}
    values["temperature"] = metadata.temperature
    first = values.pop(_FIRST, None)
    if custom:  # they see the divided logits, and min-p where vLLM has it
        logits = sampler.apply_temperature(logits, metadata.temperature, metadata.all_random)
        for processor in metadata.logitsprocs.argmax_invariant:
            logits = processor.apply(logits)
        values.pop("min_p", None)
        values["temperature"] = None
        return logits, values
    if first is not None:
        _min_p_first(logits, values, first)
    return logits, values


def _min_p_first(logits: torch.Tensor, values: dict[str, Any], rows: torch.Tensor) -> None:
    """Where a row has both, vLLM lets top-p see what min-p left; ours is the other way round.

    Those rows are filtered by min-p in a call of its own, together with what comes before top-k.
    """
    head = {name: values[name] for name in ("temperature", *_BEFORE) if name in values}
    own = {name: column[rows] for name, column in head.items()}
    logits[rows] = mask_logits(logits[rows], **own, validate=False)
    for name, column in head.items():
        values[name] = column.index_fill(0, rows, RECORDS[name].off)


def _processed(
    sampler: Any,
    logits: torch.Tensor,
    metadata: Any,
    values: Mapping[str, Any],
    draw: Mapping[str, Any],
    mode: str,
) -> torch.Tensor | None:
    """Log-probabilities or logits of what is left of each row, in vLLM's processed modes.

    As vLLM has it, a greedy row keeps all of its tokens at temperature 1.
    """
    asked = metadata.max_num_logprobs is not None or metadata.logprob_token_ids
    if mode not in PROCESSED_LOGPROBS_MODES or not asked:
        return None
    temperature = values["temperature"]
    if temperature is not None:
        temperature = torch.where(temperature < _GREEDY_BELOW, 1.0, temperature)
    kept = mask_logits(logits, **{**values, "temperature": temperature}, **draw)
    return kept if mode == "processed_logits" else sampler.compute_logprobs(kept)


# V2: `vllm.v1.worker.gpu.sample.sampler.Sampler`, which divides by temperature and applies min-p
# before it draws.


def _install_v2() -> None:
    from vllm.v1.worker.gpu.sample.sampler import Sampler as SamplerV2

    _wrap(SamplerV2, "add_request", _add_request_v2)
    _wrap(SamplerV2, "_sample_random", _sample_v2)


def _add_request_v2(plain: Any, sampler: Any, index: int, params: Any) -> None:
    plain(index, params)
    greedy = params.temperature < _GREEDY_BELOW
    kept = sampler.__dict__.setdefault("fused_filters", {})
    kept[index] = {} if greedy else {n: v for n, v in extras(params).items() if n in EXTRA_FILTERS}


def _sample_v2(
    plain: Any,
    sampler: Any,
    logits: torch.Tensor,
    expanded: torch.Tensor,
    indices: Any,
    position: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    use_fused_sampler: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The place of `_sample_random`: tokens [B], and the logits that the filters left.

    With draft tokens, several positions a request, vLLM's own runs.
    """
    if len(expanded) != len(indices):
        return plain(logits, expanded, indices, position, top_k, top_p, use_fused_sampler)
    values: dict[str, Any] = {"top_k": top_k, "top_p": top_p}
    own = [sampler.__dict__.get("fused_filters", {}).get(int(i), {}) for i in indices]
    for name in EXTRA_FILTERS:
        if any(name in filters for filters in own):
            column = [filters.get(name, RECORDS[name].off) for filters in own]
            values[name] = _upload(column, torch.float32, logits.device)
    states, rows = sampler.sampling_states, expanded.long()
    greedy = states.temperature.gpu[rows] == 0.0
    step = position.long() + 1 - sampler.req_states.prompt_len.gpu[rows].long()
    draw = {"seed": states.seeds.gpu[rows], "step": step.clamp(min=0), "validate": False}
    tokens = sample(logits, (~greedy).float(), **values, **draw).clamp(min=0)
    if sampler.logprobs_mode in PROCESSED_LOGPROBS_MODES or sampler.return_sampling_mask:
        logits = mask_logits(logits, **values, **draw)
    return tokens, logits
