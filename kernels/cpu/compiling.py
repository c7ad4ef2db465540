"""How the kernels of this folder are compiled: decorators, and the cache on disk.

Numba keys its cache by the file of the entry function alone, and the entry calls functions of other
files. So an entry is a closure over `SOURCES`, which Numba makes part of the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from numba import njit

SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()

# No fast-math: contract arithmetic rounds each step. Divisions by zero follow IEEE, unchecked.
device = njit(error_model="numpy")


def entry(function: Callable) -> Callable:
    """Compiled for calls from Python: without the interpreter's lock, kept on disk.

    Where no folder can be written, neither beside the package nor the user's own, nothing is kept.
    """
    try:
        return njit(error_model="numpy", nogil=True, cache=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return njit(error_model="numpy", nogil=True)(function)
