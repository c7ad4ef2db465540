"""What `torch.compile` sees of a call: one opaque operator, so that no graph breaks.

Inside a compiled function the public functions record `torch.ops.fused_sampler.*` with their
arguments; when the graph runs, the operator calls the same function of `dispatch`. So checks,
errors and tokens are those of an eager call. Numbers travel as 0-dimensional tensors and are looked
at only when the graph runs: a graph that knew their values would be compiled anew for each.
"""

from __future__ import annotations

from typing import Any

import torch

from . import dispatch
from .after import NOTHING_MORE, Asked
from .contract.draws import Seed, Step, check_flag
from .edits.arguments import Edits
from .output import SampleOutput
from .params import PARAMETERS, SamplingParams, check_names, uses_chance

# A copy under another name, as the kernel hub's is, has operators of its own beside ours.
_NAMESPACE = str(__package__).replace(".", "_")

# Each parameter, the seed and the step is a tensor, a number in a tensor, or neither (off).
_ARGUMENTS = "Tensor logits, Tensor?[] tensors, Tensor?[] numbers"
_DRAWS = "Tensor?[] draw_tensors, Tensor?[] draw_numbers"


def sample(
    logits: torch.Tensor,
    seed: Seed,
    step: Step,
    num_samples: int,
    replacement: bool,
    generator: torch.Generator | None,
    backend: str,
    return_info: bool,
    validate: bool,
    asked: Asked,
    edits: Edits | None,
    slots: torch.Tensor | None,
    **parameters: Any,
) -> torch.Tensor | SampleOutput:
    """`dispatch.sample` as one operator of a graph."""
    if generator is not None:
        raise ValueError("generator cannot be used inside torch.compile; pass seed.")
    check_flag("replacement", replacement)
    if asked != NOTHING_MORE or edits is not None or slots is not None:  # the graph breaks here
        outside = torch.compiler.disable(dispatch.sample)
        return outside(
            *(logits, seed, step, num_samples, replacement, generator),
            *(backend, return_info, validate, asked, edits, slots),
            **parameters,
        )
    if seed is None:  # drawn in the graph: two calls must not become one
        seed = torch.randint(2**63 - 1, (), device="cpu")
    arguments = (*_values(**parameters), *_apart([_word(seed), _word(step)]))
    how = num_samples, replacement, backend, return_info, validate
    output = _sample(logits.detach(), *arguments, *how)
    return SampleOutput(*output) if return_info else output[0]


def softmax(logits: torch.Tensor, backend: str, validate: bool, **parameters: Any) -> torch.Tensor:
    """`dispatch.softmax` as one operator of a graph."""
    return _softmax(logits.detach(), *_values(**parameters), backend, validate)


def mask_logits(
    logits: torch.Tensor,
    seed: Seed,
    step: Step,
    backend: str,
    validate: bool,
    edits: Edits | None,
    slots: torch.Tensor | None,
    **parameters: Any,
) -> torch.Tensor:
    """`dispatch.mask_logits` as one operator of a graph."""
    if edits is not None or slots is not None:  # the graph breaks here
        outside = torch.compiler.disable(dispatch.mask_logits)
        return outside(logits, seed, step, backend, validate, edits, slots, **parameters)
    if seed is None and uses_chance(**parameters):
        seed = torch.randint(2**63 - 1, (), device="cpu")
    draws = _apart([_word(seed), _word(step)])
    return _mask_logits(logits.detach(), *_values(**parameters), *draws, backend, validate)


Tensors = list[torch.Tensor | None]


def _values(params: SamplingParams | None = None, **values: Any) -> tuple[Tensors, Tensors]:
    """The parameters in the order of `PARAMETERS`, apart."""
    check_names(params, values)
    if params is not None:
        return _apart([getattr(params, name) for name in PARAMETERS])
    return _apart([values.get(name) for name in PARAMETERS])


def _apart(values: list[Any]) -> tuple[Tensors, Tensors]:
    """Tensors, and numbers as tensors on the CPU; None where a value is the other, or None."""
    tensors: Tensors = [value if isinstance(value, torch.Tensor) else None for value in values]
    numbers: Tensors = [
        None if value is None or isinstance(value, torch.Tensor) else _number(value)
        for value in values
    ]
    return tensors, numbers


def _number(value: Any) -> torch.Tensor:
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64, device="cpu")
    if value >= 2**63:  # more tokens than any vocabulary has
        value = 2**63 - 1
    return torch.tensor(value, device="cpu")


def _word(value: Any) -> Any:
    """A seed or step from 2**63 on wraps, as its bits do in an int64."""
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def _together(tensors: Tensors, numbers: Tensors) -> list[Any]:
    """What `_apart` took apart."""
    return [
        tensor if number is None else number.item()
        for tensor, number in zip(tensors, numbers, strict=True)
    ]


def _draw_words(tensors: Tensors, numbers: Tensors) -> tuple[Any, Any]:
    """Seed and step."""
    seed, step = _together(tensors, numbers)
    return seed, step if numbers[1] is None else step % 2**64


def _named(tensors: Tensors, numbers: Tensors) -> dict[str, Any]:
    return dict(zip(PARAMETERS, _together(tensors, numbers), strict=True))


@torch.library.custom_op(
    f"{_NAMESPACE}::sample",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, {_DRAWS}, SymInt num_samples, bool replacement, str backend, bool info,"
    " bool validate) -> Tensor[]",
)
def _sample(
    logits,
    tensors,
    numbers,
    draw_tensors,
    draw_numbers,
    num_samples,
    replacement,
    backend,
    info,
    validate,
):
    seed, step = _draw_words(draw_tensors, draw_numbers)
    output = dispatch.sample(
        *(logits, seed, step, num_samples, replacement, None, backend, info, validate),
        **_named(tensors, numbers),
    )
    return list(output[:4]) if info else [output]


@_sample.register_fake
def _(
    logits,
    tensors,
    numbers,
    draw_tensors,
    draw_numbers,
    num_samples,
    replacement,
    backend,
    info,
    validate,
):
    batch = logits.shape[:-1]
    shape = batch if num_samples == 1 else (*batch, num_samples)
    tokens = logits.new_empty(shape, dtype=torch.int64)
    if not info:
        return [tokens]
    logprobs = (logits.new_empty(shape, dtype=torch.float32) for _ in range(2))
    return [tokens, *logprobs, logits.new_empty(batch, dtype=torch.int64)]


@torch.library.custom_op(
    f"{_NAMESPACE}::softmax",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, str backend, bool validate) -> Tensor",
)
def _softmax(logits, tensors, numbers, backend, validate):
    temperature = _named(tensors, numbers)["temperature"]
    return dispatch.softmax(logits, backend, validate, temperature=temperature)


@_softmax.register_fake
def _(logits, tensors, numbers, backend, validate):
    return logits.new_empty(logits.shape, dtype=torch.float32)


@torch.library.custom_op(
    f"{_NAMESPACE}::mask_logits",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, {_DRAWS}, str backend, bool validate) -> Tensor",
)
def _mask_logits(logits, tensors, numbers, draw_tensors, draw_numbers, backend, validate):
    seed, step = _draw_words(draw_tensors, draw_numbers)
    named = _named(tensors, numbers)
    return dispatch.mask_logits(logits, seed, step, backend, validate, **named)


@_mask_logits.register_fake
def _(logits, tensors, numbers, draw_tensors, draw_numbers, backend, validate):
    return logits.new_empty(logits.shape, dtype=torch.float32)
