"""Plain `model.generate(...)` on the fused sampler, for one model object at a time.

`patch` puts a switch in front of the methods in which Hugging Face decides how to decode, once for
each class, and writes down the object. The switch passes all other objects on. So a patched
object keeps its class, its attributes and its methods, and whatever changes these afterwards (FSDP,
parametrizations, PEFT, hooks, `torch.compile`) finds what it expects, in any order.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
import transformers
from packaging.version import Version
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GENERATION_MODES_MAPPING

from ..contract.draws import check_generator
from ..params import PARAMETERS
from . import warpers
from .call import OWN, Call, own_settings
from .loop import decode, ended_by_errors

if Version(transformers.__version__) >= Version("5.20.0"):
    from . import continuous
else:  # older versions' continuous batching is another one
    continuous = None  # type: ignore[assignment]

Model = TypeVar("Model", bound=torch.nn.Module)

_LOCK = threading.Lock()
_PATCHED: WeakSet[Any] = WeakSet()  # models that `patch` has patched
_BLOCKS: WeakKeyDictionary[Any, set] = WeakKeyDictionary()  # and in which `with patched` blocks
_CALL: ContextVar[Call | None] = ContextVar("fused_sampler_call", default=None)


def is_patched(model: Any) -> bool:
    return model in _PATCHED or model in _BLOCKS


def patch(model: Model) -> Model:
    """Let `model.generate(...)` use the fused sampler from now on; returns the same model.

    Sampling and greedy decoding are then `fused_generate`'s, for the model and for every model
    inside of it that can generate. Beam search, assisted decoding and other modes, and calls with a
    `custom_generate` of their own, go on as before. Patching twice is patching once; deep copies
    and pickles are unpatched. `generate` takes more arguments:

    - `seed`, `generator`: as `fused_generate` takes them. Where the model calls `generate` more
      than once in a call, as for a long recording, the draws go on from one to the next.
    - Temperature and filters: also tensors, with one value a prompt or one a returned row; also
      those that transformers does not know. A generation config may hold these as well.
    - `logit_bias`, `frequency_penalty`, `presence_penalty`, DRY: as `fused_generate` takes them.

    Raises TypeError for what holds no Hugging Face `generate`, ValueError for a model that draws
    tokens in a loop of its own.
    """
    models = _patchable(model)
    with _LOCK:
        _PATCHED.update(models)
    return model


def unpatch(model: Model) -> Model:
    """Undo `patch` for the model and all models in it. One that is not patched stays as it is."""
    with _LOCK:
        for part in model.modules():
            _PATCHED.discard(part)
            _BLOCKS.pop(part, None)
            _forget_manager(part, fused=True)
    return model


@contextmanager
def patched(model: Model) -> Iterator[Model]:
    """`patch` for the length of a `with` block; a model patched before stays patched after it.

    Blocks may nest and overlap, in several threads too: the last one to end takes the patch off.
    """
    models, block = _patchable(model), object()
    with _LOCK:
        for part in models:
            _BLOCKS.setdefault(part, set()).add(block)
    try:
        yield model
    finally:
        with _LOCK:
            for part in models:
                blocks = _BLOCKS.get(part, set())
                blocks.discard(block)  # unless `unpatch` was faster
                if not blocks and _BLOCKS.pop(part, None) is not None and part not in _PATCHED:
                    _forget_manager(part, fused=True)


def _patchable(model: Any) -> list[Any]:
    """The model and those inside of it that can generate, their classes provided with switches."""
    parts = dict(model.named_modules()) if isinstance(model, torch.nn.Module) else {}
    # A model that only calls the `generate` of one inside of it hands the seed on.
    models = {name: part for name, part in parts.items() if hasattr(type(part), "generate")}
    if not any(isinstance(part, GenerationMixin) for part in models.values()):
        raise TypeError(
            f"model must be a transformers model that can generate, got {type(model).__name__}; "
            "patch the model inside a wrapper."
        )
    if own := [part for part in parts.values() if _draws_by_itself(type(part))]:
        free = [f"model.{name}" for name, part in models.items() if name and part not in own]
        instead = f", or patch what is inside of it: {', '.join(free)}" if free else ""
        raise ValueError(
            f"{type(own[0]).__name__} draws tokens in a loop of its own, which the fused sampler "
            f"cannot replace; leave it unpatched{instead}."
        )
    with _LOCK:
        for part in models.values():
            for plain in type(part).__mro__:
                for name, replacement in _SWITCHES.items():
                    _put_switch(plain, name, replacement)
    return list(models.values())


def _draws_by_itself(kind: type) -> bool:
    """Whether the class has a `_sample` of its own, or a `generate` that draws."""
    if issubclass(kind, GenerationMixin) and kind._sample is not GenerationMixin._sample:
        return True
    own = [vars(plain)["generate"] for plain in kind.__mro__ if "generate" in vars(plain)]
    return any(
        "multinomial" in inspect.unwrap(method).__code__.co_names
        for method in own
        if inspect.isfunction(inspect.unwrap(method))
    )


def _put_switch(plain: type, name: str, replacement: Callable[..., Any]) -> None:
    """Let patched objects run `replacement(original, self, ...)` for a method that `plain` has."""
    original = vars(plain).get(name)
    if original is None or hasattr(original, "_is_fused_sampler_switch"):
        return

    @functools.wraps(original)
    def switch(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_patched(self):
            return replacement(original, self, *args, **kwargs)
        return original(self, *args, **kwargs)

    switch._is_fused_sampler_switch = True  # type: ignore[attr-defined]
    setattr(plain, name, switch)


# What patched objects do. `original` is the method of the class, not yet bound.


def _generate(
    original: Callable[..., Any],
    model: Any,
    *args: Any,
    seed: int | torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    **kwargs: Any,
) -> Any:
    given = {"seed": seed, "generator": generator}
    given = {name: value for name, value in given.items() if value is not None}
    if kwargs.get("custom_generate") is not None:  # the caller's choice, seed included
        return original(model, *args, **given, **kwargs)
    named = inspect.signature(original).bind(model, *args, **kwargs).arguments
    values = {
        name: kwargs[name]
        for name in warpers.PLACEHOLDERS
        # Whisper has a temperature of another kind.
        if isinstance(kwargs.get(name), torch.Tensor) and name not in named
    }
    samples = _setting("do_sample", model, *args[:2], **kwargs)
    for name in values:
        # A tensor goes around Hugging Face's configuration, which holds numbers.
        kwargs.pop(name)
        kwargs |= {name: warpers.PLACEHOLDERS[name]} if samples else {}
    # And so does what transformers does not know.
    own = [name for name in OWN if name not in named]
    values |= {name: kwargs.pop(name) for name in own if name in kwargs}
    if (call := _open_call(model)) and not given:
        call.take(values)  # by a model's own `generate`, or by that of a model around it
        return original(model, *args, **kwargs)
    if not given:
        seed = _setting("seed", model, *args[:2], **kwargs)
    for name in own:
        if values.get(name) is None:
            values[name] = _setting(name, model, *args[:2], **kwargs)
    sequences = _setting("num_return_sequences", model, *args[:2], **kwargs) or 1
    with ended_by_errors(named.get("streamer", kwargs.get("streamer"))):
        call = Call(seed, generator, values, sequences, model)
        _check_rag(model, {"seed": seed, **values})
        outer = _CALL.set(call)
        try:
            output = original(model, *args, **kwargs)
        finally:
            _CALL.reset(outer)
    call.close()
    return output


def _open_call(model: Any) -> Call | None:
    """The call that is under way and that `model` is a part of."""
    call = _CALL.get()
    return call if call is not None and call.has(model) else None


def _check_rag(model: Any, given: dict[str, Any]) -> None:
    """Raise for values by prompt where a loop has the documents of one prompt for rows."""
    if all(kind.__name__ != "RagSequenceForGeneration" for kind in type(model).__mro__):
        return
    for name, value in given.items():
        if isinstance(value, torch.Tensor) and value.numel() > 1:
            raise ValueError(
                f"{name} has {value.numel()} values, but RagSequenceForGeneration decodes one "
                "prompt at a time, with a row for each document; pass one number, or call generate "
                "once for each prompt."
            )


def _setting(
    name: str, model: Any, inputs: Any = None, generation_config: Any = None, **kwargs: Any
) -> Any:
    """What the caller of `generate` wants: by name, in a configuration, or in the model's own."""
    own = getattr(model, "generation_config", None)
    wanted = (
        kwargs.get(name),
        *(getattr(config, name, None) for config in (generation_config, own)),
    )
    return next((value for value in wanted if value is not None), None)


