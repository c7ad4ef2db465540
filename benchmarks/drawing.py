"""How the pictures look: no background and mid tones, for light and for dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from .ours import Ours, OursInGraph
from .results import FLOOR

INK = "#7d8590"  # readable on white and on black
COLOURS = {  # mid tones that differ in lightness, too
    Ours.name: "#1a7fe0",
    OursInGraph.name: "#6fb7ff",
    "hugging-face": "#e69f00",
    "pytorch": "#cc79a7",
    "pytorch-compiled": "#9467d0",
    "exponential-race": "#d55e00",
    "llama.cpp": "#009e73",
    "flashinfer": "#b3a300",
    "vllm": "#a0522d",
    FLOOR: INK,
}
STYLE: Any = {  # matplotlib types the keys one by one
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "savefig.dpi": 150,
    "savefig.pad_inches": 0.15,
    "svg.hashsalt": "fused-sampler",  # the same picture, the same file
}


def bar_figure(bars: dict[str, list[str]], panels: int) -> tuple[Figure, list[Axes]]:
    slots = sum(len(names) + 1 for names in bars.values())
    return figure_of(panels, height=1.5 + 0.19 * slots)


def draw_bars(
    axis: Axes,
    bars: dict[str, list[str]],
    values: Mapping[tuple[str, str], float | None],
    labels: dict[tuple[str, str], str],
) -> None:
    """Horizontal bars on a logarithmic axis; `bars` names those of each case, from the top."""
    slot, ticks = 0, []
    for case, names in bars.items():
        ticks.append(slot + (len(names) - 1) / 2)
        for name in names:
            if value := values.get((case, name)):
                # From 1 on, so that what is below reaches to the left.
                drawn = axis.barh(slot, value - 1, 0.85, left=1, color=colour_of(name))
                axis.bar_label(drawn, [labels[case, name]], fontsize=8, padding=3)
            slot += 1
        slot += 1
    axis.set(xscale="log", ylim=(slot - 1.2, -0.8))
    axis.set_yticks(ticks, bars)
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    axis.margins(x=0.18)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def figure_of(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels side by side that share the vertical axis."""
    figure = Figure(figsize=(3 + 3.6 * panels, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)
    return figure, list(axes[0])


def legend(figure: Figure, titles: dict[str, str]) -> None:
    handles = [Patch(color=colour_of(name), label=title) for name, title in titles.items()]
    columns = len(titles) if len(titles) < 5 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def in_order(names: Iterable[str]) -> list[str]:
    """Each once, in the order of their colours; those without one at the end."""
    found = set(names)
    return [name for name in COLOURS if name in found] + sorted(found - COLOURS.keys())


def colour_of(name: str) -> str:
    return COLOURS.get(name, INK)
