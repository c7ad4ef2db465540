"""The filters, a file each, in the order in which they apply (contract section 4).

From a record here follow the parameter's range and errors, what the kernels read of it, the
command line's option, the explorer's slider, and which Hugging Face warper it replaces.
"""

from .epsilon_cutoff import EPSILON_CUTOFF
from .min_p import MIN_P
from .record import Axis, Filter, Parameter
from .top_k import TOP_K
from .top_p import TOP_P

FILTERS: tuple[Filter, ...] = (TOP_K, TOP_P, MIN_P, EPSILON_CUTOFF)

__all__ = ["FILTERS", "Axis", "Filter", "Parameter"]
