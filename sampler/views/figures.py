"""The figures of `fused-sampler plot`, for papers and slides: light, and legible without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import matplotlib
except ImportError as error:
    raise ImportError(
        "matplotlib is not installed; run pip install 'fused-sampler[plot]'"
    ) from error

from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, StrMethodFormatter

from ..params import RECORDS, TEMPERATURE
from .inspect import Inspection, spelling
from .numbers import label
from .parameters import LOGIT_BIAS, NEXT_EDITS, OFFERED, is_on
from .sweep import Curve

FONT = "DejaVu Sans"  # comes with matplotlib: the figure looks the same everywhere
INK, RULE = "#333333", "#dddddd"
GROUP = 0.76  # of the height that a token has, filled by its bars
PLAIN = "#6b7683"  # bars that belong to no temperature
DROPPED: dict[str, Any] = {"facecolor": "#f4f4f4", "edgecolor": "#a8a8a8", "hatch": "//////"}
MOVED: dict[str, Any] = {"facecolor": "none", "edgecolor": INK, "linestyle": ":"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), "-.", (0, (9, 2)), (0, (3, 1, 1, 1)))
style = matplotlib.rc_context(
    {
        "font.family": FONT,
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # a dollar in a token is a dollar
        "axes.edgecolor": RULE,
        "axes.labelcolor": INK,
        "axes.titlesize": 10,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "xtick.color": RULE,
        "xtick.labelcolor": INK,
        "ytick.color": RULE,
        "ytick.labelcolor": INK,
        "hatch.linewidth": 0.5,
        "legend.frameon": False,
        "pdf.fonttype": 42,  # journals refuse the default, Type 3
        "svg.hashsalt": "fused-sampler",  # the same figure is the same file
    }
)


@style
def draw_panels(inspections: Sequence[Inspection]) -> Figure:
    """Logits, logits / T and probabilities of the best tokens, for one prompt at temperatures."""
    first = inspections[0]
    places = range(len(first.tokens))
    width = GROUP / len(inspections)
    height = 1.6 + len(places) * (0.16 + 0.09 * len(inspections))
    figure = _figure(first, height)
    panels = figure.subplots(1, 3, sharey=True)
    for panel, title in zip(panels, ("logit", "logit / T", "probability"), strict=True):
        panel.set_title(title)
        panel.grid(axis="x")
        panel.tick_params(axis="y", length=0)

    kept = [[row.kept for row in inspection.tokens] for inspection in inspections]
    kept_by_any = [any(column) for column in zip(*kept, strict=True)]
    _bars(panels[0], places, [row.logit for row in first.tokens], kept_by_any, PLAIN, GROUP)
    _outlines(panels[0], places, [row.logit_before for row in first.tokens], first, GROUP)
    handles = []
    for number, (inspection, own, colour) in enumerate(
        zip(inspections, kept, colours(len(inspections)), strict=True)
    ):
        at = [place + (number + 0.5) * width - GROUP / 2 for place in places]
        scaled = [row.scaled_logit for row in inspection.tokens]
        _bars(panels[1], at, scaled, own, colour, width)
        probabilities = [row.probability for row in inspection.tokens]
        bars = _bars(panels[2], at, probabilities, own, colour, width)
        panels[2].bar_label(bars, fmt="{:.2g}", padding=2, fontsize=6)
        before = [row.probability_before for row in inspection.tokens]
        _outlines(panels[2], at, before, inspection, width)
        label = f"T = {inspection.sampling['temperature']:g}: {inspection.kept:,} kept"
        handles.append(Patch(facecolor=colour, label=label))
    if not all(map(all, kept)):
        handles.append(Patch(**DROPPED, label="dropped"))
    if first.edited:
        handles.append(Patch(**MOVED, label="before penalties and bias"))

    panels[2].margins(x=0.14)  # room for the figure at the longest bar
    panels[0].set_yticks(places, [_printable(spelling(row), 24) for row in first.tokens])
    panels[0].set_ylim(len(places) - 0.4, -0.6)  # the best token on top
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


@style
def draw_sweep(inspection: Inspection, curves: Sequence[Curve], name: str) -> Figure:
    """Kept tokens and entropy against the parameter `name`; the inspection tells of what."""
    figure = _figure(inspection, height=3.8)
    count, entropy = panels = figure.subplots(1, 2)
    count.set_title("tokens kept")
    entropy.set_title("entropy of the kept tokens, in bits")
    for curve, colour, dash in zip(curves, colours(len(curves)), DASHES, strict=False):
        look = {"color": colour, "linestyle": dash, "linewidth": 1.8, "label": curve.label}
        look |= {"clip_on": False, "zorder": 3}  # a line along an axis shows in full
        count.plot(curve.values, curve.kept, **look)
        entropy.plot(curve.values, curve.entropy, **look)
    for panel in panels:
        panel.grid()
        panel.set_xlabel(label(name))
        panel.set_xmargin(0.01)
        if RECORDS[name].axis.log:
            _logarithmic(panel, "x")
    kept = [number for curve in curves for number in curve.kept]
    if max(kept) >= 10 * min(kept):
        _logarithmic(count, "y")
    else:  # a scale of powers of ten might have none to show
        count.yaxis.set_major_locator(MaxNLocator(integer=True))
        count.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    entropy.set_ylim(bottom=0)
    if name != "temperature":
        handles = entropy.get_lines()
        figure.legend(handles=handles, loc="outside lower center", ncols=6, handlelength=3)
    return figure


@style
def save(figure: Figure, path: Path) -> None:
    """Write PNG, SVG or PDF, by the suffix; without the date, so that equal figures are equal."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=160, metadata=dates.get(path.suffix.lower()))


