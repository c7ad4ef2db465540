"""From the edits as they are given to what the backends read: checked, a line a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..contract.draws import Step
from ..params import check_number, check_tensor, column_of
from . import bitmask, records
from .arguments import Edits
from .dry import dry_penalty, repeated_lengths
from .history import END, History

_PENALTIES = (
    records.REPETITION_PENALTY,
    records.FREQUENCY_PENALTY,
    records.PRESENCE_PENALTY,
    records.DRY_MULTIPLIER,
)


class Entries(NamedTuple):
    """A value of some of the tokens of each row."""

    ids: torch.Tensor  # int32 [B, n], ascending; END behind the last
    values: torch.Tensor  # [B, n]


class RowEdits(NamedTuple):
    """The edits of a batch as the backends read them (contract section 1), None where off.

    Tensors stand beside the logits, but columns of plain numbers, which are as in `RowParams`.
    """

    allowed: torch.Tensor | None  # int32 [B, ceil(V / 32)]
    bias: Entries | None  # fp32, added
    counts: Entries | None  # int32: tokens of prompt and output, how often in the output
    repetition: torch.Tensor  # fp32 [B]
    frequency: torch.Tensor
    presence: torch.Tensor
    dry: torch.Tensor | None  # fp32 [B, n], beside `counts`: subtracted


def resolve_edits(
    edits: Edits, logits: torch.Tensor, step: Step, validate: bool
) -> RowEdits | None:
    """Check the edits and give each row of `logits` [B, V] its own; None where none changes any.

    `validate=False` leaves the values of tensors unread, so that nothing waits for the device.
    """
    batch, vocab = logits.shape
    columns = {
        record.name: _column(record, getattr(edits, record.name), logits, validate)
        for record in records.NUMBERS.values()
    }
    allowed = None if edits.allowed is None else _allowed(edits.allowed, logits)
    history = _history(edits, batch)
    penalized = [record.name for record in _PENALTIES if _is_on(record, edits)]
    counts = dry = None
    if penalized:
        if history is None:
            raise ValueError(
                f"{penalized[0]} needs the tokens so far; pass history=History(prompt_ids), or "
                "prompt_ids and output_ids."
            )
        history = history.to(logits.device)
        if validate:
            _check_vocab("the history", history.ids.masked_fill(history.ids == END, -1), vocab)
        counts = Entries(history.ids, history.counts)
    if records.DRY_MULTIPLIER.name in penalized:
        assert history is not None
        breakers = None
        if edits.dry_breakers is not None:
            breakers = _ids("dry_breakers", edits.dry_breakers, logits, validate)
        lengths = repeated_lengths(
            history, breakers, columns[records.DRY_RANGE.name].to(logits.device)
        )
        names = (records.DRY_MULTIPLIER, records.DRY_BASE, records.DRY_ALLOWED_LENGTH)
        dry = dry_penalty(lengths, *(columns[record.name] for record in names))
    parts = []
    if edits.logit_bias is not None:
        parts.append(_bias(edits.logit_bias, logits, validate))
    if _is_on(records.MIN_TOKENS, edits):
        parts.append(_banned_stops(edits, history, columns, logits, step, validate))
    parts = [part for part in parts if part[0].shape[1]]
    bias = _ordered(parts) if parts else None
    if allowed is None and bias is None and counts is None:
        return None
    repetition, frequency, presence = (columns[record.name] for record in _PENALTIES[:3])
    return RowEdits(allowed, bias, counts, repetition, frequency, presence, dry)


def _is_on(record: Any, edits: Edits) -> bool:
    value = getattr(edits, record.name)
    return isinstance(value, torch.Tensor) or value not in (None, record.off)


def _column(record: Any, value: Any, logits: torch.Tensor, validate: bool) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        check_tensor(record.name, value, len(logits), validate)
    elif value is not None:
        check_number(record.name, value)
    return column_of(record, value, logits.device).expand(len(logits))


def _allowed(allowed: Any, logits: torch.Tensor) -> torch.Tensor:
    """As bits, beside the logits."""
    batch, vocab = logits.shape
    kinds = {torch.bool: vocab, torch.int32: bitmask.words(vocab)}
    if not isinstance(allowed, torch.Tensor) or allowed.dtype not in kinds:
        found = allowed.dtype if isinstance(allowed, torch.Tensor) else type(allowed).__name__
        raise TypeError(
            f"allowed must be an int32 tensor of bits or a bool tensor, got {found}; a grammar "
            "engine's bitmask is int32 already."
        )
    width = kinds[allowed.dtype]
    if allowed.shape not in ((width,), (1, width), (batch, width)):
        wanted = "[B, V]" if allowed.dtype == torch.bool else "[B, ceil(V / 32)]"
        raise ValueError(
            f"allowed has shape {list(allowed.shape)}, but {batch} rows of {vocab} tokens take "
            f"{wanted} = {[batch, width]}; pad it, or cut the logits, to one vocabulary."
        )
    allowed = allowed.to(logits.device).reshape(-1, width)
    bits = bitmask.packed(allowed) if allowed.dtype == torch.bool else allowed.contiguous()
    return bits.expand(batch, -1)


def _history(edits: Edits, batch: int) -> History | None:
    given = edits.prompt_ids is not None or edits.output_ids is not None
    if edits.history is None and not given:
        return None
    if edits.history is not None:
        if given:
            raise TypeError("history and prompt_ids or output_ids were given; pass one of them.")
        if not isinstance(edits.history, History):
            raise TypeError(f"history must be a History, got {edits.history!r}.")
        history = edits.history
    else:
        prompt = edits.prompt_ids
        if prompt is None:
            assert edits.output_ids is not None
            prompt = edits.output_ids[..., :0]
        history = History(prompt, edits.output_ids)
    if len(history) != batch:
        name = "history has" if edits.history is not None else "prompt_ids and output_ids have"
        raise ValueError(
            f"{name} {len(history)} rows but logits have {batch}; pass the tokens of these rows."
        )
    return history


def _check_vocab(name: str, ids: torch.Tensor, vocab: int) -> None:
    """Raise where an id [B, n] is none of the vocabulary; -1 stands for none."""
    wrong = (ids < -1) | (ids >= vocab)
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} holds token {int(ids[row, place])} in row {row}; token ids go from 0 to "
            f"{vocab - 1}."
        )


def _ids(name: str, ids: Any, logits: torch.Tensor, validate: bool) -> torch.Tensor:
    """int64 [B, n], -1 for none, from a list for all rows or a tensor [n] or [B, n]."""
    if not isinstance(ids, torch.Tensor):
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise TypeError(f"{name} must be token ids, got {ids!r}.")
        ids = torch.tensor(list(ids), dtype=torch.int64, device="cpu")
    if ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be an int64 or int32 tensor of token ids, got {ids.dtype}.")
    if ids.dim() not in (1, 2) or (ids.dim() == 2 and len(ids) not in (1, len(logits))):
        raise ValueError(
            f"{name} has shape {list(ids.shape)} but logits have {len(logits)} rows; pass [n] for "
            f"all of them or [{len(logits)}, n]."
        )
    ids = (ids if ids.dim() == 2 else ids[None]).long()
    if validate:
        _check_vocab(name, ids, logits.shape[-1])
    return ids.to(logits.device).expand(len(logits), -1)


def _bias(
    logit_bias: Any, logits: torch.Tensor, validate: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids int64 and values fp32, [B, n]."""
    if isinstance(logit_bias, Mapping):
        for token, value in logit_bias.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"logit_bias of token {token!r} is {value!r}; pass a number.")
        values = torch.tensor(list(logit_bias.values()), dtype=torch.float32, device="cpu")
        ids: Any = list(logit_bias)
        validate = True  # on the CPU
    elif isinstance(logit_bias, tuple) and len(logit_bias) == 2:
        ids, values = logit_bias
        if not isinstance(values, torch.Tensor) or not values.is_floating_point():
            raise TypeError(
                "logit_bias must hold a tensor of ids and one of floating-point values."
            )
        if values.shape != getattr(ids, "shape", None):
            raise ValueError(
                f"logit_bias has ids {list(getattr(ids, 'shape', []))} but values "
                f"{list(values.shape)}; pass a value for each id."
            )
    else:
        raise TypeError(f"logit_bias must be {{token: bias}} or (ids, values), got {logit_bias!r}.")
    ids = _ids("logit_bias", ids, logits, validate)
    values = (values if values.dim() == 2 else values[None]).float()
    if validate:
        wrong = ~(values < torch.inf) & (ids.cpu() >= 0).to(values.device)
        if wrong.any():
            row, place = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"logit_bias of token {int(ids[row, place])} is {values[row, place]}; pass a "
                "finite number, or -inf to ban it."
            )
        ordered = ids.sort(dim=1).values
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if twice.any():
            row, place = twice.nonzero()[0].tolist()
            raise ValueError(
                f"logit_bias holds token {int(ordered[row, place])} twice in row {row}; pass one "
                "value."
            )
    return ids, values.to(logits.device).expand(len(logits), -1)


