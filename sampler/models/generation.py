"""A model's own generation config: what of it applies to a draw, and what the commands leave out.

The commands draw tokens one by one, with the temperature and the filters that their options name.
All else that the config says of the next token applies as transformers' own `generate` applies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
    StopStringCriteria,
)

from ..hf import warpers
from .errors import ModelError, brief
from .load import LoadedModel
from .quiet import quiet_transformers
from .vocabulary import forbid_unspelled

# What changes the scores of a token.
_APPLIED = (
    "guidance_scale",
    "sequence_bias",
    "encoder_repetition_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "watermarking_config",
    "renormalize_logits",
)
# What matters to the end of a text.
_ENDING = ("forced_eos_token_id", "max_time", "stop_strings")
# Other ways of decoding, other outputs, another prompt, caches that need hardware or packages of
# their own; and the value that switches each off.
_OFF = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "constraints": None,
    "force_words_ids": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": None,
    "is_assistant": False,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "token_healing": False,
    "cache_implementation": None,
    "cache_config": None,
    "prefill_chunk_size": None,
}
_COUNTED = {
    "sequence_bias": "sequence",
    "bad_words_ids": "sequence",
    "suppress_tokens": "id",
    "begin_suppress_tokens": "id",
}


def applied_settings(
    loaded: LoadedModel, to_the_end: bool, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The config's settings that are on and apply: to a next token, or to a text `to_the_end`.

    Where another value is `given`, that takes the place of the config's own.
    """
    names = _APPLIED + _ENDING * to_the_end
    defaults = _defaults()
    found = _values(loaded, names)
    own = {name: value for name, value in found.items() if (given or {}).get(name, value) == value}
    return {name: value for name, value in own.items() if value and value != defaults[name]}


def _defaults() -> dict[str, Any]:
    """What transformers takes where a config is silent; version 4 sets it in every config."""
    more: dict[str, Any] = getattr(GenerationConfig, "_get_default_generation_params", dict)()
    return vars(GenerationConfig()) | more


def _values(loaded: LoadedModel, names: Iterable[str]) -> dict[str, Any]:
    """What the config says of those that this version of transformers knows."""
    known = vars(GenerationConfig())
    config = loaded.model.generation_config
    return {name: getattr(config, name, None) for name in names if name in known}


def unused_settings(loaded: LoadedModel, to_the_end: bool) -> dict[str, Any]:
    """The config's settings that are on and do not apply.

    A forced last token is one where no text is generated `to_the_end`: it comes with a length.
    """
    off = _OFF if to_the_end else {**_OFF, "forced_eos_token_id": None}
    found = _values(loaded, off)
    return {name: value for name, value in found.items() if value not in (None, off[name])}


def config_notes(
    loaded: LoadedModel, to_the_end: bool, given: Mapping[str, Any] | None = None
) -> list[str]:
    """What a user is told of the config: nothing where it has none of these settings."""
    applied = applied_settings(loaded, to_the_end, given)
    unused = unused_settings(loaded, to_the_end)
    notes = []
    if applied:
        notes.append(f"the model's generation config applies {_listed(applied)}")
    if unused:
        notes.append(f"left out of the model's generation config: {_listed(unused)}")
    return notes


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(_told(name, value) for name, value in settings.items())


def _told(name: str, value: Any) -> str:
    if name in _COUNTED:
        return f"{name} ({len(value)} {_COUNTED[name]}{'s' * (len(value) != 1)})"
    if value is True or not isinstance(value, (int, float, str, list)):
        return name
    return f"{name} {value}"


def generate_arguments(
    loaded: LoadedModel, drawing: dict[str, Any], to_the_end: bool
) -> dict[str, Any]:
    """What `generate` is called with: `drawing` (`do_sample` and parameters), and what is off.

    `stop_strings` are off as well: they are `stopping_criteria` of their own, with a tokenizer.
    """
    off = {name: _OFF.get(name) for name in unused_settings(loaded, to_the_end)}
    return {**off, "stop_strings": None, **drawing}


