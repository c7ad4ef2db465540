"""Ids that a model could draw and its tokenizer cannot spell: they are forbidden.

Many models pad their vocabulary to a round number, and some tokenizers leave gaps in theirs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch


@lru_cache(4)  # gathering them takes a tenth of a second where a vocabulary is large
def spelled_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that the tokenizer can spell."""
    return frozenset(tokenizer.get_vocab().values())


@lru_cache(4)
def unspelled_ids(tokenizer: Any, vocabulary: int) -> torch.Tensor:
    """Those that it cannot spell of the ids below `vocabulary`, ascending, int64 on the CPU."""
    spelled = spelled_ids(tokenizer)
    return torch.tensor([i for i in range(vocabulary) if i not in spelled], dtype=torch.int64)


def forbid_unspelled(logits: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Logits `[..., V]` with `-inf` for what the tokenizer cannot spell; not copied if none."""
    ids = unspelled_ids(tokenizer, logits.shape[-1])
    return logits.index_fill(-1, ids.to(logits.device), -torch.inf) if len(ids) else logits


def unspelled_note(vocabulary: int, unspelled: int) -> str | None:
    """What a user is told of the forbidden ids, where there are any."""
    if not unspelled:
        return None
    are = "are" if unspelled > 1 else "is"
    return (
        f"{vocabulary - unspelled} of {vocabulary} ids: {unspelled} that the tokenizer cannot "
        f"spell {are} forbidden"
    )
