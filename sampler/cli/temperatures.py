"""Several values after one `--temperature`, which typer by itself reads only if it is repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

OPTION = "--temperature"


class SeveralTemperatures(TyperCommand):
    """A command that takes `--temperature 0.5 1 2`; the values end where a word is no number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_repeat_option(args)))


def _repeat_option(arguments: Sequence[str]) -> Iterator[str]:
    """`--temperature 0.5 1 2` as `--temperature 0.5 --temperature 1 --temperature 2`."""
    listing, before = False, ""  # whether values may follow; the word before
    for argument in arguments:
        if listing and before != OPTION:  # the first value stands behind the option already
            listing = _is_number(argument)
            if listing:
                yield OPTION
        yield argument
        listing = listing or argument == OPTION or argument.startswith(f"{OPTION}=")
        before = argument


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
