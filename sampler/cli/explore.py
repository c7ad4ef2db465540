"""`fused-sampler explore`: a page that shows how the next token is chosen, served or saved."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ..explorer.page import saved_page
from ..explorer.server import ExploreServer
from ..explorer.text import Explorer
from ..views.files import writing
from ..views.request import Request
from .files import check_file
from .waiting import load_to_look


def run_explore(request: Request, port: int, browser: bool) -> None:
    """Serve the page until Ctrl-C, and open it where there is a display and `browser`."""
    with ExploreServer(port) as server:  # first: a port in use is told before a model is loaded

        def ready() -> None:
            print(f"The explorer is at {server.url} (Ctrl-C stops it)", flush=True)
            if browser and has_display():
                webbrowser.open(server.url)

        server.serve(Explorer(load_to_look(request.model, "cpu")), request, ready)


def run_export(request: Request, path: Path) -> None:
    """Write the page to a file that needs no server."""
    check_file(path, "export", "such as page.html")
    explorer = Explorer(load_to_look(request.model, "cpu"))
    console = Console(stderr=True)
    page = saved_page(
        explorer,
        request,
        lambda steps: track(steps, "Computing", console=console, disable=not console.is_terminal),
    ).encode()
    with writing(path, "give another file with --export"):
        path.write_bytes(page)
    print(f"{path}: {len(page) / 1000:.0f} kB; open it in any browser")


def has_display() -> bool:
    """Whether a browser could open a window; without, Python may start one in the terminal."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
