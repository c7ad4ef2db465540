"""What the suite's own commands share: options, and one line on stderr for what goes wrong."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

OTHER_FOLDER = "give another folder with --out"  # where results cannot be written


class Options(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def whole_number(text: str) -> int:
    """A number from 1 up, for an option."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")


def as_typed(options: Options, arguments: Sequence[str] | None) -> str:
    """The command line, for the results. None: that of the process."""
    return shlex.join([*options.prog.split(), *(sys.argv[1:] if arguments is None else arguments)])


def make_folder(path: Path) -> None:
    """For the results, before the work that they take. Raises ValueError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot make the folder {str(path)!r} ({error.strerror}); give another with --out"
        ) from error


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run a command and leave with its exit status: 1 for an error, 130 for Ctrl-C."""
    try:
        status = command()
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; give it a place that takes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, ImportError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
