"""epsilon cutoff: tokens at least so probable, among what is left (arXiv 2210.15191)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..contract.mass import log2_mass
from .record import Axis, Filter, log2_column

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _keep(table: BlockTable, kept: torch.Tensor, log2_epsilon: torch.Tensor) -> torch.Tensor:
    """2**z / mass >= epsilon, by logarithms; the best token always."""
    least = (log2_epsilon.double() + log2_mass(table.mass(kept))[:, None]).float()
    return table.z >= torch.minimum(least, table.best_z(kept))


EPSILON_CUTOFF = Filter(
    name="epsilon_cutoff",
    kind=float,
    low=0.0,
    high=1 - 2**-24,  # the largest fp32 below 1
    off=0.0,
    help="Keep tokens at least this probable among those that the other filters keep; 0 is off.",
    remedy="use a number from 0 to below 1; 0 switches it off",
    axis=Axis(1e-6, 0.1, log=True),
    hf=("EpsilonLogitsWarper", "epsilon"),
    column=log2_column,
    keep=_keep,
)
