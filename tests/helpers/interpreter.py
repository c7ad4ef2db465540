"""Triton's interpreter with the programs of a launch in another order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

from triton.runtime import interpreter


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
