"""typical p: tokens whose surprise is near the entropy, up to a share of the mass.

Meister et al., "Locally typical sampling" (arXiv 2202.00666).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .record import Axis, Filter, share_column
from .top_p import reached

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _keep(table: BlockTable, kept: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Up to the distance from the mean of -z at which the mass of the nearest tokens reaches P."""
    mean = (table.depth(kept).double() / table.mass(kept).double()).float()
    nearness = -(table.z + mean[:, None]).abs()
    return (nearness >= reached(table, kept, nearness, p)) | (p >= 1)


TYPICAL_P = Filter(
    name="typical_p",
    kind=float,
    low=2.0**-24,
    high=1.0,
    off=1.0,
    help="Keep the tokens of the most typical surprise that hold this share; 1 is off.",
    remedy="use a number above 0, to 1; 1 switches it off",
    axis=Axis(0.01, 1.0),
    hf=("TypicalLogitsWarper", "mass"),
    column=share_column,
    keep=_keep,
)
