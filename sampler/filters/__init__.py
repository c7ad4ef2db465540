"""The filters, a file each, in the order in which they apply (contract section 4).

From a record here follow the parameter's range and errors, what the kernels read of it, the
command line's option, the explorer's slider, and which Hugging Face warper it replaces.
"""

from .epsilon_cutoff import EPSILON_CUTOFF
from .eta_cutoff import ETA_CUTOFF
from .min_p import MIN_P
from .record import Axis, Filter, Parameter
from .top_a import TOP_A
from .top_h import TOP_H
from .top_k import TOP_K
from .top_n_sigma import TOP_N_SIGMA
from .top_p import TOP_P
from .typical_p import TYPICAL_P
from .xtc_threshold import XTC_THRESHOLD

FILTERS: tuple[Filter, ...] = (
    TOP_N_SIGMA,
    TOP_H,
    TOP_K,
    TOP_P,
    MIN_P,
    TYPICAL_P,
    EPSILON_CUTOFF,
    ETA_CUTOFF,
    TOP_A,
    XTC_THRESHOLD,
)

__all__ = ["FILTERS", "Axis", "Filter", "Parameter"]
