"""eta cutoff: epsilon's, lowered where the row's entropy is high (arXiv 2210.15191)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..contract.mass import log2_mass
from .record import Axis, Filter, log2_column

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _keep(table: BlockTable, kept: torch.Tensor, log2_eta: torch.Tensor) -> torch.Tensor:
    """2**z / M >= min(eta, sqrt(eta) * 2**-H), by logarithms, H = log2(M) + the mean of -z."""
    mass, log2_eta = table.mass(kept)[:, None], log2_eta.double()
    mean = table.depth(kept)[:, None].double() / mass.double()
    least = torch.minimum(log2_eta + log2_mass(mass), log2_eta * 0.5 - mean).float()
    return table.z >= torch.minimum(least, table.best_z(kept))


ETA_CUTOFF = Filter(
    name="eta_cutoff",
    kind=float,
    low=0.0,
    high=1 - 2**-24,  # the largest fp32 below 1
    off=0.0,
    help="Keep tokens at least as probable as min(eta, sqrt(eta) * exp(-entropy)); 0 is off.",
    remedy="use a number from 0 to below 1; 0 switches it off",
    axis=Axis(1e-6, 0.1, log=True),
    hf=("EtaLogitsWarper", "epsilon"),
    column=log2_column,
    keep=_keep,
)
