"""Draw the pictures of kernels.md: how a threshold is found and a token drawn after "The sky is".

python docs/make_kernel_pictures.py
"""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fused_sampler import mask_logits, sample
from fused_sampler.benchmarks.cases import REAL_VOCAB, make_logits
from fused_sampler.contract.mass import BEST_MASS, BLOCK, LOG2_E
from fused_sampler.contract.philox import multiply_high, random_bits
from fused_sampler.contract.reference import BlockTable
from fused_sampler.models.load import load_model
from fused_sampler.views.figures import INK, PLAIN, colours, save, style

FOLDER = Path(__file__).with_name("kernels")
TEMPERATURE, TOP_P, TOP_K, SEED = 0.8, 0.8, 50, 5
BLUE, RED, _ = colours(3)
BEST_WEIGHT = 2**30  # of a block's best token
WIDTH = 8.4


class Example:
    """The logits after the prompt, their block table, and what top-p makes of them."""

    def __init__(self) -> None:
        self.logits = make_logits("real", 1, REAL_VOCAB)[0]
        self.table = BlockTable(self.logits[None], torch.tensor([LOG2_E / TEMPERATURE]))
        self.block_max = self.table.block_max[0]
        self.block_mass = self.masses(self.table.weights.sum(-1))
        self.best_mass = self.masses(torch.full_like(self.table.weights[..., 0], BEST_WEIGHT))
        self.needed = int(-(-TOP_P * self.block_mass.sum().item() // 1))
        self.low = reached(self.block_max, self.best_mass, self.needed)
        self.high = reached(self.block_max, self.block_mass, self.needed)
        self.kept = mask_logits(self.logits, TEMPERATURE, top_p=TOP_P) > -torch.inf
        self.threshold = self.logits[self.kept].min().item()
        assert self.low <= self.threshold <= self.high
        tokenizer = load_model().tokenizer
        self.word = lambda token: repr(tokenizer.decode([int(token)]))

    def masses(self, sums: torch.Tensor) -> torch.Tensor:
        """int64 [N], of sums of weights inside the blocks."""
        return self.table.scale(sums)[0]


def reached(keys: torch.Tensor, measure: torch.Tensor, needed: int) -> float:
    """The largest key from which up a measure reaches what is needed."""
    ordered, order = keys.sort(descending=True)
    return ordered[(measure[order].cumsum(0) >= needed).nonzero()[0]].item()


def note(panel: Axes, text: str, x: float, y: float, **look) -> None:
    panel.text(x, y, text, fontsize=8, color=INK, **look)


@style
def draw_block_table(example: Example) -> Figure:
    """One block of 64 logits, and the line that each block has in the table."""
    block = int(example.block_max.argmax())
    first = block * BLOCK
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained", facecolor="white")
    one, best, mass = figure.subplots(3, 1)

    ids = range(first, first + BLOCK)
    own = example.logits[first : first + BLOCK].tolist()
    look = [RED if x == max(own) else PLAIN for x in own]
    one.bar(ids, [x - min(own) for x in own], bottom=min(own), color=look, width=0.8)
    place = first + own.index(max(own))
    total = int(example.table.weights[0, block].sum())
    told = f"best {max(own):.2f}: {example.word(place)}\nsum of weights {total / BEST_WEIGHT:.4f}"
    note(one, f"{told} of the best's", place - 2, max(own), va="top", ha="right")
    one.set_title(f"One block of {BLOCK} ids, {first} to {first + BLOCK - 1}: its logits")
    one.set_xlim(first - 1, first + BLOCK)
    one.set_ylabel("logit")

    lines = len(example.block_max)
    lowest = example.block_max.min().item()
    best.stairs(example.block_max, baseline=lowest, fill=True, color=PLAIN)
    best.plot(block + 0.5, example.block_max[block], "o", color=RED, markersize=4)
    best.set_title(f"The table, {lines} blocks: the best logit of each")
    best.set_ylabel("logit")
    share = example.block_mass.double() / BEST_MASS
    mass.stairs(share, baseline=1e-7, fill=True, color=PLAIN)
    mass.plot(block + 0.5, share[block], "o", color=RED, markersize=4)
    mass.set_yscale("log")
    mass.yaxis.set_major_formatter("{x:g}")
    mass.set_ylim(1e-7, 3)
    mass.set_title(f"and the mass of each, in units of the row's best token (T = {TEMPERATURE})")
    mass.set_ylabel("mass")
    mass.set_xlabel("block")
    for panel in (best, mass):
        panel.set_xlim(-6, lines + 6)
    return figure


@style
def draw_bracket(example: Example) -> Figure:
    """What the table alone says of the threshold, by count and by mass."""
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained", facecolor="white")
    by_count, by_mass = figure.subplots(1, 2)

    ordered = example.block_max.sort(descending=True).values
    bound = ordered[TOP_K - 1].item()
    threshold = example.logits.topk(TOP_K).values[-1].item()
    shown = 3 * TOP_K
    ranks = range(1, shown + 1)
    by_count.plot(ranks, example.logits.topk(shown).values, color=BLUE, label="logits")
    by_count.plot(ranks, ordered[:shown], color=PLAIN, label="best of each block")
    by_count.axvline(TOP_K, color=INK, linewidth=0.8, linestyle=":")
    by_count.plot(TOP_K, threshold, "o", color=RED, markersize=5)
    by_count.plot(TOP_K, bound, "o", color=PLAIN, markersize=5)
    note(by_count, f"threshold {threshold:.2f}", TOP_K + 4, threshold, va="bottom")
    note(by_count, f"low {bound:.2f}", TOP_K - 4, bound, va="top", ha="right")
    by_count.set_title(f"top-k {TOP_K}: {TOP_K} blocks reach low")
    by_count.set_xlabel("the n-th largest")
    by_count.set_ylabel("logit")
    by_count.legend(loc="upper right")

    total = example.block_mass.sum().item()
    starts = torch.linspace(example.low - 1.5, example.high + 1.5, 500)
    logit_mass = example.table.scale(example.table.weights)[0].flatten()
    logits = example.table.x[0]

    def from_up(values: torch.Tensor, measure: torch.Tensor) -> list[float]:
        return [measure[values >= start].sum().item() / total for start in starts]

    by_mass.plot(starts, from_up(example.block_max, example.block_mass), color=PLAIN)
    by_mass.plot(starts, from_up(logits, logit_mass), color=BLUE)
    by_mass.plot(starts, from_up(example.block_max, example.best_mass), color=PLAIN, ls="--")
    by_mass.axhline(TOP_P, color=INK, linewidth=0.8, linestyle=":")
    by_mass.axvspan(example.low, example.high, color=RED, alpha=0.15, linewidth=0)
    by_mass.plot(example.threshold, TOP_P, "o", color=RED, markersize=5)
    lines = by_mass.get_lines()
    names = ["whole blocks that reach x", "logits from x up", "the best of each block alone"]
    by_mass.legend(lines[:3], names, loc="lower left")
    note(by_mass, f"low {example.low:.2f}", example.low - 0.04, 0.98, ha="right", va="top")
    note(by_mass, f"high {example.high:.2f}", example.high + 0.04, 0.98, va="top")
    by_mass.set_ylim(0.5, 1)
    by_mass.set_xlim(starts[0], starts[-1])
    by_mass.set_title(f"top-p {TOP_P}: the threshold lies in the bracket")
    by_mass.set_xlabel("x")
    by_mass.set_ylabel("share of the mass")
    for panel in (by_count, by_mass):
        panel.grid()
    return figure


@style
def draw_list(example: Example) -> Figure:
    """The blocks that reach the bracket, read again: what is sure, in question, and below."""
    blocks = (example.block_max >= example.low).nonzero()[:, 0].tolist()
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained", facecolor="white")
    panel = figure.subplots()
    panel.axhspan(example.low, example.high, color=RED, alpha=0.15, linewidth=0)
    panel.axhline(example.threshold, color=INK, linewidth=0.8, linestyle="--")
    counts = dict.fromkeys(("sure", "listed", "below"), 0)
    looks = {"sure": (BLUE, "o"), "listed": (RED, "o"), "below": (PLAIN, "_")}
    for place, n in enumerate(blocks):
        for token in range(n * BLOCK, (n + 1) * BLOCK):
            x = example.logits[token].item()
            kind = "sure" if x > example.high else "listed" if x >= example.low else "below"
            counts[kind] += 1
            if x < example.low - 4:
                continue
            colour, marker = looks[kind]
            panel.plot(place, x, marker, color=colour, markersize=5 if marker == "o" else 8)
            if kind != "below":
                side = ("bottom", 0.06) if x >= example.threshold else ("top", -0.12)
                note(panel, example.word(token), place + 0.12, x + side[1], va=side[0])
    for kind, told in (
        ("sure", "surely kept: summed up"),
        ("listed", "in question: listed"),
        ("below", "below"),
    ):
        colour, marker = looks[kind]
        panel.plot([], [], marker, color=colour, label=f"{told} ({counts[kind]})")
    panel.legend(loc="upper right")
    told = f"threshold {example.threshold:.2f}"
    note(panel, told, len(blocks) - 0.4, example.threshold + 0.04, va="bottom")
    panel.set_xticks(range(len(blocks)), map(str, blocks))
    panel.set_xlim(-0.5, len(blocks) + 1.1)
    panel.set_ylim(example.low - 4, example.block_max.max().item() + 0.8)
    panel.set_title(
        f"{len(blocks)} of {len(example.block_max)} blocks reach the bracket "
        f"and are read again (top-p {TOP_P})"
    )
    panel.set_xlabel("block")
    panel.set_ylabel("logit")
    return figure


@style
def draw_draw(example: Example) -> Figure:
    """The random number on the cumulative sum: first over the blocks, then inside of one."""
    weights = example.table.weights[0].flatten() * example.kept
    block_mass = example.masses(weights.view(-1, BLOCK).sum(-1))
    total = int(block_mass.sum())
    high, low = random_bits(SEED, step=0, stream=0, draw=0)
    r = int(multiply_high(*map(torch.as_tensor, (high, low)), torch.tensor(total)))
    blocks = block_mass.nonzero()[:, 0].tolist()
    masses = block_mass[blocks].tolist()
    upto = block_mass.cumsum(0)
    block = int((upto <= r).sum())
    left = r - int(upto[block] - block_mass[block])
    inside = example.table.scale(weights.view(-1, BLOCK).cumsum(-1)[None])[0, block]
    token = block * BLOCK + int((inside <= left).sum())
    assert token == sample(example.logits, TEMPERATURE, top_p=TOP_P, seed=SEED)

    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained", facecolor="white")
    over, within = figure.subplots(1, 2, width_ratios=(2, 1))
    starts = [sum(masses[:place]) for place in range(len(masses))]
    look = [RED if n == block else PLAIN for n in blocks]
    unit = total / 100
    names = [f"block {n}" for n in blocks]
    over.barh(names, [m / unit for m in masses], left=[s / unit for s in starts], color=look)
    over.axvline(r / unit, color=INK, linewidth=1, linestyle="--")
    over.set_title(f"Seed {SEED}: r = {r / unit:.2f} % of the kept mass")
    over.set_xlabel("kept mass, %, in vocabulary order")
    over.set_xlim(0, 100)
    over.invert_yaxis()

    tokens = (weights.view(-1, BLOCK)[block] > 0).nonzero()[:, 0].tolist()
    ends = [int(inside[lane]) for lane in tokens]
    begins = [0, *ends[:-1]]
    words = [example.word(block * BLOCK + lane) for lane in tokens]
    look = [RED if block * BLOCK + lane == token else PLAIN for lane in tokens]
    widths = [(end - begin) / unit for begin, end in zip(begins, ends, strict=True)]
    within.barh(words, widths, left=[b / unit for b in begins], color=look)
    within.axvline(left / unit, color=INK, linewidth=1, linestyle="--")
    within.set_ylim(len(words) - 0.3, -0.7)
    within.set_xlim(0, max(ends) / unit)
    within.set_title(f"inside block {block}: {example.word(token)}")
    within.set_xlabel("from the start of the block, %")
    for panel in (over, within):
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x")
    return figure


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    example = Example()
    save(draw_block_table(example), FOLDER / "block-table.svg")
    save(draw_bracket(example), FOLDER / "bracket.svg")
    save(draw_list(example), FOLDER / "list.svg")
    save(draw_draw(example), FOLDER / "draw.svg")


if __name__ == "__main__":
    main()
