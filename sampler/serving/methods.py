"""Methods of an engine's classes, replaced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str, ours: Callable[..., Any]) -> None:
    """Replace a method by `ours`, which gets the one that was there as its first argument."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(functools.partial(original, self), self, *args, **kwargs)

    setattr(owner, name, method)