def next_processors(
    loaded: LoadedModel, inputs: dict[str, torch.Tensor], drawing: dict[str, Any]
) -> tuple[LogitsProcessorList, LogitsProcessorList]:
    """The processors that `generate` runs with the arguments `inputs`, by the config and `drawing`.

    Those up to the one that forbids what cannot be spelled, and those from the temperature on. A
    parameter of `drawing` that transformers does not know has none.
    Raises `ModelError` where the config's values make no processor.
    """
    spelled_only = SpelledOnly(loaded.tokenizer)
    known = {name: value for name, value in drawing.items() if name not in warpers.OWN}
    with quiet_transformers(), using_config(loaded):
        processors = loaded.model.generate(
            **inputs,
            **generate_arguments(loaded, known, to_the_end=False),
            max_new_tokens=1,
            logits_processor=LogitsProcessorList([spelled_only]),
            custom_generate=_processors_alone,
        )
    end = processors.index(spelled_only) + 1
    return LogitsProcessorList(processors[:end]), LogitsProcessorList(processors[end:])


def _processors_alone(
    model: Any, input_ids: torch.Tensor, logits_processor: LogitsProcessorList, **others: Any
) -> Any:
    """A decoding loop that decodes nothing, for `generate` to prepare its processors for."""
    return logits_processor


def apply_processors(
    loaded: LoadedModel,
    processors: LogitsProcessorList,
    input_ids: Any,
    scores: Any,
) -> torch.Tensor:
    """Scores fp32 [1, V] after int64 ids [1, S]; those that were given may be written to.

    Raises `ModelError` where a processor fails, or forbids every token.
    """
    had_some = bool((scores != -torch.inf).any())
    with torch.inference_mode(), quiet_transformers(), using_config(loaded):
        scores = processors(input_ids, scores).to(torch.float32)
        if had_some and not (scores != -torch.inf).any():
            raise ValueError("it forbids every token")
    return scores


@contextmanager
def using_config(
    loaded: LoadedModel, blamed: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Iterator[None]:
    """Where an error of these kinds means that a value of the config is wrong."""
    try:
        yield
    except blamed as error:
        raise _unusable(loaded, brief(error)) from error


def _unusable(loaded: LoadedModel, reason: str) -> ModelError:
    return ModelError(
        f"the generation config of {loaded.name} cannot be used ({reason}); "
        "mend its generation_config.json"
    )


def stopping_criteria(loaded: LoadedModel, texts: Sequence[str]) -> StoppingCriteriaList:
    """Ends a text at the token with which one of `texts`, or of the config's own, is complete.

    Raises ValueError where the tokenizer writes none of them.
    """
    own = getattr(loaded.model.generation_config, "stop_strings", None) or []
    own = [own] if isinstance(own, str) else own
    if not isinstance(own, list) or not all(isinstance(text, str) for text in own):
        raise _unusable(loaded, f"stop_strings is {own!r}, no text or list of texts")
    wanted = [text for text in (*own, *texts) if text]
    if not wanted:
        return StoppingCriteriaList()
    try:
        return StoppingCriteriaList([StopStringCriteria(loaded.tokenizer, wanted)])
    except ValueError as error:
        listed = ", ".join(map(repr, wanted))
        raise ValueError(
            f"no token of {loaded.name} could end {listed}; give another text to stop at"
        ) from error


def is_ended(loaded: LoadedModel, input_ids: torch.Tensor) -> bool:
    """Whether `generate` would end a text after these ids, int64 [1, S], by what its config says.

    That is by an end token or one of its `stop_strings`; a time limit is left out.
    """
    criteria = stopping_criteria(loaded, ())
    ends = loaded.model.generation_config.eos_token_id
    if ends is not None:
        criteria.append(EosTokenCriteria(ends))
    return bool(criteria(input_ids, None).any())


class SpelledOnly(LogitsProcessor):
    """Forbids the ids that the tokenizer cannot spell."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return forbid_unspelled(scores, self.tokenizer)
