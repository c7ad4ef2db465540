"""The explorer's page: one file of HTML that holds its style, its script and its data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from .. import __version__
from ..filters import Parameter
from ..params import TEMPERATURE
from ..views.numbers import label
from ..views.parameters import EDITS, LOGIT_BIAS, MORE, OFFERED
from ..views.request import Request
from .text import Explorer
from .view import AHEAD, SAMPLES, TOP, View

SCRIPTS = ("source.js", "charts.js", "ahead.js", "text.js", "settings.js", "page.js")
LONGEST_SLIDER = 100  # of a parameter that runs to the size of the vocabulary
SAVED_TEMPERATURES = [step / 4 for step in range(21)]  # 0 to 5


def render_page(request: Request, views: list[View], saved: bool) -> str:
    """The page of `views`: the first one shown by a server, or all that a saved page can show."""
    assets = files("fused_sampler.explorer") / "web"
    data = {
        "version": __version__,
        "request": {
            "prompt": request.prompt,
            **request.sampling,
            **views[0].table.edits,  # as they apply: the generation config may hold some
            "seed": str(request.seed),  # may need more bits than JavaScript's numbers have
        },
        "settings": [*map(_control, OFFERED + EDITS), _BIAS],
        "top": TOP,
        "samples": SAMPLES,
        "ahead": AHEAD,
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


def _control(record: Parameter) -> dict[str, Any]:
    """What the page needs to make an input and a slider; `slider` is that element's own.

    What is on or off has no slider, for it is a box to tick.
    """
    lowest = record.axis.low if record.low else 0
    highest = min(record.axis.high, LONGEST_SLIDER)
    step = 1 if record.kind is int else _round_step((highest - lowest) / 100)
    slider = {"min": lowest, "max": highest, "step": step}
    return {
        "name": record.name,
        "label": label(record.name),
        "hint": _hint(record),
        "kind": record.kind.__name__,
        "off": record.off,
        "folded": "edits" if record in EDITS else "more" if record in MORE else None,
        "slider": None if record.kind is bool else slider,
    }


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10 and so on, with which a slider reaches round numbers."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= least * (1 - 1e-9))


_BIAS = {
    "name": LOGIT_BIAS,
    "label": label(LOGIT_BIAS),
    "hint": "id=value, …; or click a token",
    "kind": "text",
    "off": "",
    "folded": "edits",
    "slider": None,
}


def _hint(record: Parameter) -> str:
    if record is TEMPERATURE:
        return "0 is greedy"
    if record.needs:  # which may have a value all the same
        return f"needs {label(record.needs)}"
    return f"{record.off:g} is off"


def saved_page(
    explorer: Explorer,
    request: Request,
    watched: Callable[[list[float]], Iterable[float]] = iter,
) -> str:
    """A page that needs no server, for `SAVED_TEMPERATURES` and the request's.

    `watched` goes through the temperatures, and may show how far it is.
    """
    temperatures = sorted({*SAVED_TEMPERATURES, request.temperature})
    views = [
        explorer.view(request.at(temperature=t), samples=SAMPLES, ahead=AHEAD)
        for t in watched(temperatures)
    ]
    return render_page(request, views, saved=True)
