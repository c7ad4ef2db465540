"""Draw the pictures of worked-examples.md: two here, the others by the commands of the page.

python docs/make_worked_examples.py
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from fused_sampler import sample, softmax
from fused_sampler.views.figures import INK, PLAIN, colours, save, style

FOLDER = Path(__file__).parent
WORDS = ["sits", "runs", "jumps", "disappears", "anything else"]
PROBABILITIES = [0.01, 0.05, 0.20, 0.02, 0.72]
NUMBER, SELECTED = 0.15, 2
NINE_WORDS = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
NINE_LOGITS = [4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]
DRAWS = 1000


@style
def draw_cumulative() -> Figure:
    """Each word's stretch from 0 to 1, and the number that falls into one of them."""
    shares = softmax(torch.tensor(PROBABILITIES).log())
    ends = shares.cumsum(0).tolist()
    figure = Figure(figsize=(8, 2.4), layout="constrained", facecolor="white")
    panel = figure.subplots()
    starts = [0.0, *ends[:-1]]
    colour = [colours(2)[1] if place == SELECTED else PLAIN for place in range(len(WORDS))]
    stretches = [f"{start:.2f} to {end:.2f}" for start, end in zip(starts, ends, strict=True)]
    panel.barh(WORDS, shares.tolist(), left=starts, height=0.6, color=colour)
    for word, stretch in zip(WORDS, stretches, strict=True):
        panel.text(1.02, word, stretch, va="center_baseline", fontsize=8)
    panel.axvline(NUMBER, color=INK, linestyle="--", linewidth=1)
    panel.set_title(f"The number {NUMBER} selects “{WORDS[SELECTED]}”")
    panel.set_xlim(0, 1.14)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    return figure


@style
def draw_counts() -> Figure:
    """How often each of nine words comes in 1000 draws, and how often it should."""
    logits = torch.tensor(NINE_LOGITS)
    figure = Figure(figsize=(8, 3.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 3, sharey=True)
    for panel, temperature, colour in zip(panels, (0.1, 1, 5), colours(3), strict=True):
        tokens = sample(logits, temperature, seed=123, num_samples=DRAWS)
        counts = torch.bincount(tokens, minlength=len(NINE_WORDS)).tolist()
        expected = (DRAWS * softmax(logits, temperature)).tolist()
        panel.barh(NINE_WORDS, counts, height=0.7, color=colour, alpha=0.75)
        for place, count in enumerate(counts):  # clear of the bar and of the mark
            at = max(count, expected[place]) + 0.03 * max(counts)
            panel.text(at, place, count, va="center_baseline", fontsize=7)
        (mark,) = panel.plot(expected, NINE_WORDS, "|", color=INK, markersize=11, clip_on=False)
        panel.set_title(f"T = {temperature}")
        panel.set_xlim(0, 1.25 * max(counts))
        panel.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()
    figure.suptitle(f"{DRAWS} draws, seed 123", fontsize=10)
    figure.legend([mark], ["expected"], loc="outside lower center")
    return figure


def main() -> None:
    save(draw_cumulative(), FOLDER / "cumulative.svg")
    save(draw_counts(), FOLDER / "draws.svg")
    program = Path(sys.executable).with_name("fused-sampler")
    page = (FOLDER / "worked-examples.md").read_text()
    for command in re.findall(r"^\$ fused-sampler (plot .*)$", page, re.MULTILINE):
        subprocess.run([program, *shlex.split(command)], cwd=FOLDER, check=True)


if __name__ == "__main__":
    main()
