"""From the host to where the logits are."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def upload(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A column [B], for which the host does not wait."""
    column = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type == "cpu":
        return column
    return column.pin_memory().to(device, non_blocking=True)
