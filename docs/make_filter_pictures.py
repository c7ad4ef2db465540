"""Draw the pictures of `docs/filters.md`: what each filter keeps after "The sky is".

python docs/make_filter_pictures.py
"""

import math
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fused_sampler import mask_logits, softmax
from fused_sampler.models.load import load_model
from fused_sampler.models.prompt import Prompt
from fused_sampler.views.figures import DROPPED, PLAIN, style
from fused_sampler.views.next_token import NextToken

PROMPT = "The sky is"
SHOWN = 16
SHOTS = {  # a value at which something is to be seen among the best tokens
    "top_n_sigma": {"top_n_sigma": 1.0},
    "top_h": {"top_h": 0.4},
    "top_k": {"top_k": 8},
    "top_p": {"top_p": 0.5},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.4},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02},
    "eta_cutoff": {"eta_cutoff": 0.2},
    "top_a": {"top_a": 0.3},
    "xtc": {"xtc_threshold": 0.02, "xtc_probability": 1.0},
    "mirostat": {"mirostat_mu": 5.0},
    "temperature_last": {"temperature": 2.0, "temperature_last": True, "top_p": 0.5},
}


@style
def draw(logits: torch.Tensor, words: list[str], values: dict[str, float]) -> Figure:
    """Bars of the best tokens, those that are dropped hatched."""
    kept = mask_logits(logits, **values, seed=0) > -math.inf
    probabilities = softmax(logits)
    best = probabilities.topk(len(words)).indices.tolist()
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for place, token in enumerate(best):
        look = {"facecolor": PLAIN} if kept[token] else DROPPED
        axes.barh(place, probabilities[token].item(), height=0.76, **look)
    told = ", ".join(f"{name} {value:g}" for name, value in values.items())
    axes.set_title(f"{told}: {int(kept.sum()):,} of {len(logits):,} tokens kept")
    axes.set_yticks(range(len(words)), words)
    axes.set_ylim(len(words) - 0.4, -0.6)
    axes.set_xlabel("probability at temperature 1")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    handles = [Patch(facecolor=PLAIN, label="kept"), Patch(**DROPPED, label="dropped")]
    axes.legend(handles=handles, loc="lower right")
    return figure


def main() -> None:
    loaded = load_model(None)
    logits = NextToken(loaded, Prompt(PROMPT)).logits
    best = logits.topk(SHOWN).indices.tolist()
    words = [repr(loaded.tokenizer.decode([token])) for token in best]
    folder = Path(__file__).with_name("filters")
    folder.mkdir(exist_ok=True)
    for name, values in SHOTS.items():
        figure = draw(logits, words, values)
        with matplotlib.rc_context({"svg.hashsalt": "fused-sampler"}):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
