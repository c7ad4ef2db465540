"""The explorer's page: one file of HTML that holds its style, its script and its data."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ..cli.files import writing
from ..views.request import Request
from .text import Explorer
from .view import SAMPLES, TOP, View

SCRIPTS = ("source.js", "charts.js", "text.js", "page.js")
SAVED_TEMPERATURES = [step / 4 for step in range(21)]  # 0 to 5


def render_page(request: Request, views: list[View], saved: bool) -> str:
    """The page of `views`: the first one shown by a server, or all that a saved page can show."""
    assets = files("fused_sampler.explorer") / "web"
    data = {
        "version": version("fused-sampler"),
        "request": {
            "prompt": request.prompt,
            **request.sampling,
            "seed": str(request.seed),  # may need more bits than JavaScript's numbers have
        },
        "top": TOP,
        "samples": SAMPLES,
        "saved": saved,
        "views": [asdict(view) for view in views],
    }
    parts = {
        "style": (assets / "style.css").read_text(encoding="utf-8"),
        "script": "\n".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    }
    page = (assets / "page.html").read_text(encoding="utf-8")
    for name, text in parts.items():  # the data last: it may hold any text
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def save_page(explorer: Explorer, request: Request, path: Path) -> int:
    """Write a page that needs no server, for `SAVED_TEMPERATURES` and the request's; its bytes."""
    temperatures = sorted({*SAVED_TEMPERATURES, request.temperature})
    console = Console(stderr=True)
    shown = track(temperatures, "Computing", console=console, disable=not console.is_terminal)
    views = [explorer.view(replace(request, temperature=t), samples=SAMPLES) for t in shown]
    page = render_page(request, views, saved=True).encode()
    with writing(path, "--export"):
        path.write_bytes(page)
    return len(page)
