"""The edits as they are given: arguments of `sample`, `mask_logits` and `FusedSampler`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from .history import History

Value = float | int | torch.Tensor | None
Ids = Sequence[int] | torch.Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Edits:
    """What changes the logits before temperature and filters, in this order. None is off.

    Numbers may be `[B]` tensors, a value a row. Each is an argument of `sample`, `mask_logits` and
    `FusedSampler` by its name; nobody has to make an `Edits`.

    Args:
        allowed: the only tokens that may be drawn: int32 `[B, ceil(V / 32)]`, token i is bit
            `i % 32` of word `i // 32`, as grammar engines give it, or bool `[B, V]`; without the B
            for all rows.
        logit_bias: `{token: bias}` for all rows, or ids and values, two tensors `[B, n]` or `[n]`,
            -1 where there is none. It is added; -inf bans.
        repetition_penalty: for tokens of prompt and output: `x * r` where x is negative, else
            `x / r`.
        frequency_penalty: for tokens of the output, with `presence_penalty` p:
            `x -= f * count + p`.
        presence_penalty: the p of that.
        dry_multiplier: DRY: where drawing a token would make the text repeat the L tokens before
            it, and L is at least the allowed length: `x -= multiplier * base ** (L - allowed)`.
        dry_base: the base of that power; None: 1.75.
        dry_allowed_length: shorter repetitions cost nothing; None: 2.
        dry_range: only so many of the last tokens of prompt and output count; None: all.
        dry_breakers: ids of tokens that no repeated sequence holds.
        min_tokens: the `stop_ids` are banned while the output has fewer tokens, as the history
            counts, or `step` where there is none.
        stop_ids: the ids of that.
        history: the tokens so far, a `History`.
        prompt_ids: the prompt instead of a history; int64 or int32 `[B, L]`, -1 where there is no
            token. It is sorted at each call; a `History` sorts once.
        output_ids: beside it what has been generated, in the same form.
    """

    allowed: torch.Tensor | None = None
    logit_bias: Mapping[int, float] | tuple[torch.Tensor, torch.Tensor] | None = None
    repetition_penalty: Value = None
    frequency_penalty: Value = None
    presence_penalty: Value = None
    dry_multiplier: Value = None
    dry_base: Value = None
    dry_allowed_length: Value = None
    dry_range: Value = None
    dry_breakers: Ids = None
    min_tokens: Value = None
    stop_ids: Ids = None
    history: History | None = None
    prompt_ids: torch.Tensor | None = None
    output_ids: torch.Tensor | None = None


EDITS = tuple(field.name for field in fields(Edits))
OF_CALLS = ("history", "prompt_ids", "output_ids")  # others at each call


def take_edits(arguments: dict[str, Any]) -> Edits | None:
    """Those among a call's arguments, which it loses; None where all are off."""
    taken = {name: arguments.pop(name) for name in EDITS if name in arguments}
    given = {name: value for name, value in taken.items() if value is not None}
    return Edits(**given) if given else None
