"""How the kernels of this folder are compiled: decorators, and the cache on disk.

Numba keys its cache by the file of the entry function alone, and the entry calls functions of other
files and holds constants of the package. So an entry is a closure over `SOURCES`, which Numba makes
part of the key.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

from numba import njit
from numba.core.caching import FunctionCache

from fused_sampler import params
from fused_sampler.contract import mass
from fused_sampler.edits import bitmask, history

_CONSTANTS = [Path(str(module.__file__)) for module in (mass, params, bitmask, history)]
_PATHS = [*sorted(Path(__file__).parent.glob("*.py")), *_CONSTANTS]
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in _PATHS)).hexdigest()

# No fast-math: contract arithmetic rounds each step. Divisions by zero follow IEEE, unchecked.
device = njit(error_model="numpy")


class _Cache(FunctionCache):
    """Numba's, but a full disk is no error: nothing is kept."""

    def save_overload(self, sig, data):
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def entry(function: Callable) -> Callable:
    """Compiled for calls from Python: without the interpreter's lock, kept on disk.

    Where no folder can be written, neither beside the package nor the user's own, nothing is kept.
    """
    compiled = njit(error_model="numpy", nogil=True)(function)
    with contextlib.suppress(RuntimeError):  # "cannot cache function: no locator available"
        compiled._cache = _Cache(function)  # as `cache=True` does it
    return compiled
