"""The public functions: what they take, what they return, and where a compiled graph parts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Literal, overload

import torch

from . import compiled, dispatch
from .after import Asked
from .contract.draws import Seed, Step
from .edits.arguments import EDITS, take_edits
from .output import SampleOutput
from .params import PARAMETERS, Parameter, SamplingParams


@overload
def sample(
    logits: torch.Tensor,
    temperature: Parameter = ...,
    *,
    params: SamplingParams | None = ...,
    seed: Seed = ...,
    step: Step = ...,
    num_samples: int = ...,
    replacement: bool = ...,
    generator: torch.Generator | None = ...,
    backend: str = ...,
    return_info: Literal[False] = ...,
    top_logprobs: int = ...,
    logprob_ids: torch.Tensor | None = ...,
    return_ranks: bool = ...,
    return_entropy: bool = ...,
    return_kept: Literal["ids", "bitmask"] | None = ...,
    kept_cap: int | None = ...,
    validate: bool = ...,
    **filters: Any,
) -> torch.Tensor: ...
@overload
def sample(
    logits: torch.Tensor,
    temperature: Parameter = ...,
    *,
    return_info: Literal[True],
    top_logprobs: int = ...,
    logprob_ids: torch.Tensor | None = ...,
    return_ranks: bool = ...,
    return_entropy: bool = ...,
    return_kept: Literal["ids", "bitmask"] | None = ...,
    kept_cap: int | None = ...,
    params: SamplingParams | None = ...,
    seed: Seed = ...,
    step: Step = ...,
    num_samples: int = ...,
    replacement: bool = ...,
    generator: torch.Generator | None = ...,
    backend: str = ...,
    validate: bool = ...,
    **filters: Any,
) -> SampleOutput: ...
def sample(
    logits: torch.Tensor,
    temperature: Parameter = None,
    *,
    params: SamplingParams | None = None,
    seed: Seed = None,
    step: Step = 0,
    num_samples: int = 1,
    replacement: bool = True,
    generator: torch.Generator | None = None,
    backend: str = "auto",
    return_info: bool = False,
    top_logprobs: int = 0,
    logprob_ids: torch.Tensor | None = None,
    return_ranks: bool = False,
    return_entropy: bool = False,
    return_kept: Literal["ids", "bitmask"] | None = None,
    kept_cap: int | None = None,
    validate: bool = True,
    **filters: Any,
) -> torch.Tensor | SampleOutput:
    """Draw tokens from logits: temperature, filters, softmax, cumulative-sum draw.

    The same logits, seed and step give the same tokens on every device and every backend.

    Args:
        logits: `[B, V]` or `[V]`, fp32, bf16 or fp16, `V <= 2**22`; `-inf` forbids a token.
        temperature: a number, a `[B]` tensor or None (1, off). Below 1e-5 greedy: the lowest index
            of the maximum, filters and seed ignored.
        params: `SamplingParams`, instead of temperature and filters by their names.
        seed: an integer for the batch (row b then has a stream of its own), an int64 `[B]` tensor
            (each row draws as if it were alone), or None: one seed a call from PyTorch's default
            CPU generator, or from `generator`. A tensor of one element is a number, here as in
            every argument by row.
        step: position in the sequence, an integer or a `[B]` tensor; another step, other draws.
        num_samples: draws a row.
        replacement: False draws no token of a row twice: after each draw its token is taken out of
            what the filters keep, and the next is drawn from the rest. A greedy row gives its best
            tokens in order, whatever the filters. Where nothing is left the token is -1.
        generator: a CPU generator to take the seed from.
        backend: "auto", "triton" (GPU kernels), "cpu" (compiled by Numba; logits of another device
            are copied), "torch" (the textbook, slow, on any device). Auto: Triton's on a CUDA or
            ROCm tensor, else the CPU's; the textbook where the compiler is not installed.
        return_info: return a `SampleOutput` with log-probabilities and kept counts as well. The
            next six add fields to it, which `SampleOutput` describes, and launches of their own.
        top_logprobs: ids and log-probabilities of so many most probable tokens; 0 is off.
        logprob_ids: token ids, int64 `[n]` or `[B, n]`, to have the log-probabilities of.
        return_ranks: how many tokens are more probable than the drawn one, and 1.
        return_entropy: of the kept tokens.
        return_kept: "ids" or "bitmask", the tokens that the filters kept; None is off.
        kept_cap: with "ids", leave out the ids of a row that keeps more; None: of none.
        validate: check the logits' rows and the values of parameter tensors. With False the token
            of an invalid row is -1, and a parameter out of range acts as the nearest in range.
        filters: the other parameters by their names in `SamplingParams`, which has ranges and off
            values; each a number, a `[B]` tensor or None (off).
        edits: what changes logits before all of this, by the names in `Edits`: masks, bias,
            penalties, the tokens so far. The logits themselves are never written to.
        slots: int32 `[B]`; tensors of parameters, of numbers among the edits, `seed` and `step` are
            then tables `[S]`, of which row b has line `slots[b]`: an engine gathers nothing.

    Returns:
        int64 tokens, `[B]`, or `[B, num_samples]` for more than one; `[V]` logits give no B.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or range, or (with `validate`) a
            row that holds NaN or `+inf`, or nothing but `-inf`, or without replacement gives fewer
            tokens than `num_samples`. The message names the row.
    """
    run = compiled.sample if torch.compiler.is_compiling() else dispatch.sample
    asked = Asked(top_logprobs, logprob_ids, return_ranks, return_entropy, return_kept, kept_cap)
    edits, slots = take_edits(filters), filters.pop("slots", None)
    return run(
        logits,
        seed,
        step,
        num_samples,
        replacement,
        generator,
        backend,
        return_info,
        validate,
        asked,
        edits,
        slots,
        params=params,
        temperature=temperature,
        **filters,
    )


def softmax(
    logits: torch.Tensor,
    temperature: Parameter = None,
    *,
    backend: str = "auto",
    validate: bool = True,
) -> torch.Tensor:
    """Probabilities `softmax(logits / temperature)`, fp32, shaped like `logits` (`[B, V]`, `[V]`).

    `temperature` is a number, a `[B]` tensor or None (1); a greedy row, below 1e-5, has all its
    probability on the lowest index of its maximum. Raises as `sample` does; with `validate=False`
    an invalid row is NaN throughout.
    """
    run = compiled.softmax if torch.compiler.is_compiling() else dispatch.softmax
    return run(logits, backend, validate, temperature=temperature)


def mask_logits(
    logits: torch.Tensor,
    temperature: Parameter = None,
    *,
    params: SamplingParams | None = None,
    seed: Seed = None,
    step: Step = 0,
    backend: str = "auto",
    validate: bool = True,
    **filters: Any,
) -> torch.Tensor:
    """`logits / temperature` in fp32, `-inf` where a filter drops the token; shaped like `logits`.

    Equal to what Hugging Face's warpers give, ties and the rounding at a boundary aside. A greedy
    row keeps its one token's undivided logit; a quotient beyond fp32 is infinite, as everywhere.
    `seed` and `step` matter to XTC alone, which applies by chance, as it does in `sample`.
    Parameters, edits and errors are those of `sample`; with `validate=False` an invalid row is NaN
    throughout.
    """
    run = compiled.mask_logits if torch.compiler.is_compiling() else dispatch.mask_logits
    edits, slots = take_edits(filters), filters.pop("slots", None)
    return run(
        *(logits, seed, step, backend, validate, edits, slots),
        params=params,
        temperature=temperature,
        **filters,
    )


def keyword_parameters(
    names: Iterable[str], annotation: str = "Parameter"
) -> list[inspect.Parameter]:
    """Keyword arguments of these names, off by default, for a function's signature."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name in names
    ]


def _name_the_filters(function: Any) -> None:
    """Let `help` and editors show each filter and edit instead of `**filters`."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    filters = keyword_parameters(n for n in PARAMETERS if n not in signature.parameters)
    at = next(i for i, p in enumerate(named) if p.kind is p.KEYWORD_ONLY)
    others = keyword_parameters(("slots", *EDITS), "Any")
    parameters = [*named[:at], *filters, *named[at:], *others]
    function.__signature__ = signature.replace(parameters=parameters)


_name_the_filters(sample)
_name_the_filters(mask_logits)
