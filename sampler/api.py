"""The three public functions: check the arguments, choose a backend, name the row that is wrong."""

from __future__ import annotations

import torch

from . import compiled
from .contract.draws import Draws, Seed, Step, resolve_draws
from .contract.mass import MAX_VOCAB
from .dispatch import choose_backend
from .output import SampleOutput
from .params import Parameter, resolve_rows

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def sample(
    logits: torch.Tensor,
    temperature: Parameter = 1.0,
    top_k: Parameter = 0,
    top_p: Parameter = 1.0,
    min_p: Parameter = 0.0,
    seed: Seed = None,
    step: Step = 0,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    backend: str = "auto",
    return_info: bool = False,
    validate: bool = True,
) -> torch.Tensor | SampleOutput:
    """Draw tokens from logits: temperature, top-k, top-p, min-p, softmax, cumulative-sum draw.

    The same logits, seed and step give the same tokens on every device and in any batch.

    Args:
        logits: `[B, V]` or `[V]`, fp32, bf16 or fp16, `V <= 2**22`; `-inf` forbids a token.
        temperature, top_k, top_p, min_p: a number, a `[B]` tensor or None (off); see
            `SamplingParams` for ranges and off values. A temperature below 1e-5 is greedy: the
            lowest index of the maximum, filters and seed ignored.
        seed: an integer for the batch (row b then has a stream of its own), an int64 `[B]` tensor
            (each row draws as if it were alone), or None: one seed a call from PyTorch's default
            CPU generator, or from `generator`.
        step: position in the sequence, an integer or a `[B]` tensor; another step, other draws.
        num_samples: draws a row, with replacement.
        generator: a CPU generator to take the seed from.
        backend: "torch", "triton" or "auto" (Triton on a GPU tensor, PyTorch otherwise).
        return_info: return a `SampleOutput` with log-probabilities and kept counts as well.
        validate: check the logits' rows and the values of parameter tensors. With False the token
            of an invalid row is -1, and a parameter out of range acts as the nearest in range.

    Returns:
        int64 tokens: `[B]`, or `[B, num_samples]` for more than one; `[V]` logits give no B.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or range, or (with `validate`) a
            row that holds NaN or `+inf`, or nothing but `-inf`. The message names the row.
    """
    if torch.compiler.is_compiling():
        return compiled.sample(
            logits,
            *(temperature, top_k, top_p, min_p),
            seed=seed,
            step=step,
            num_samples=num_samples,
            generator=generator,
            backend=backend,
            return_info=return_info,
            validate=validate,
        )
    x = _check_logits(logits)
    if x.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _check_capture(seed, step, generator, validate)
    rows = resolve_rows(x, temperature, top_k, top_p, min_p, validate)
    draws = resolve_draws(seed, step, num_samples, generator, len(x), x.device, validate)
    implementation = choose_backend(backend, x.device)
    if x.shape[0] == 0:
        output = _nothing(draws)
    else:
        output = implementation.sample(x, rows, draws, return_info)
        if validate and int(output.tokens.min()) < 0:
            remedy = f"{_MEND}; or pass validate=False to get token -1 for such rows"
            _raise_invalid(x, output.tokens[:, 0] < 0, remedy)
    if num_samples == 1:
        output = output.map(lambda v: v.squeeze(-1) if v.dim() == 2 else v)
    if logits.dim() == 1:
        output = output.map(lambda v: v[0])
    return output if return_info else output.tokens


def softmax(
    logits: torch.Tensor, temperature: Parameter = 1.0, backend: str = "auto"
) -> torch.Tensor:
    """Probabilities `softmax(logits / temperature)`, fp32, shaped like `logits` (`[B, V]`, `[V]`).

    `temperature` is a number, a `[B]` tensor or None (1); a greedy row, below 1e-5, has all its
    probability on the lowest index of its maximum. Raises as `sample` does.
    """
    if torch.compiler.is_compiling():
        return compiled.softmax(logits, temperature, backend)
    x = _check_logits(logits)
    output = choose_backend(backend, x.device).softmax(x, resolve_rows(x, temperature))
    _raise_invalid(x, output[:, 0].isnan())
    return output.view(logits.shape)


