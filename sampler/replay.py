"""Log-probabilities of tokens that are given: what a trainer needs to be on-policy.

The values are those that `sample` returned for the same logits and parameters, to the bit: masses
are sums of integers, so the batch, the backend and the device make no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from . import dispatch
from .after import in_parts, log_probabilities, raw_log_probabilities
from .contract.draws import Draws, Seed, Step, resolve_draws
from .contract.mass import LOG2_E
from .contract.reference import BlockTable
from .edits import bitmask
from .edits.arguments import Edits, take_edits
from .ids import check_ids, check_kind_of_ids
from .output import Drawn, RowState, logarithm
from .params import (
    TEMPERATURE,
    Parameter,
    RowParams,
    SamplingParams,
    check_names,
    check_tensor,
    is_on,
    resolve_rows,
    uses_chance,
)


class Replayed(NamedTuple):
    """Natural logarithms, fp32, shaped like the tokens; NaN for the token -1.

    Fields:
        logprobs: among the kept tokens at the given temperature; -inf where the token is not kept.
        raw_logprobs: under the untouched distribution: temperature 1, no filter.
    """

    logprobs: torch.Tensor
    raw_logprobs: torch.Tensor


def replay(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    temperature: Parameter = None,
    *,
    params: SamplingParams | None = None,
    kept: torch.Tensor | None = None,
    seed: Seed = None,
    step: Step = 0,
    backend: str = "auto",
    **filters: Any,
) -> Replayed:
    """The log-probabilities that `sample` gives to these tokens.

    Args:
        logits: `[B, V]`, `[V]`, or whole sequences `[B, S, V]`; fp32, bf16 or fp16.
        tokens: int64 or int32, `[B]`, a scalar or `[B, S]`; -1 where there is none.
        temperature, params, filters: as in `sample`; a `[B]` tensor has a value for each sequence.
        kept: the set to be drawn from, in place of all filters: a bitmask int32 `[..., ceil(V/32)]`
            as `return_kept="bitmask"` gives it, or bool `[..., V]`.
        seed, step: those of the draws, where XTC applies by chance or `min_tokens` counts without
            a history; of sequences the step of the first position.
        backend: as in `sample`; with `kept` the textbook's arithmetic, on the device of the logits.
        edits: as in `sample`, among the filters; those of one step, so not for whole sequences.

    No gradient flows through it; `docs/logprobs.md` has the same with one, in plain PyTorch.
    Raises TypeError or ValueError as `sample` does; the message names sequence and row.
    """
    edits = take_edits(filters)
    check_names(params, {TEMPERATURE.name: temperature, **filters})
    values = dict(filters, temperature=temperature)
    if params is not None:
        values = dict(vars(params))
    _check_shapes(logits, tokens)
    batch = 1 if logits.dim() == 1 else len(logits)
    given = {name: value for name, value in values.items() if is_on(name, value)}
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            check_tensor(name, value, batch, validate=True)
    if kept is not None:
        _check_kept(kept, logits)
        if others := [name for name in given if name != TEMPERATURE.name]:
            raise ValueError(f"kept stands for all filters; leave {others[0]} out.")
    if edits is not None and (kept is not None or logits.dim() == 3):
        raise ValueError(
            "edits (bias, masks, penalties) are of one step; pass logits [B, V] without kept, "
            "or what mask_logits makes of them."
        )
    if tokens.numel() == 0:
        return Replayed(*(torch.empty(tokens.shape, device=logits.device) for _ in range(2)))
    parts = []
    for b, part in enumerate(_sequences(logits, tokens, kept, given, seed, step)):
        try:
            parts.append(_rows(part, edits, step, backend))
        except ValueError as error:
            if logits.dim() < 3:
                raise
            raise ValueError(f"sequence {b}: {error}") from error
    own, raw = (torch.cat(values).reshape(tokens.shape) for values in zip(*parts, strict=True))
    return Replayed(own.to(logits.device), raw.to(logits.device))


def _check_shapes(logits: Any, tokens: Any) -> None:
    """Raise where there is not one token for each row of logits."""
    if not isinstance(logits, torch.Tensor) or logits.dim() not in (1, 2, 3):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"logits are {shape}; pass a tensor [B, V], [V] or [B, S, V].")
    check_kind_of_ids("tokens", tokens)
    if tokens.shape != logits.shape[:-1]:
        raise ValueError(
            f"tokens have shape {list(tokens.shape)} but logits {list(logits.shape)}; pass one "
            f"token for each row, {list(logits.shape[:-1])}."
        )


def _check_kept(kept: Any, logits: torch.Tensor) -> None:
    """Raise where this is neither a bitmask nor a mask of the logits."""
    *rows, vocab = logits.shape
    shapes = {torch.bool: [*rows, vocab], torch.int32: [*rows, bitmask.words(vocab)]}
    wanted = shapes.get(kept.dtype) if isinstance(kept, torch.Tensor) else None
    if wanted is None:
        found = kept.dtype if isinstance(kept, torch.Tensor) else repr(kept)
        raise TypeError(f"kept must be a bool tensor or an int32 bitmask, got {found}.")
    if list(kept.shape) != wanted:
        raise ValueError(f"kept has shape {list(kept.shape)}; of these logits it is {wanted}.")


class Part(NamedTuple):
    """A batch, or one sequence of several: what its rows are drawn from."""

    logits: torch.Tensor  # [n, V]
    tokens: torch.Tensor  # [n]
    kept: torch.Tensor | None
    values: dict[str, Any]  # of the parameters that are on
    draws: Draws


def _sequences(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    kept: torch.Tensor | None,
    values: dict[str, Any],
    seed: Seed,
    step: Step,
) -> Iterator[Part]:
    """The batch as one part, or each sequence as a part of its own."""
    batch = 1 if logits.dim() == 1 else len(logits)
    if seed is None and uses_chance(**values):
        raise ValueError("xtc_probability leaves to chance what is kept; pass seed and step.")
    draws = resolve_draws(0 if seed is None else seed, step, 1, None, batch, logits.device)
    if logits.dim() < 3:
        chosen = None if kept is None else kept.reshape(batch, -1)
        yield Part(logits.reshape(batch, -1), tokens.reshape(-1), chosen, values, draws)
        return
    places = torch.arange(logits.shape[1], device=logits.device)
    for b, (x, own) in enumerate(zip(logits, tokens, strict=True)):
        mine = {name: _of_sequence(value, b, batch) for name, value in values.items()}
        seed_b, first = (_of_sequence(word, b, batch) for word in draws[:2])
        stream = b if draws.stream is None else draws.stream
        drawn = Draws(seed_b, places + first, stream, 1)
        yield Part(x, own, None if kept is None else kept[b], mine, drawn)


def _of_sequence(value: Any, b: int, batch: int) -> Any:
    """A parameter of one sequence: its own element of a tensor."""
    if isinstance(value, torch.Tensor):
        return value.reshape(-1).expand(batch)[b : b + 1]
    return value


def _rows(
    part: Part, edits: Edits | None, step: Step, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both logarithms, fp32 [n]; `step` matters to edits, which sequences have none of."""
    x = dispatch.check_logits(part.logits)
    ids = part.tokens[:, None].to(x.device)
    check_ids("tokens", ids, len(x), x.shape[-1])
    if part.kept is None:
        drawn, x, raw_x, rows = dispatch.settle(x, part.values, part.draws, edits, step, backend)
        ids = ids.to(x.device)
        own, raw = log_probabilities(ids, x, rows, drawn), raw_log_probabilities(ids, raw_x, drawn)
        return own[:, 0], raw[:, 0]
    rows = resolve_rows(x, **part.values).to(x.device)
    chosen = bitmask.unpacked(part.kept.to(x.device), x.shape[-1]) & (x > -torch.inf)
    if not (some := chosen.any(-1)).all():
        row = int((~some).nonzero()[0])
        raise ValueError(f"kept holds no token that row {row} allows; mark at least one.")
    drawn = _drawn_from(x, chosen, rows)
    own, raw = log_probabilities(ids, x, rows, drawn), raw_log_probabilities(ids, x, drawn)
    dropped = ~chosen.gather(-1, ids.long().clamp(min=0)) & (ids >= 0)
    return own.masked_fill(dropped, -torch.inf)[:, 0], raw[:, 0]


def _drawn_from(logits: torch.Tensor, chosen: torch.Tensor, rows: RowParams) -> Drawn:
    """What a backend would say if its filters had kept exactly these tokens, bool [n, V]."""
    c = rows.c.masked_fill(rows.greedy, LOG2_E)
    row_max = logits.amax(-1).float() + 0.0
    log_masses, raw_log_masses = [], []
    for x, own_c, marked in in_parts(logits, c[:, None], chosen):
        log_masses.append(logarithm(BlockTable(x, own_c[:, 0]).mass(marked)))
        raw = BlockTable(x, torch.full_like(own_c[:, 0], LOG2_E))
        raw_log_masses.append(logarithm(raw.mass(x > -torch.inf)))
    everything = torch.full_like(row_max, torch.inf)
    bounds = row_max, -everything, everything
    state = RowState(*bounds, torch.cat(log_masses), torch.cat(raw_log_masses), row_max)
    best = logits.masked_fill(~chosen, -torch.inf).argmax(-1)
    dispatch.raise_invalid(logits, ~row_max.isfinite())
    return Drawn(best[:, None], state=state)
