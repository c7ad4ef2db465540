"""Functions made slow, to see where their time is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

DELAY = 0.02  # seconds


def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, `DELAY` later."""

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(DELAY)
        return function(*args, **kwargs)

    return slow
