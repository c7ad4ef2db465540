"""The file that a command writes: refused before the work where it could never be written."""

from __future__ import annotations

import os
from pathlib import Path

from .options import wrong


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
        raise wrong(option, problem)
