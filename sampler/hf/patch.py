"""Plain `model.generate(...)` on the fused sampler, for one model object at a time.

A patched model gets a class of its own, derived from the one it had (as
`torch.nn.utils.parametrize` does): `isinstance`, the class name, parameters and attributes stay as
they are, and taking the patch off is putting the old class back. The new class replaces only the
method in which `generate` samples or decodes greedily, so all other modes remain Hugging Face's.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationMixin

from .loop import fused_generate

Model = TypeVar("Model", bound=GenerationMixin)


@dataclass
class _Seed:
    """The `seed` of a running `generate` call, on its way to the decoding loop."""

    value: int | torch.Tensor | None
    used: bool = False


_SEED: ContextVar[_Seed] = ContextVar("fused_sampler_seed")


class _FusedDecoding:
    """What `patch` puts in front of a model's own class."""

    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args: Any, seed: int | torch.Tensor | None = None, **kwargs: Any) -> Any:
        if kwargs.get("custom_generate") is not None:  # the caller's choice, seed included
            kwargs |= {} if seed is None else {"seed": seed}
            return super().generate(*args, **kwargs)  # type: ignore[misc]
        given = _Seed(seed)
        outer = _SEED.set(given)
        try:
            output = super().generate(*args, **kwargs)  # type: ignore[misc]
        finally:
            _SEED.reset(outer)
        config = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
        config = config or self.generation_config  # type: ignore[attr-defined]
        if not given.used and (seed is not None or getattr(config, "seed", None) is not None):
            raise ValueError(
                "seed was given, but this decoding mode is Hugging Face's own and has no seed; "
                "leave it out and call torch.manual_seed."
            )
        return output

    def _sample(self, input_ids: Any, *, generation_config: Any, **kwargs: Any) -> Any:
        if generation_config.is_assistant:  # drafts for another model, in a loop of that model's
            return super()._sample(  # type: ignore[misc]
                input_ids, generation_config=generation_config, **kwargs
            )
        kwargs.pop("tokenizer", None)  # was for the stopping criteria, is no input of the model
        given = _SEED.get()
        given.used = True
        return fused_generate(
            self, input_ids, generation_config=generation_config, seed=given.value, **kwargs
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are of the unpatched class, which can be imported anywhere."""
        reduced: Any = super().__reduce_ex__(protocol)
        plain = type(self).__bases__[1]
        return plain.__new__, (plain,), *reduced[2:]


@functools.cache
def _patched_class(plain: type) -> type:
    names = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (_FusedDecoding, plain), names)


def patch(model: Model) -> Model:
    """Let `model.generate(...)` use the fused sampler from now on; returns the same model.

    Sampling and greedy decoding are then `fused_generate`'s, and `generate` takes its `seed`. Beam
    search, assisted decoding and other modes, and calls with a `custom_generate` of their own, go
    on as before. Patching twice is patching once; deep copies and pickles are unpatched.

    Raises TypeError for what has no Hugging Face `generate`, ValueError for a model with its own
    sampling loop.
    """
    if isinstance(model, _FusedDecoding):
        return model
    if not isinstance(model, GenerationMixin):
        raise TypeError(
            f"model must be a transformers model that can generate, got {type(model).__name__}; "
            "patch the model inside a wrapper."
        )
    if type(model)._sample is not GenerationMixin._sample:
        raise ValueError(
            f"{type(model).__name__} has a sampling loop of its own, which the fused sampler "
            "cannot replace; leave it unpatched."
        )
    plain: type = type(model)
    model.__class__ = _patched_class(plain)
    return model


def unpatch(model: Model) -> Model:
    """Undo `patch`: the model has the class it had. A model that is not patched stays as it is."""
    if isinstance(model, _FusedDecoding):
        model.__class__ = type(model).__bases__[1]
    return model


_LOCK = threading.Lock()
_BLOCKS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # that keep a model patched


@contextmanager
def patched(model: Model) -> Iterator[Model]:
    """`patch` for the length of a `with` block; a model patched before stays patched after it.

    Blocks may nest and overlap, in several threads too: the last one to end takes the patch off.
    """
    with _LOCK:
        was_patched = isinstance(model, _FusedDecoding)
        patch(model)
        counts = not was_patched or model in _BLOCKS
        if counts:
            _BLOCKS[model] = _BLOCKS.get(model, 0) + 1
    try:
        yield model
    finally:
        if counts:
            with _LOCK:
                _BLOCKS[model] -= 1
                if not _BLOCKS[model]:
                    del _BLOCKS[model]
                    unpatch(model)
