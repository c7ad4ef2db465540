"""What goes wrong while a file is written, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Around the writing of `path`, or of files in it: an OSError becomes a ValueError."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or path)
        raise ValueError(f"cannot write {named!r} ({error.strerror}); {remedy}") from error
