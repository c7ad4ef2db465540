"""What a command says while its user waits for a model."""

from __future__ import annotations

import sys

from rich.console import Console

from ..models.embedded import EMBEDDED
from ..models.load import DOWNLOADING, LoadedModel, load_model


def load_for_command(name: str | None) -> LoadedModel:
    """The model, with a spinner on a terminal while it loads. The embedded one for None."""
    # Bound to this stream: unpacking the embedded model hides sys.stderr for a moment.
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        return load_model(name)
    with console.status(f"Loading {name or EMBEDDED}") as status:

        def report(line: str) -> None:
            if line.startswith(DOWNLOADING):  # its bars and a spinner would overwrite each other
                status.stop()
                console.print(line, highlight=False)
            else:
                status.update(line)

        return load_model(name, report)
