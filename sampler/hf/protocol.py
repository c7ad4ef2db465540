"""What a decoding loop and a Hugging Face model say to each other, in transformers 4.57 and 5.

These are the methods that transformers' documentation of custom decoding loops tells a loop to
call. Their shape differs between versions; nothing else in the package knows about that.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from types import CodeType
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.utils import (
    ALL_CACHE_NAMES,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    GenerateNonBeamOutput,
)

_BETWEEN = ("fused_sampler", "transformers", "torch", "contextlib")
_PREPARE = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
_GENERATE_CODE = inspect.unwrap(GenerationMixin.generate).__code__
# `past_key_values` up to 5.23
_CACHE = next(f.name for f in fields(GenerateDecoderOnlyOutput) if f.name in ALL_CACHE_NAMES)


def prefill(
    model: Any,
    input_ids: torch.Tensor,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """The model's outputs for the whole prompt, in chunks if the configuration says so."""
    if hasattr(model, "_prefill"):  # 5.x
        return model._prefill(input_ids, generation_config, model_kwargs), model_kwargs
    model_kwargs = model._get_initial_cache_position(
        input_ids.shape[1], input_ids.device, model_kwargs
    )
    if generation_config.prefill_chunk_size is not None:  # leaves the last token to us
        model_kwargs = model._prefill_chunking(input_ids, generation_config, **model_kwargs)
    inputs = model.prepare_inputs_for_generation(input_ids, **model_kwargs)
    return model(**inputs, return_dict=True), model_kwargs


def decode_inputs(model: Any, input_ids: torch.Tensor, model_kwargs: dict[str, Any]) -> dict:
    """The model's inputs for one more token."""
    if "next_sequence_length" not in _PREPARE:  # up to 5.2 `cache_position` says what is new
        return model.prepare_inputs_for_generation(input_ids, **model_kwargs)
    new_tokens = 1 if model_kwargs["use_cache"] else None
    return model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=new_tokens, **model_kwargs
    )


def decode_forward(
    model: Any, generation_config: GenerationConfig, model_kwargs: dict[str, Any]
) -> Callable[..., Any]:
    """The model's forward pass for one token: compiled where transformers would compile it."""
    if model._valid_auto_compile_criteria(model_kwargs, generation_config):
        return model.get_compiled_call(generation_config.compile_config)
    return model


def decode_mode(model: Any) -> AbstractContextManager:
    """Where transformers 5 swaps in what is faster for one token than for many."""
    return getattr(model, "_optimize_model_for_decode", nullcontext)()


def lost_arguments(model: Any) -> dict[str, Any]:
    """`streamer`, `synced_gpus` and `assistant_model` as given to `generate`, unless None.

    `generate` swallows these three when `custom_generate` is a callable: it rebuilds the keyword
    arguments of the decoding method from the callable's own (4.57 to 5.24). A streamer that never
    ends hangs its reader, so they are read where they still are, in the frame of the `generate`
    that called us, be it through functions of the caller's own.
    """
    given = _locals_of_caller(model, lambda code: code is _GENERATE_CODE)
    if given is None:
        return {}
    return model._extract_generation_mode_kwargs(
        None, {}, given["synced_gpus"], given["assistant_model"], given["streamer"]
    )


def places_in_outer_call(model: Any) -> list[int] | None:
    """Which rows of the outer `generate` call are left in this one; None where all of them are.

    Whisper decodes a long recording piece by piece, without those that have ended, and decodes
    pieces that came out badly once more. Only its own loop knows which rows these are.
    """
    given = _locals_of_caller(model, lambda code: code.co_name == "generate_with_fallback")
    if given is None:
        return None
    return [given["batch_idx_map"][i] for i in given["fallback_index_map"]]


def _locals_of_caller(model: Any, is_wanted: Callable[[CodeType], bool]) -> dict[str, Any] | None:
    """The local variables of the nearest method of `model` that is wanted, up the call stack."""
    frame = inspect.currentframe()
    while frame := frame and frame.f_back:
        if is_wanted(frame.f_code) and frame.f_locals.get("self") is model:
            return frame.f_locals
    return None


def warn_caller(message: str) -> None:
    """A warning at the caller's line, however many of transformers' decorators lie between."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals["__name__"].partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def codebooks(model: Any) -> int:
    """How many rows an audio model decodes one sequence in: one for each codebook."""
    config = model.config
    decoder = getattr(config, "decoder", None) or config
    count = getattr(decoder, "num_codebooks", None)
    if count is None:  # Dia
        count = getattr(getattr(config, "decoder_config", None), "num_channels", None)
    return count or 1


def shared_by_ranks(model: Any, seed: torch.Tensor) -> torch.Tensor:
    """The seed of the first of the ranks that compute the same rows with parts of one model.

    Ranks that hold other rows, as under FSDP and in data parallelism, keep seeds of their own.
    """
    mesh = getattr(model, "_device_mesh", None)
    if mesh is None:
        return seed
    shared = [name for name in ("pp", "tp") if name in (mesh.mesh_dim_names or ())]
    # A mesh without names is one of tensor parallelism.
    for part in [mesh[name] for name in shared] if mesh.mesh_dim_names else [mesh]:
        if part.size() > 1:
            seed = seed.to(part.device_type)  # NCCL sends nothing from the CPU
            torch.distributed.broadcast(seed, group=part.get_group(), group_src=0)
    return seed.cpu()


class Record:
    """What `return_dict_in_generate` asks to keep of every step."""

    def __init__(self, generation_config: GenerationConfig, is_encoder_decoder: bool):
        prefix = "decoder_" if is_encoder_decoder else ""
        attentions, states = (
            generation_config.output_attentions,
            generation_config.output_hidden_states,
        )
        wanted = {
            "scores": generation_config.output_scores,
            "logits": generation_config.output_logits,
            prefix + "attentions": attentions,
            "cross_attentions": attentions and is_encoder_decoder,
            prefix + "hidden_states": states,
        }
        self._returns_dict = generation_config.return_dict_in_generate
        self._encoder = {"attentions": attentions, "hidden_states": states}
        self._is_encoder_decoder = is_encoder_decoder
        self._kept: dict[str, tuple] = {
            name: () for name, value in wanted.items() if value and self._returns_dict
        }

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    @property
    def scores(self) -> tuple | None:
        return self._kept.get("scores")

    def add(self, outputs: Any, logits: torch.Tensor, scores: torch.Tensor) -> None:
        """Keep one step: the model's outputs, its next-token logits and what became of them."""
        ours = {"logits": logits, "scores": scores}
        for name in self._kept:
            self._kept[name] += (ours[name] if name in ours else getattr(outputs, name),)

    def result(
        self, sequences: torch.Tensor, model_kwargs: dict[str, Any]
    ) -> GenerateNonBeamOutput | torch.Tensor:
        """What `generate` returns: the sequences alone, or with everything that was kept."""
        if not self._returns_dict:
            return sequences
        names = ALL_CACHE_NAMES if hasattr(GenerationMixin, "_prefill") else [_CACHE]  # 5.x, 4.57
        caches = (model_kwargs[name] for name in names if name in model_kwargs)
        output: dict[str, Any] = {
            "sequences": sequences,
            _CACHE: next(caches, None),
            **self._kept,
        }
        if not self._is_encoder_decoder:
            return GenerateDecoderOnlyOutput(**output)
        for name, wanted in self._encoder.items():
            if wanted:
                output[f"encoder_{name}"] = model_kwargs["encoder_outputs"].get(name)
        return GenerateEncoderDecoderOutput(**output)
