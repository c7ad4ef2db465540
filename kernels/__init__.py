"""Triton kernels (none in this version): the place of `backend="triton"`."""

from __future__ import annotations

import torch


def unavailable(device: torch.device) -> str | None:
    """Why the kernels cannot serve tensors on `device`, with the remedy; None if they can."""
    return 'this version has no Triton kernels; use backend="torch" or "auto".'
