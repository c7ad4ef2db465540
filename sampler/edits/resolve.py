"""From the edits as they are given to what the backends read: checked, a line a row."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

from ..contract.draws import Step
from ..filters import Parameter
from ..ids import check_kind_of_ids, check_plain, check_range_of_ids
from ..params import check_number, check_tensor, column_of, is_on
from ..slots import Slots
from . import bitmask, records
from .arguments import Edits
from .dry import dry_penalty, repeated_lengths
from .history import END, History
from .lists import Entries, ban_until, bias_entries, ids_by_row, together

_PENALTIES = (
    records.REPETITION_PENALTY,
    records.FREQUENCY_PENALTY,
    records.PRESENCE_PENALTY,
    records.DRY_MULTIPLIER,
)


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
    edits: Edits,
    logits: torch.Tensor,
    step: Step,
    validate: bool,
    slots: Slots | None = None,
) -> RowEdits | None:
    """Check the edits and give each row of `logits` [B, V] its own; None where none changes any.

    `validate=False` leaves the values of tensors unread, so that nothing waits for the device.
    With `slots` numbers and the step may be tables.
    """
    batch, vocab = logits.shape
    numbers = {
        name: _checked(name, getattr(edits, name), batch, validate, slots)
        for name in records.NUMBERS
    }

    def column(record: Parameter) -> torch.Tensor:
        return column_of(record, numbers[record.name], logits.device).expand(batch)

    allowed = None if edits.allowed is None else _allowed(edits.allowed, logits)
    history = _history(edits, batch)
    penalized = [r.name for r in _PENALTIES if is_on(r.name, numbers[r.name])]
    counts = dry = None
    if penalized:
        if history is None:
            raise ValueError(
                f"{penalized[0]} needs the tokens so far; pass history=History(prompt_ids), or "
                "prompt_ids and output_ids."
            )
        history = history.to(logits.device)
        if validate:
            check_range_of_ids(
                "the history", history.ids.masked_fill(history.ids == END, -1), vocab
            )
        counts = Entries(history.ids, history.counts)
    if records.DRY_MULTIPLIER.name in penalized:
        assert history is not None
        breakers = None
        if edits.dry_breakers is not None:
            breakers = ids_by_row("dry_breakers", edits.dry_breakers, logits, validate)
        window = column(records.DRY_RANGE).to(logits.device)
        lengths = repeated_lengths(history, breakers, window)
        how = (records.DRY_MULTIPLIER, records.DRY_BASE, records.DRY_ALLOWED_LENGTH)
        dry = dry_penalty(lengths, *map(column, how))
    lists = []
    if edits.logit_bias is not None:
        lists.append(bias_entries(edits.logit_bias, logits, validate))
    if is_on(records.MIN_TOKENS.name, numbers[records.MIN_TOKENS.name]):
        generated = history.generated if history is not None else _of_rows(step, slots)
        least = column(records.MIN_TOKENS).to(logits.device)
        enough = torch.as_tensor(generated).to(logits.device).expand(batch) >= least
        lists.append(ban_until(edits.stop_ids, enough, logits, validate))
    lists = [entries for entries in lists if entries.ids.shape[1]]
    bias = functools.reduce(together, lists) if lists else None
    if allowed is None and bias is None and counts is None:
        return None
    repetition, frequency, presence = map(column, _PENALTIES[:3])
    return RowEdits(allowed, bias, counts, repetition, frequency, presence, dry)


def _of_rows(values: Any, slots: Slots | None) -> Any:
    """Numbers as they are, and of a table each row's line."""
    if slots is None or not isinstance(values, torch.Tensor) or values.numel() == 1:
        return values
    return values.to(slots.numbers.device).reshape(-1)[slots.numbers.long()]


def _checked(name: str, value: Any, batch: int, validate: bool, slots: Slots | None) -> Any:
    """A number, a tensor with one a row, or None."""
    value = _of_rows(value, slots)
    if isinstance(value, torch.Tensor):
        check_tensor(name, value, batch, validate)
    elif value is not None:
        check_number(name, value)
    return value


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
    check_plain("allowed", allowed)
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
            check_kind_of_ids("output_ids", edits.output_ids)
            assert edits.output_ids is not None
            prompt = edits.output_ids[..., :0]
        history = History(prompt, edits.output_ids)
    if len(history) != batch:
        name = "history has" if edits.history is not None else "prompt_ids and output_ids have"
        raise ValueError(
            f"{name} {len(history)} rows but logits have {batch}; pass the tokens of these rows."
        )
    return history