def _sample(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    if kwargs["generation_config"].is_assistant:  # drafts for another model, in that model's loop
        return original(model, *args, **kwargs)
    kwargs.pop("tokenizer", None)  # was for the stopping criteria, is no input of the model
    if call := _open_call(model):
        return decode(call, model, *args, **kwargs)
    call = Call(values=own_settings(kwargs["generation_config"]))  # not called through `generate`
    output = decode(call, model, *args, **kwargs)
    call.close()
    return output


def _validate_generation_mode(
    original: Callable[..., Any], model: Any, mode: GenerationMode, *args: Any, **kwargs: Any
) -> Any:
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        _refuse_what_is_ours(model, mode.value.replace("_", " "))
    return original(model, mode, *args, **kwargs)


def _other_mode(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    _refuse_what_is_ours(model, original.__name__.strip("_").replace("_", " "))
    return original(model, *args, **kwargs)


def _refuse_what_is_ours(model: Any, mode: str) -> None:
    call = _open_call(model)
    if call is None or call.asked_for is None:
        return
    why, instead = "has no seed", "leave it out and call torch.manual_seed"
    if call.asked_for in OWN:
        why, instead = "does not know it", "leave it out"
    elif call.asked_for in PARAMETERS:
        why, instead = "takes it as one number alone", "give a number"
    raise ValueError(
        f"{call.asked_for} was given, but these arguments or the model's generation config ask for "
        f"{mode}, which is Hugging Face's own and {why}; {instead}, or decode by sampling "
        "(num_beams=1)."
    )


def _init_continuous_batching(
    original: Callable[..., Any],
    model: Any,
    generation_config: GenerationConfig | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if continuous is None:
        raise NotImplementedError(
            "a patched model's continuous batching needs transformers 5.20 or newer; "
            "unpatch(model) for transformers' own sampling."
        )
    _forget_manager(model, fused=False)
    config = generation_config or model.generation_config
    manager = original(model, continuous.without_processors(config), *args, **kwargs)
    return manager if continuous.is_fused(manager) else continuous.fuse(manager, config)


def _generate_batch(
    original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any
) -> Any:
    if continuous is None:
        return _init_continuous_batching(original, model)
    config = {"generation_config": kwargs.get("generation_config", next(iter(args), None))}
    own = {name: kwargs.pop(name) for name in continuous.OF_REQUESTS if name in kwargs}
    generator = kwargs.pop("generator", None)
    sequences = _setting("num_return_sequences", model, **config) or 1
    if call := _open_call(model):  # `generate` was told to use a paged cache
        if sequences > 1:
            raise ValueError(
                f"cache_implementation='paged' returns one sequence a prompt, and {sequences} are "
                "asked for; call generate_batch."
            )
        own |= call.for_requests(bool(_setting("do_sample", model, **config)))
    else:
        check_generator(own.get("seed"), generator)
        if generator is not None:
            own["seed"] = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
        elif own.get("seed") is None:
            own["seed"] = _setting("seed", model, **config)
        if not _setting("do_sample", model, **config):
            continuous.warn_of_greedy(own)
    return original(model, continuous.with_settings(inputs, own, sequences), *args, **kwargs)


def _forget_manager(model: Any, fused: bool) -> None:
    """Destroy the manager that a model has kept, if it draws in this way."""
    kept = getattr(model, "_cached_continuous_batching_manager", None)
    if kept is not None and continuous is not None and continuous.is_fused(kept) == fused:
        model.destroy_cached_continuous_batching_manager()


_SWITCHES: dict[str, Callable[..., Any]] = {
    **{
        method: _other_mode
        for method in GENERATION_MODES_MAPPING.values()
        if hasattr(GenerationMixin, method)
    },
    "_validate_generation_mode": _validate_generation_mode,
    "_sample": _sample,
    "generate": _generate,
    "init_continuous_batching": _init_continuous_batching,
    "generate_batch": _generate_batch,
}
