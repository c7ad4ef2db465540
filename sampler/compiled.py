"""What `torch.compile` sees of a call: one opaque operator, so that no graph breaks.

Inside a compiled function the public functions record `torch.ops.fused_sampler.*` with their
arguments; when the graph runs, the operator calls the same public function. So checks, errors and
tokens are those of an eager call.
"""

from __future__ import annotations

from typing import Any

import torch

from . import api
from .contract.draws import check_num_samples, signed_word
from .output import SampleOutput
from .params import PARAMETERS, Parameter, SamplingParams

# Each parameter, the seed and the step is a tensor, or None and the number beside it.
_ARGUMENTS = "Tensor logits, Tensor?[] tensors, float[] numbers"
_DRAWS = "Tensor? seed, int seed_number, Tensor? step, int step_number, int num_samples"


def sample(
    logits: torch.Tensor,
    *parameters: Parameter,
    seed: int | torch.Tensor | None,
    step: int | torch.Tensor,
    num_samples: int,
    generator: torch.Generator | None,
    backend: str,
    return_info: bool,
    validate: bool,
) -> torch.Tensor | SampleOutput:
    """`api.sample` as one operator of a graph."""
    if generator is not None:
        raise ValueError("generator cannot be used inside torch.compile; pass seed.")
    check_num_samples(num_samples)
    if seed is None:  # drawn in the graph: two calls must not become one
        seed = torch.randint(2**63 - 1, (), device="cpu")
    draws = (*_apart("seed", seed), *_apart("step", step, lowest=0), num_samples)
    output = _sample(logits.detach(), *_lists(parameters), *draws, backend, return_info, validate)
    return SampleOutput(*output) if return_info else output[0]


def softmax(logits: torch.Tensor, temperature: Parameter, backend: str) -> torch.Tensor:
    """`api.softmax` as one operator of a graph."""
    return _softmax(logits.detach(), *_lists((temperature,)), backend)


def mask_logits(logits: torch.Tensor, *parameters: Parameter, backend: str) -> torch.Tensor:
    """`api.mask_logits` as one operator of a graph."""
    return _mask_logits(logits.detach(), *_lists(parameters), backend)


def _apart(name: str, value: Any, lowest: int = -(2**63)) -> tuple[torch.Tensor | None, int]:
    if isinstance(value, torch.Tensor):
        return value, 0
    return None, signed_word(name, value, lowest)


def _lists(parameters: tuple[Parameter, ...]) -> tuple[list[torch.Tensor | None], list[float]]:
    tensors = [value if isinstance(value, torch.Tensor) else None for value in parameters]
    off = (getattr(SamplingParams, name) for name in PARAMETERS)
    numbers = [
        float(default if value is None or isinstance(value, torch.Tensor) else min(value, 2**63))
        for value, default in zip(parameters, off, strict=False)
    ]
    return tensors, numbers


def _parameters(
    tensors: list[torch.Tensor | None], numbers: list[float]
) -> dict[str, torch.Tensor | float]:
    """The parameters by name; a whole number is an integer again, as top-k wants it."""
    return {
        name: tensor if tensor is not None else int(number) if number % 1 == 0 else number
        for name, tensor, number in zip(PARAMETERS, tensors, numbers, strict=False)
    }


@torch.library.custom_op(
    "fused_sampler::sample",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, {_DRAWS}, str backend, bool info, bool validate) -> Tensor[]",
)
def _sample(
    logits,
    tensors,
    numbers,
    seed,
    seed_number,
    step,
    step_number,
    num_samples,
    backend,
    info,
    validate,
):
    output = api.sample(
        logits,
        **_parameters(tensors, numbers),  # type: ignore[arg-type]
        seed=seed_number if seed is None else seed,
        step=step_number % 2**64 if step is None else step,
        num_samples=num_samples,
        backend=backend,
        return_info=info,
        validate=validate,
    )
    return list(output) if info else [output]


@_sample.register_fake
def _(
    logits,
    tensors,
    numbers,
    seed,
    seed_number,
    step,
    step_number,
    num_samples,
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
    "fused_sampler::softmax", mutates_args=(), schema=f"({_ARGUMENTS}, str backend) -> Tensor"
)
def _softmax(logits, tensors, numbers, backend):
    return api.softmax(logits, **_parameters(tensors, numbers), backend=backend)


@torch.library.custom_op(
    "fused_sampler::mask_logits", mutates_args=(), schema=f"({_ARGUMENTS}, str backend) -> Tensor"
)
def _mask_logits(logits, tensors, numbers, backend):
    return api.mask_logits(logits, **_parameters(tensors, numbers), backend=backend)


@_softmax.register_fake
@_mask_logits.register_fake
def _(logits, tensors, numbers, backend):
    return logits.new_empty(logits.shape, dtype=torch.float32)
