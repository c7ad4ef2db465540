"""The file that a command writes: refused before the work where it can be, else with one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


def check_file(path: Path, option: str, names: str) -> None:
    """Refuse what could never be written; `names` says what a name for `option` is like."""
    problem = None
    if path == Path():  # of an empty text, too
        problem = f"it names no file; give a name {names}"
    elif not os.path.isdir(path.parent):  # pathlib's raises where the name is too long
        problem = f"{str(path.parent)!r} is no folder; make it first"
    elif os.path.isdir(path):
        problem = f"{str(path)!r} is a folder; give another name"
    if problem:
        raise typer.BadParameter(problem, param_hint=f"'{option}'")


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Name the file and the option where it cannot be written. Raises ValueError."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write {str(path)!r} ({error.strerror}); give another file with {option}"
        ) from error
