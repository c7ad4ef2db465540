"""The textbook of the edits: what the kernels do as they read logits (contract section 1)."""

from __future__ import annotations

import torch

from . import bitmask
from .resolve import RowEdits


def edited(logits: torch.Tensor, edits: RowEdits | None) -> torch.Tensor:
    """The logits [B, V] with all edits, fp32; without any, as they are."""
    if edits is None:
        return logits
    vocab = logits.shape[-1]
    x = torch.nn.functional.pad(logits.float(), (0, 1))  # a place for the ids that stand for none
    if edits.allowed is not None:
        x[:, :vocab].masked_fill_(~bitmask.unpacked(edits.allowed, vocab), -torch.inf)
    if edits.bias is not None:
        places = edits.bias.ids.clamp(max=vocab).long()
        x.scatter_(1, places, x.gather(1, places) + edits.bias.values)
    if edits.counts is not None:
        places = edits.counts.ids.clamp(max=vocab).long()
        x.scatter_(1, places, _penalized(x.gather(1, places), edits))
    return x[:, :vocab]


def _penalized(x: torch.Tensor, edits: RowEdits) -> torch.Tensor:
    """Logits of the tokens of prompt and output, [B, n]. Each operation is rounded."""
    assert edits.counts is not None
    columns = edits.repetition, edits.frequency, edits.presence
    repetition, frequency, presence = (column.to(x.device)[:, None] for column in columns)
    counts = edits.counts.values
    x = torch.where(x < 0, x * repetition, x / repetition)
    x = torch.where(counts > 0, x - (frequency * counts.float() + presence), x)
    return x if edits.dry is None else x - edits.dry
