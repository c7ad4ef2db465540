"""Triton's interpreter for tests: quicker, and with the programs of a launch in another order."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from triton.runtime import interpreter


def quicken() -> None:
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


@contextlib.contextmanager
def program_order(order: str) -> Iterator[list[int]]:
    """Run the programs of each launch "forward", "reversed" or "shuffled".

    Yields the numbers of the last launch's programs in the order in which they run.
    """
    builder = interpreter.interpreter_builder
    generator = random.Random(0)
    numbers: list[int] = []

    def place(x: int, y: int, z: int) -> None:
        _, columns, layers = builder.grid_dim
        total = builder.grid_dim[0] * columns * layers
        number = (x * columns + y) * layers + z
        if number == 0:
            numbers[:] = range(total)
            if order == "reversed":
                numbers.reverse()
            elif order == "shuffled":
                generator.shuffle(numbers)
        row, rest = divmod(numbers[number], columns * layers)
        type(builder).set_grid_idx(builder, row, *divmod(rest, layers))

    builder.set_grid_idx = place
    try:
        yield numbers
    finally:
        del builder.set_grid_idx