def mask_logits(
    logits: torch.Tensor,
    temperature: Parameter = 1.0,
    top_k: Parameter = 0,
    top_p: Parameter = 1.0,
    min_p: Parameter = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """`logits / temperature` in fp32, `-inf` where a filter drops the token; shaped like `logits`.

    Equal to what Hugging Face's warpers give, ties and the rounding at a boundary aside. A greedy
    row keeps its one token's undivided logit; a quotient beyond fp32 is infinite, as everywhere.
    Parameters and errors are those of `sample`.
    """
    if torch.compiler.is_compiling():
        return compiled.mask_logits(logits, temperature, top_k, top_p, min_p, backend=backend)
    x = _check_logits(logits)
    rows = resolve_rows(x, temperature, top_k, top_p, min_p)
    output = choose_backend(backend, x.device).mask_logits(x, rows)
    _raise_invalid(x, output[:, 0].isnan())
    return output.view(logits.shape)


def _check_logits(logits: torch.Tensor) -> torch.Tensor:
    """The logits as `[B, V]` with vocabulary stride 1, without gradient."""
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}.")
    if logits.dtype not in _DTYPES:
        raise TypeError(
            f"logits have dtype {logits.dtype}; fp32, bf16 and fp16 are supported, "
            "convert them with logits.float()."
        )
    if logits.dim() not in (1, 2):
        raise ValueError(
            f"logits have shape {list(logits.shape)}; pass [B, V] or [V], for example the last "
            "position logits[:, -1] of [B, S, V]."
        )
    if not 1 <= logits.shape[-1] <= MAX_VOCAB:
        raise ValueError(
            f"logits have a vocabulary of {logits.shape[-1]}; it must hold 1 to {MAX_VOCAB} tokens."
        )
    rows = logits.detach()
    if rows.stride(-1) != 1 and rows.shape[-1] > 1:
        rows = rows.contiguous()
    return rows if rows.dim() == 2 else rows[None]


def _check_capture(
    seed: Seed, step: Step, generator: torch.Generator | None, validate: bool
) -> None:
    """Refuse what a CUDA graph would record once and replay unchanged, or cannot record."""
    if not isinstance(step, torch.Tensor):
        raise ValueError(
            f"step is {step!r} while a CUDA graph is captured, and every replay would draw the "
            "same tokens; pass an int64 tensor on the GPU and advance it in the graph, as "
            "FusedSampler does."
        )
    if seed is None or generator is not None:
        raise ValueError(
            "a seed from a CPU generator cannot be drawn inside a CUDA graph; pass seed."
        )
    if validate:
        raise ValueError(
            "validate=True reads the result, which a CUDA graph that is captured cannot; "
            "pass validate=False and look for tokens of -1 outside of it."
        )


def _nothing(draws: Draws) -> SampleOutput:
    """The output for a batch without rows."""
    tokens = torch.empty(0, draws.num_samples, dtype=torch.int64, device=draws.seed.device)
    return SampleOutput(tokens, tokens.float(), tokens.float(), tokens.new_empty(0))


_MEND = "mend the model's output, or forbid tokens with -inf and leave at least one"


def _raise_invalid(logits: torch.Tensor, invalid: torch.Tensor, remedy: str = _MEND) -> None:
    """Name the first of the rows [B] that cannot be sampled from, and what is wrong with it."""
    if not invalid.any():
        return
    row = int(invalid.nonzero()[0])
    x = logits[row]
    for name, bad in (("NaN", x.isnan()), ("+inf", x == torch.inf)):
        if bad.any():
            token = int(bad.nonzero()[0])
            raise ValueError(f"logits row {row} holds {name} at token {token}; {remedy}.")
    raise ValueError(f"logits row {row} forbids every token (all -inf); {remedy}.")
