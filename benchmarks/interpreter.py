"""Triton's interpreter, quicker. TRITON_INTERPRET=1 has to be set before Triton is imported."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import ModuleType
from typing import Any

from triton.runtime import interpreter


def quicken() -> None:
    """Leave out what the interpreter does again and again to no effect."""
    _patch_once_a_launch()
    _keep_dtypes()
    # It works out whether each int32 operation overflows, for an assertion that is off by default.
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)


def _patch_once_a_launch() -> None:
    """Let a launch patch `triton.language` once, not at every call of a device function.

    The interpreter patches whatever language modules a function sees, each time it is called; what
    the first call has patched stays patched until the launch ends.
    """
    launch, patch = interpreter.GridExecutor.__call__, interpreter._patch_lang
    patched: set[tuple[int, ...]] = set()

    @functools.cache
    def modules_seen(fn: Any) -> tuple[int, ...]:
        return tuple(sorted({id(v) for v in fn.__globals__.values() if isinstance(v, ModuleType)}))

    def launch_afresh(self: Any, *args: Any, **kwargs: Any) -> None:
        patched.clear()
        launch(self, *args, **kwargs)

    def patch_once(fn: Any) -> Any:
        seen = modules_seen(fn)
        if seen in patched:
            return None
        patched.add(seen)
        return patch(fn)

    interpreter.GridExecutor.__call__ = launch_afresh
    interpreter._patch_lang = patch_once


def _keep_dtypes() -> None:
    """Look up the NumPy dtype of a Triton dtype, instead of making a table of all each time."""
    find = interpreter._get_np_dtype
    known: dict[str, Any] = {}

    def look_up(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in known:
            known[name] = find(dtype)
        return known[name]

    interpreter._get_np_dtype = look_up
