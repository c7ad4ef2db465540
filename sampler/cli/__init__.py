"""`fused-sampler` on the command line: runs a command and turns what goes wrong into one line.

Exit status: 0 done, 1 the command could not do its work or the reader of its output went away,
2 the command line is wrong, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `fused-sampler` with `arguments` (default: those of the process); the exit status."""
    try:
        from typer import TyperException

        from .app import app
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed; run pip install 'fused-sampler[cli]'", 1)
    if isinstance(sys.stdout, TextIOWrapper):
        # A model may write a character that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = app(arguments, prog_name="fused-sampler", standalone_mode=False)
        sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit; give it a place that takes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TyperException as error:
        # typer checks choices with pydantic, whose mark in front says nothing to a user.
        message = error.format_message().replace(": Value error, ", ": ", 1)
        return _fail(f"{message} (see fused-sampler --help)", error.exit_code)
    except (ValueError, ImportError) as error:  # the library's own: one sentence for the user
        return _fail(str(error), 1)


def _fail(message: str, status: int) -> int:
    print("fused-sampler:", " ".join(message.split()), file=sys.stderr)
    return status
