"""min-p in vLLM's place: before top-k and top-p."""

from __future__ import annotations

from typing import Any

import torch

from ...api import mask_logits
from ...params import RECORDS

# What comes before top-k and top-p; vLLM has min-p there, too.
_BEFORE = ("temperature", "top_n_sigma", "top_h", "min_p")


def min_p_first(
    logits: torch.Tensor, values: dict[str, Any], rows: torch.Tensor, lines: torch.Tensor
) -> torch.Tensor:
    """Where a row has top-p too, vLLM lets that see what min-p left; ours is the other way round.

    Those rows are filtered by min-p in a call of its own, together with all that comes before
    top-k, which is then off in their lines of `values`.

    Args:
        logits: [B, V]; they are not written to.
        values: columns or tables of the parameters, which change.
        rows: int64 [n], of the logits.
        lines: int64 [n], theirs in `values`.
    """
    head = {name: values[name] for name in _BEFORE if name in values}
    own = {name: column[lines] for name, column in head.items()}
    left = mask_logits(logits[rows], **own, validate=False)
    for name, column in head.items():
        values[name] = column.index_fill(0, lines, RECORDS[name].off)
    return logits.float().index_copy(0, rows, left)
