"""Pictures of the results, PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from .drawing import STYLE, bar_figure, colour_of, draw_bars, figure_of, in_order, legend
from .ours import Ours, OursInGraph
from .plan import SWEEP_BATCH, VOCAB
from .report import main_rows, title_of
from .results import FLOOR, Row, group_by
from .traffic import read_planes


def draw_plots(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Every picture that the rows have something for."""
    timed = [row for row in rows if row.median_ms is not None]
    pictures: dict[str, Callable[[], Figure | None]] = {
        "ratios": lambda: ratios(timed),
        "time-by-vocab": lambda: times_along("vocab", timed),
        "time-by-batch": lambda: times_along("batch", timed),
        "traffic": lambda: traffic(read_planes()),
    }
    written = []
    with matplotlib.rc_context(STYLE):
        for name, picture in pictures.items():
            figure = picture()
            if figure is None:
                continue
            for suffix in ("png", "svg"):
                path = folder / f"{name}.{suffix}"
                metadata = {"Date": None} if suffix == "svg" else {}
                figure.savefig(path, transparent=True, bbox_inches="tight", metadata=metadata)
                written.append(path)
    return written


def ratios(rows: Sequence[Row]) -> Figure | None:
    """How many times faster ours is, a group of bars for each case, a panel for each logits."""
    rows = main_rows(rows)
    batches = [row.batch for row in rows]
    batch = SWEEP_BATCH if SWEEP_BATCH in batches else max(batches, default=0)
    rows = [
        r
        for r in rows
        if r.batch == batch and r.ratio and r.name not in (Ours.name, OursInGraph.name, FLOOR)
    ]
    panels = dict(list(group_by(rows, "logits", "vocab", "dtype").items())[:3])
    if not panels:
        return None
    rows = [row for own in panels.values() for row in own]
    bars = {
        case: in_order(row.name for row in own) for (case,), own in group_by(rows, "case").items()
    }
    figure, axes = bar_figure(bars, panels=len(panels))
    for axis, ((logits, vocab, dtype), own) in zip(axes, panels.items(), strict=True):
        values = {(row.case, row.name): row.ratio for row in own}
        draw_bars(axis, bars, values, {at: f"{value:.3g}x" for at, value in values.items()})
        axis.axvline(1, color=colour_of(Ours.name), linewidth=2)
        axis.set_title(f"{logits} logits, V = {vocab:,}, B = {batch}, {dtype}")
        axis.set_xlabel("its time over fused-sampler's (the line)")
    legend(figure, {name: title_of(name) for name in in_order(row.name for row in rows)})
    return figure


def times_along(field: str, rows: Sequence[Row]) -> Figure | None:
    """Milliseconds against V or B, a panel for each case that was measured at several."""
    fixed = "batch" if field == "vocab" else "vocab"
    groups = group_by((row for row in rows if row.logits == "random"), fixed, "dtype", "case")
    sizes = {place: len(group_by(own, field)) for place, own in groups.items()}
    widest = max(sizes, key=lambda place: sizes[place], default=None)
    if widest is None or sizes[widest] < 2:
        return None
    alike = [place for place in groups if place[:2] == widest[:2] and sizes[place] == sizes[widest]]
    panels = {place[2]: groups[place] for place in alike[:3]}
    figure, axes = figure_of(len(panels), height=4.2)
    names = in_order(row.name for own in panels.values() for row in own)
    for axis, (case, own) in zip(axes, panels.items(), strict=True):
        for name in names:
            points = sorted((getattr(r, field), r) for r in own if r.name == name)
            if not points:
                continue
            at = [value for value, _ in points]
            times = ((r.median_ms, r.p10_ms, r.p90_ms) for _, r in points)
            middle, low, high = zip(*times, strict=True)
            style: dict[str, Any] = {"linestyle": "--"} if name == FLOOR else {"marker": "o"}
            axis.plot(at, middle, color=colour_of(name), ms=4, **style)
            axis.fill_between(at, low, high, color=colour_of(name), alpha=0.18, linewidth=0)
        axis.set(xscale="log", yscale="log", title=case)
        axis.set_xticks(sorted({getattr(r, field) for r in own}))
        axis.tick_params(axis="x", rotation=45 if field == "vocab" else 0)
        axis.xaxis.set_major_formatter(FuncFormatter(_short))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_xlabel("vocabulary V" if field == "vocab" else "batch B")
    other = f"B = {widest[0]}" if field == "vocab" else f"V = {widest[0]:,}"
    axes[0].set_ylabel(f"ms, median and p10 to p90 ({other}, {widest[1]})")
    legend(figure, {name: title_of(name) for name in names})
    return figure


def traffic(planes: Sequence[dict[str, Any]]) -> Figure:
    """Planes that are read and written, ours beside what is known of the others."""
    random = [entry for entry in planes if entry["logits"] == "random"]
    titles = {entry["name"]: entry["title"] for entry in random}
    known = {entry["case"] for entry in random if entry["name"] != Ours.name}
    bars: dict[str, list[str]] = {}
    for entry in random:
        if entry["case"] in known:
            bars.setdefault(entry["case"], []).append(entry["name"])
    ranges = {(entry["case"], entry["name"]): entry["planes"] for entry in random}
    values = {at: sum(planes) / 2 for at, planes in ranges.items()}
    labels = {
        at: f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"
        for at, (least, most) in ranges.items()
    }
    figure, (axis,) = bar_figure(bars, panels=1)
    draw_bars(axis, bars, values, labels)
    axis.set_title(f"random logits, V = {VOCAB:,}, fp32, on a GPU")
    axis.set_xlabel("planes read and written, counted or published; 1 = all logits read once")
    legend(figure, titles)
    return figure


def _short(value: float, _: int) -> str:
    return f"{value / 1000:.0f}k" if value >= 1000 else f"{value:g}"
