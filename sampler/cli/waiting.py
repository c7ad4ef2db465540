"""What a command says while its user waits: for a model, for kernels that are compiled."""

from __future__ import annotations

import sys
import threading

import torch
from rich.console import Console

from ..dispatch import choose_backend
from ..models.embedded import EMBEDDED
from ..models.load import DOWNLOADING, LoadedModel, load_model
from ..warmup import warmup

PATIENCE = 2.0  # seconds; kernels that were compiled before take half of one to load
COMPILED = {"cpu": "CPU", "triton": "GPU"}  # backends


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


def load_to_look(name: str | None, device: str | None = None) -> LoadedModel:
    """The model, with kernels ready for the fp32 logits of views on `device`; None: the model's."""
    loaded = load_for_command(name)
    place = torch.device(device or loaded.model.device)
    compile_kernels(place, loaded.vocabulary, torch.float32)
    return loaded


def compile_kernels(device: torch.device, vocabulary: int, dtype: torch.dtype) -> None:
    """Have kernels for such logits. On a terminal the user is told why, where that takes long.

    Without it the first token would seem to take seconds, the first time on a machine.
    """
    kernels = COMPILED.get(choose_backend("auto", device))
    if kernels is None:
        return
    console = Console(file=sys.stderr)
    line = f"Compiling the {kernels} kernels, once per machine"
    notice = threading.Timer(PATIENCE, console.print, [line], {"highlight": False})
    notice.daemon = True
    if console.is_terminal:
        notice.start()
    try:
        warmup(vocabulary, dtype, device)
    finally:
        notice.cancel()
