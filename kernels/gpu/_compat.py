"""What Triton 3.4 lacks: `tl.range(..., disable_licm=True)`, which it may do without.

The argument keeps the compiler from computing ahead of a loop what the loop needs, and holding it
in registers meanwhile; without it the same code may spill.
"""

from __future__ import annotations

import inspect
from typing import Any

import triton.language as tl


def accept_disable_licm() -> None:
    """Let `tl.range` take the argument, and ignore it, where it is not known."""
    known = inspect.signature(tl.range.__init__).parameters
    if "disable_licm" not in known:
        original = tl.range.__init__

        def without(self: Any, *args: Any, disable_licm: bool = True, **kwargs: Any) -> None:
            original(self, *args, **kwargs)

        tl.range.__init__ = without