def _banned_stops(
    edits: Edits,
    history: History | None,
    columns: dict[str, torch.Tensor],
    logits: torch.Tensor,
    step: Step,
    validate: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The stop ids, and -inf where too few tokens were generated, else 0."""
    if edits.stop_ids is None:
        raise ValueError("min_tokens bans stop_ids for a while; pass these ids as well.")
    ids = _ids("stop_ids", edits.stop_ids, logits, validate)
    count = step if history is None else history.generated
    generated = torch.as_tensor(count, device=logits.device).expand(len(logits))
    few = generated < columns[records.MIN_TOKENS.name].to(logits.device)
    values = torch.zeros(ids.shape, device=logits.device)
    return ids, values.masked_fill(few[:, None], -torch.inf)


def _ordered(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> Entries:
    """One list of all, ordered by id; an id of two parts has the values' sum."""
    ids, values = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    ids, order = ids.masked_fill(ids < 0, END).int().sort(dim=1, stable=True)
    values = values.gather(1, order)
    again = ids[:, 1:] == ids[:, :-1]
    more = torch.nn.functional.pad(values[:, 1:].masked_fill(~again, 0.0), (0, 1))
    ids[:, 1:].masked_fill_(again, END)
    ids, order = ids.sort(dim=1)
    return Entries(ids, (values + more).gather(1, order))