def _figure(inspection: Inspection, height: float) -> Figure:
    """An empty figure that says of which prompt, model and filters it is."""
    sampling = inspection.sampling
    settings = [
        label(record.name)
        + ("" if sampling[record.name] is True else f" {sampling[record.name]:g}")
        for record in OFFERED
        if record is not TEMPERATURE and is_on(record, sampling)
    ]
    settings += _edits(inspection.edits)
    prompt, model = (_printable(text, 55) for text in (repr(inspection.prompt), inspection.model))
    what = "First token in answer to" if inspection.chat else "Next token after"
    title = f"{what} {prompt}\n{_lines([model, *settings])}"
    figure = Figure(figsize=(10, height), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=10)
    return figure


def _edits(edits: Mapping[str, Any]) -> list[str]:
    """Those that do something, and are not what they are by default."""
    on = [
        f"{label(record.name)} {edits[record.name]:g}"
        for record in NEXT_EDITS
        if is_on(record, edits) and edits[record.name] != record.off
    ]
    return on + [f"{label(LOGIT_BIAS)} {bias}" for bias in [edits[LOGIT_BIAS]] if bias]


def _lines(parts: Sequence[str]) -> str:
    """The parts with commas between them, on as many lines as the figure's width asks for."""
    text, length = parts[0], len(parts[0])
    for part in parts[1:]:
        fits = length + len(part) < 80
        text += f", {part}" if fits else f",\n{part}"
        length = (length + 2 if fits else 0) + len(part)
    return text


def _bars(
    panel: Axes,
    at: Sequence[float],
    lengths: Sequence[float | None],
    kept: Sequence[bool],
    colour: Any,
    width: float,
) -> BarContainer:
    """Horizontal bars, pale and hatched where the token is dropped; no bar for None."""
    return panel.barh(
        at,
        [length or 0.0 for length in lengths],
        width,
        linewidth=0.6,
        color=[colour if own else DROPPED["facecolor"] for own in kept],
        edgecolor=[colour if own else DROPPED["edgecolor"] for own in kept],
        hatch=[None if own else DROPPED["hatch"] for own in kept],
    )


def _outlines(
    panel: Axes,
    at: Sequence[float],
    lengths: Sequence[float | None],
    inspection: Inspection,
    width: float,
) -> None:
    """Where the bars would end without the edits, around those that these moved."""
    moved = [
        (place, length or 0.0)
        for place, length, row in zip(at, lengths, inspection.tokens, strict=True)
        if row.logit != row.logit_before
    ]
    if moved:
        places, ends = zip(*moved, strict=True)
        panel.barh(places, ends, width, linewidth=0.9, **MOVED)


def _logarithmic(panel: Axes, axis: str) -> None:
    """A scale of powers of ten, written out in figures."""
    panel.set(**{f"{axis}scale": "log"})
    ticks = getattr(panel, f"{axis}axis")
    ticks.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.9f}".rstrip("0").rstrip("."))
    )
    ticks.set_minor_formatter(NullFormatter())
    ticks.set_tick_params(which="minor", length=0)


def colours(count: int) -> list[Any]:
    """From cold to hot; they differ in lightness too, for colour-blind readers and grey paper."""
    ramp = matplotlib.colormaps["plasma"]
    return [ramp(0.05 + 0.65 * place / max(1, count - 1)) for place in range(count)]


def _printable(text: str, longest: int) -> str:
    """The end of the text, with what the font lacks as an escape such as \\u65e5."""
    font = get_font(findfont(FONT))
    text = "".join(c if font.get_char_index(ord(c)) else ascii(c)[1:-1] for c in text)
    return text if len(text) <= longest else f"…{text[1 - longest :]}"
