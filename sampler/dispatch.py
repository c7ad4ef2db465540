"""From a call to a backend: check the logits, choose who serves them, name a row that is wrong."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch

from . import kernels
from .after import NOTHING_MORE, Asked, check_asked, requested, wants_more
from .contract import reference
from .contract.draws import Draws, Seed, Step, check_flag, resolve_draws
from .contract.mass import MAX_VOCAB
from .edits.apply import edited
from .edits.arguments import Edits
from .edits.records import NUMBERS
from .edits.resolve import RowEdits, resolve_edits
from .output import Drawn, RowState, SampleOutput
from .params import RowParams, check_names, resolve_rows, uses_chance
from .slots import Slots, resolve_slots

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_OF_DRAWS = ("tokens", "logprobs", "raw_logprobs", "ranks")  # one for each draw of each row
_OF_BATCH = ("kept_ids", "kept_offsets")  # rows one after another


class Backend(Protocol):
    """An implementation of the contract. All give the same tokens and kept sets.

    Logits are `[B, V]`, fp32, bf16 or fp16, with vocabulary stride 1 and any row stride; at least
    one row. Nothing is checked any more. Results stand beside the logits.
    """

    def sample(
        self,
        logits: torch.Tensor,
        rows: RowParams,
        draws: Draws,
        info: bool,
        edits: RowEdits | None = None,
    ) -> Drawn:
        """Tokens int64 `[B, num_samples]`, -1 in an invalid row; with `info` all of `Drawn`."""

    def softmax(self, logits: torch.Tensor, rows: RowParams) -> torch.Tensor:
        """Probabilities of `x / T`, fp32 `[B, V]`; a greedy row has all on its token.

        No filter is on in `rows`.
        """

    def mask_logits(
        self,
        logits: torch.Tensor,
        rows: RowParams,
        draws: Draws,
        edits: RowEdits | None = None,
    ) -> torch.Tensor:
        """`x / T`, fp32 `[B, V]`, -inf where dropped; a greedy row keeps its token's own logit.

        An invalid row is NaN throughout, in `softmax` too.
        """


BACKENDS = ("auto", "triton", "cpu", "torch")


def choose_backend(backend: str, device: torch.device) -> str:
    """The backend for tensors on `device`, by name: that of the call, or the best for "auto".

    Raises ValueError with the reason and the remedy where the choice is not to be had.
    """
    if not isinstance(backend, str) or backend not in BACKENDS:
        names = ", ".join(f'"{name}"' for name in BACKENDS)
        raise ValueError(f"backend is {backend!r}; choose one of {names}.")
    if backend == "auto":
        backend = "triton" if device.type == "cuda" else "cpu"
        return "torch" if kernels.unavailable(backend, device) else backend
    reason = None if backend == "torch" else kernels.unavailable(backend, device)
    if reason is not None:
        raise ValueError(f'backend "{backend}" is not available: {reason}')
    return backend


@functools.cache
def load_backend(name: str) -> Backend:
    """Import it: only now, as kernels need Triton or Numba."""
    if name == "torch":
        return reference
    if name == "cpu":
        from .kernels.cpu import launch as cpu

        return cpu
    from .kernels.gpu import launch as gpu

    return gpu


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
    asked: Asked = NOTHING_MORE,
    edits: Edits | None = None,
    slots: torch.Tensor | None = None,
    **parameters: Any,
) -> torch.Tensor | SampleOutput:
    """`api.sample`, outside of a compiled graph."""
    x = check_logits(logits)
    check_flag("return_info", return_info)
    check_flag("validate", validate)
    if x.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _check_capture(seed, step, generator, validate)
    implementation, x = _serve(backend, x)
    lines = _lines(slots, (seed, step), edits, x, validate, parameters)
    rows = resolve_rows(x, validate, slots=lines, **parameters)
    batch, vocab = x.shape
    check_asked(asked, return_info, batch, vocab)
    draws = resolve_draws(
        seed, step, num_samples, generator, batch, x.device, validate, replacement, lines
    )
    own = None if edits is None else resolve_edits(edits, x, step, validate, lines)
    if batch == 0:
        drawn = _nothing(x, num_samples)
    else:
        drawn = implementation.sample(x, rows, draws, return_info, own)
        if validate and int(drawn.tokens.min()) < 0:
            skip = ", or pass validate=False to get token -1 for such rows"
            _raise_short(x, drawn.tokens, skip, own)
    if not return_info:
        return _as_asked("tokens", drawn.tokens, logits, num_samples)
    fields = {name: value for name, value in drawn._asdict().items() if name != "state"}
    if wants_more(asked):
        fields |= requested(edited(x, own), x, rows.to(x.device), drawn, asked)
    return SampleOutput(**{n: _as_asked(n, v, logits, num_samples) for n, v in fields.items()})


def settle(
    x: torch.Tensor,
    values: dict[str, Any],
    draws: Draws,
    edits: Edits | None,
    step: Step,
    backend: str,
) -> tuple[Drawn, torch.Tensor, torch.Tensor, RowParams]:
    """What rows [B, V] are drawn from, of a draw that nobody looks at.

    With the logits where they were served, edited and before that, and the parameters.
    """
    implementation, served = _serve(backend, x)
    rows = resolve_rows(served, **values)
    own = None if edits is None else resolve_edits(edits, served, step, validate=True)
    drawn = implementation.sample(served, rows, draws, True, own)
    raise_invalid(served, drawn.tokens[:, 0] < 0, edits=own)
    return drawn, edited(served, own), served, rows


def _lines(
    slots: torch.Tensor | None,
    words: tuple[Any, ...],
    edits: Edits | None,
    x: torch.Tensor,
    validate: bool,
    parameters: dict[str, Any],
) -> Slots | None:
    """The slots, if there are any, of all tables of a call."""
    if slots is None:
        return None
    params = parameters.get("params")
    check_names(params, {n: v for n, v in parameters.items() if n != "params"})
    values = [*words, *(vars(params) if params is not None else parameters).values()]
    values += [] if edits is None else [getattr(edits, name) for name in NUMBERS]
    return resolve_slots(slots, values, x, validate)


def _as_asked(
    name: str, values: torch.Tensor, logits: torch.Tensor, num_samples: int
) -> torch.Tensor:
    """A field without dimensions not asked for, on the device of `logits`."""
    if num_samples == 1 and name in _OF_DRAWS:
        values = values.squeeze(-1)
    if logits.dim() == 1 and name not in _OF_BATCH:
        values = values[0]
    return values if values.device == logits.device else values.to(logits.device)


def softmax(logits: torch.Tensor, backend: str, validate: bool, **parameters: Any) -> torch.Tensor:
    """`api.softmax`, outside of a compiled graph."""
    check_flag("validate", validate)
    implementation, x = _serve(backend, check_logits(logits))
    rows = resolve_rows(x, validate, **parameters)
    return _whole_rows(logits, x, implementation.softmax(x, rows), validate, None)


def mask_logits(
    logits: torch.Tensor,
    seed: Seed,
    step: Step,
    backend: str,
    validate: bool,
    edits: Edits | None = None,
    slots: torch.Tensor | None = None,
    **parameters: Any,
) -> torch.Tensor:
    """`api.mask_logits`, outside of a compiled graph."""
    check_flag("validate", validate)
    implementation, x = _serve(backend, check_logits(logits))
    lines = _lines(slots, (seed, step), edits, x, validate, parameters)
    rows = resolve_rows(x, validate, slots=lines, **parameters)
    if seed is None and not uses_chance(**parameters):
        seed = 0  # nobody asks for it, so the generator stays where it is
    draws = resolve_draws(seed, step, 1, None, len(x), x.device, validate, slots=lines)
    own = None if edits is None else resolve_edits(edits, x, step, validate, lines)
    masked = implementation.mask_logits(x, rows, draws, own)
    return _whole_rows(logits, x, masked, validate, own)


def _serve(backend: str, x: torch.Tensor) -> tuple[Backend, torch.Tensor]:
    """The backend for the logits [B, V], and the logits where it reads them.

    The CPU's kernels take a copy of what another device holds.
    """
    name = choose_backend(backend, x.device)
    if x.is_meta:
        raise ValueError('logits are on device "meta", which holds no values; load the model.')
    if name == "cpu" and x.device.type != "cpu":
        x = x.cpu()
    return load_backend(name), x


def _whole_rows(
    logits: torch.Tensor,
    x: torch.Tensor,
    output: torch.Tensor,
    validate: bool,
    edits: RowEdits | None,
) -> torch.Tensor:
    """Rows [B, V] as the caller shaped them and where he keeps them, unless one is invalid."""
    if validate:
        skip = ", or pass validate=False to get NaN for such rows"
        raise_invalid(x, output[:, 0].isnan(), skip, edits)
    return output.to(logits.device).view(logits.shape)


def check_logits(logits: torch.Tensor) -> torch.Tensor:
    """The logits as `[B, V]` with vocabulary stride 1, without gradient."""
    if not isinstance(logits, torch.Tensor):
        raise TypeError(
            f"logits must be a torch.Tensor, got {type(logits).__name__}; pass "
            "torch.as_tensor(logits), or of a model's output its logits[:, -1]."
        )
    if hasattr(logits, "full_tensor"):
        raise TypeError(
            "logits are a DTensor, spread over several devices; pass logits.full_tensor()."
        )
    if logits.layout is not torch.strided:
        raise TypeError(f"logits have layout {logits.layout}; pass logits.to_dense().")
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


def _nothing(logits: torch.Tensor, num_samples: int) -> Drawn:
    """What is drawn from a batch without rows."""
    tokens = torch.empty(0, num_samples, dtype=torch.int64, device=logits.device)
    words = tokens.new_empty(0)
    values, masses = words.float(), words.double()
    state = RowState(values, values, values, masses, masses, values)
    return Drawn(tokens, tokens.float(), tokens.float(), words, state)


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


def _raise_short(
    logits: torch.Tensor, tokens: torch.Tensor, skip: str, edits: RowEdits | None
) -> None:
    """Name the first row that lacks one of its tokens [B, n]: invalid, or with too few to draw."""
    short = (tokens < 0).any(-1)
    row = int(short.nonzero()[0])
    if not edited(logits, edits)[row].amax().isfinite():
        raise_invalid(logits, short, skip, edits)
    count = int((tokens[row] >= 0).sum())
    raise ValueError(
        f"logits row {row} can give {count} different tokens, but num_samples is "
        f"{tokens.shape[-1]}; ask for fewer, let the filters keep more{skip}."
    )


def raise_invalid(
    logits: torch.Tensor, invalid: torch.Tensor, skip: str = "", edits: RowEdits | None = None
) -> None:
    """Name the first of the rows [B] that cannot be sampled from, and what is wrong with it.

    `skip`: what else the caller can do than mend the row.
    """
    if not invalid.any():
        return
    row = int(invalid.nonzero()[0])
    x = logits[row]
    if edits is not None and not x.isnan().any() and x.amax().isfinite():
        if edited(logits, edits)[row].amax() == -torch.inf:
            raise ValueError(
                f"in row {row} allowed, logit_bias, stop_ids and penalties together ban every "
                f"token; leave at least one{skip}."
            )
        raise ValueError(
            f"in row {row} logit_bias or a penalty makes a logit infinite; pass smaller ones{skip}."
        )
    for name, bad in (("NaN", x.isnan()), ("+inf", x == torch.inf)):
        if bad.any():
            token = int(bad.nonzero()[0])
            raise ValueError(
                f"logits row {row} holds {name} at token {token}; mend the model's output "
                f"(-inf forbids a token){skip}."
            )
    raise ValueError(
        f"logits row {row} forbids every token (all -inf); leave at least one finite{skip}."
    )
