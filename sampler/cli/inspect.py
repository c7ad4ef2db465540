"""`fused-sampler inspect`: the next-token table, before and after the filters."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..api import mask_logits, sample, softmax
from ..models.load import LoadedModel, quiet_transformers
from ..output import SampleOutput
from ..views.request import Request
from .model import encode_prompt, load_for_command


@dataclass
class Candidate:
    """One row of the table. `scaled_logit` is logit / T, None where greedy decoding divides not."""

    rank: int  # 1 is the best; equal logits in the order of their ids
    id: int
    token: str  # as decoded alone
    piece: str | None  # as the vocabulary spells it
    logit: float | None  # None: the model forbids the token
    scaled_logit: float | None
    probability: float  # after the temperature, before the filters
    cumulative_probability: float
    kept: bool
    drawn: bool


@dataclass
class Inspection:
    """The next token after a prompt; `tokens` holds the best ones and the drawn one."""

    model: str
    prompt: str
    prompt_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    vocabulary: int
    kept: int
    kept_probability: float
    drawn_id: int | None  # None: neither a seed nor greedy
    drawn_probability: float | None  # among the kept tokens
    tokens: list[Candidate]


def run_inspect(request: Request, top: int, as_json: bool) -> None:
    """Print the table of the `top` best tokens, or JSON."""
    inspection = inspect_prompt(load_for_command(request.model), request, top)
    if as_json:
        print(json.dumps(asdict(inspection), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _print_table(inspection)


def inspect_prompt(loaded: LoadedModel, request: Request, top: int) -> Inspection:
    """What `generate` would draw its first token from, and which token the seed draws."""
    inputs = encode_prompt(loaded, request.prompt, new_tokens=1)
    logits = next_logits(loaded, inputs)
    return inspect_logits(loaded, request, logits, inputs["input_ids"].shape[1], top)


def next_logits(loaded: LoadedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model says of the token after `inputs`, fp32 [V]."""
    with torch.inference_mode(), quiet_transformers():
        return loaded.model(**inputs).logits[0, -1].float()


def inspect_logits(
    loaded: LoadedModel,
    request: Request,
    logits: torch.Tensor,
    prompt_tokens: int,
    top: int,
    step: int = 0,
) -> Inspection:
    """The table of logits [V]; `step` counts the tokens since the prompt, as in `generate`."""
    sampling: dict[str, Any] = request.sampling
    probabilities = softmax(logits, request.temperature).double()
    kept = mask_logits(logits, **sampling) > -math.inf
    drawn_id = drawn_probability = None
    if request.greedy or request.seed is not None:
        seed = request.seed or 0
        draw = cast(
            SampleOutput, sample(logits, **sampling, seed=seed, step=step, return_info=True)
        )
        drawn_id, drawn_probability = int(draw.tokens), math.exp(cast(float, draw.logprobs))

    order = logits.argsort(descending=True, stable=True)
    cumulative = probabilities[order].cumsum(0)
    shown = list(range(min(top, len(order))))
    if drawn_id is not None:
        drawn_at = int((order == drawn_id).nonzero())
        shown += [drawn_at] if drawn_at >= len(shown) else []

    def candidate(place: int) -> Candidate:
        token_id = int(order[place])
        logit = float(logits[token_id])
        forbidden = logit == -math.inf
        return Candidate(
            rank=place + 1,
            id=token_id,
            token=loaded.tokenizer.decode([token_id], clean_up_tokenization_spaces=False),
            piece=loaded.tokenizer.convert_ids_to_tokens(token_id),
            logit=None if forbidden else logit,
            scaled_logit=None if forbidden or request.greedy else logit / request.temperature,
            probability=float(probabilities[token_id]),
            cumulative_probability=min(1.0, float(cumulative[place])),
            kept=bool(kept[token_id]),
            drawn=token_id == drawn_id,
        )

    return Inspection(
        model=loaded.name,
        prompt=request.prompt,
        prompt_tokens=prompt_tokens,
        **sampling,
        seed=request.seed,
        vocabulary=len(logits),
        kept=int(kept.sum()),
        kept_probability=min(1.0, float(probabilities[kept].sum())),
        drawn_id=drawn_id,
        drawn_probability=drawn_probability,
        tokens=[candidate(place) for place in shown],
    )


def _print_table(inspection: Inspection) -> None:
    console = Console()
    if not console.is_terminal:  # a file has no edge: nothing is cut or wrapped
        console = Console(width=1000)
    console.print(_table(inspection))
    console.print()
    for line in _summary(inspection):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(inspection: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("token", no_wrap=True, overflow="ellipsis")
    for name in ("id", "logit", "logit / T", "prob", "cumul"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    previous = 0
    for row in inspection.tokens:
        if row.rank > previous + 1:
            table.add_row("...")
        previous = row.rank
        table.add_row(
            str(row.rank),
            Text(spelling(row)),
            str(row.id),
            _number(row.logit),
            _number(row.scaled_logit),
            _share(row.probability),
            f"{row.cumulative_probability:.4f}",
            ("yes" if row.kept else "no") + (" <- drawn" if row.drawn else ""),
            style="bold yellow" if row.drawn else "green" if row.kept else "dim",
        )
    return table


def _summary(inspection: Inspection) -> list[str]:
    lines = [
        f"{inspection.kept} of {inspection.vocabulary} tokens kept, "
        f"with {inspection.kept_probability:.2%} of the probability"
    ]
    if inspection.drawn_id is not None:
        row = next(row for row in inspection.tokens if row.drawn)
        how = "greedy" if inspection.seed is None else f"seed {inspection.seed}"
        lines.append(
            f"{how}: draws {spelling(row)}, rank {row.rank}, "
            f"probability {_share(inspection.drawn_probability or 0.0)} among the kept"
        )
    return lines


def spelling(row: Candidate) -> str:
    """The token in quotes with spaces visible; in <> as the vocabulary spells it if no text."""
    whole = row.token and "\ufffd" not in row.token
    return repr(row.token) if whole else f"<{row.piece or row.id}>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.0e}"
