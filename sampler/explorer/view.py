"""What the explorer shows of one text: the next-token table, the cumulative bar, draws and counts.

Every number is the library's own; a page that shows a `View` has nothing to compute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch

from ..api import mask_logits, sample
from ..contract.mass import BEST_MASS
from ..contract.philox import multiply_high, random_bits
from ..contract.reference import BlockTable
from ..edits.records import MIN_TOKENS
from ..filters import FILTERS
from ..hf import warpers
from ..models.generation import is_ended
from ..models.prompt import fits
from ..models.vocabulary import unspelled_ids
from ..params import RECORDS, SamplingParams, resolve_rows
from ..views.inspect import Candidate, Inspection, inspect_token, spelling
from ..views.next_token import NextToken
from ..views.numbers import label
from ..views.parameters import is_on
from ..views.request import Request

TOP = 30  # tokens in the table
SAMPLES = 1000  # draws that are counted
AHEAD = 5  # steps that a page looks ahead
_OFF = asdict(SamplingParams())


@dataclass
class Row(Candidate):
    """A token of the table. Its part of the cumulative bar, from `start` to `end`, is its chance.

    The bar holds the kept tokens in vocabulary order, so a dropped one's part is empty.
    """

    label: str  # as `inspect` spells it
    dropped_by: str | None
    start: float
    end: float
    observed: int | None  # how many of the counted draws; None: none were asked for


@dataclass
class Others:
    """The kept tokens that the table leaves out, together."""

    tokens: int
    chance: float
    observed: int | None


@dataclass
class Draw:
    """How the seed picks its token: `r = floor(U * mass / 2**64)` falls into the token's mass.

    The integers are decimal text: they may need more bits than JavaScript's numbers have.
    """

    u: float  # U / 2**64, the place on the bar
    r: str
    mass: str  # of all kept tokens
    first: str  # the lowest r that draws the token
    last: str  # and the highest


@dataclass
class Ahead:
    """A draw of this step, or of a later one after all the tokens before it."""

    step: int
    id: int
    token: str
    label: str
    kept: int
    start: float  # the token's part of the step's cumulative bar
    end: float
    u: float | None  # the place on that bar; None: nothing is left to chance
    last: str  # why no token follows; "" where one does


@dataclass
class View:
    """The next token after a prompt and the tokens appended to it."""

    pieces: list[str]  # what each appended token adds to the text; "": half a character so far
    # Draws the token, in Python: from the table's logits, called `edited` where penalties or bias
    # moved them; from `scores` where processors follow the temperature.
    call: str
    table: Inspection  # without its tokens, which are `rows`
    rows: list[Row]
    others: Others
    draw: Draw | None  # None: greedy, nothing is left to chance
    ahead: list[Ahead]  # this draw, and those that follow as far as was asked for


def view_of(token: NextToken, request: Request, pieces: list[str], samples: int) -> View:
    """The view of a token that follows a prompt and `pieces`; `request` has a seed."""
    table = inspect_token(token, request, TOP)
    candidates, table.tokens = table.tokens, []
    stages, sampling = token.stages(request)
    draw = {"seed": request.seed, "step": token.step}
    steps, scores = _steps(token, request, stages, sampling, draw)
    seeded: dict[str, Any] = {**sampling, **draw}
    counts: list[int] | None = None
    if samples:
        drawn = cast(torch.Tensor, sample(scores, **seeded, num_samples=samples))
        counts = drawn.bincount(minlength=len(scores)).tolist()

    kept_ids, drawn_id = steps[-1][1], cast(int, table.drawn_id)
    ends = _cumulative_mass(scores, sampling, request.greedy, kept_ids).tolist()
    left_to_chance = not request.greedy
    if not ends[-1]:
        left_to_chance = False
        ends = [BEST_MASS * (i >= drawn_id) for i in range(len(ends))]
        table.notes.append("no kept token has mass at this temperature: the best of them is drawn")
    table.notes += _spared(scores, sampling, draw, kept_ids)
    starts = [0, *ends[:-1]]
    mass = ends[-1]
    rows = [
        Row(
            **vars(row),
            label=spelling(row),
            dropped_by=next((name for name, kept in steps if not kept[row.id]), None),
            start=starts[row.id] / mass,
            end=ends[row.id] / mass,
            observed=None if counts is None else counts[row.id],
        )
        for row in candidates
    ]
    kept = [row.id for row in rows if row.kept]
    others = Others(
        tokens=table.kept - len(kept),
        chance=(mass - sum(ends[i] - starts[i] for i in kept)) / mass,
        observed=None if counts is None else samples - sum(counts[i] for i in kept),
    )
    drawn_by = None
    if left_to_chance:
        high, low = random_bits(request.seed, token.step, 0, 0)
        drawn_by = Draw(
            u=(high << 32 | low) / 2**64,
            r=str(multiply_high(high, low, mass)),
            mass=str(mass),
            first=str(starts[drawn_id]),
            last=str(ends[drawn_id] - 1),
        )
    arguments = [f"{name}={value}" for name, value in seeded.items() if value != _OFF.get(name)]
    drawn_from = "scores" if stages else "edited" if table.edited else "logits"
    call = f"sample({', '.join([drawn_from, *arguments])})"
    row = next(row for row in rows if row.drawn)
    ahead = Ahead(
        step=token.step,
        id=row.id,
        token=row.token,
        label=row.label,
        kept=table.kept,
        start=row.start,
        end=row.end,
        u=drawn_by.u if drawn_by else None,
        last=_last(token, drawn_id),
    )
    return View(pieces, call, table, rows, others, drawn_by, [ahead])


def _last(token: NextToken, drawn_id: int) -> str:
    """Why no token could follow the drawn one; "" where one could."""
    ids = torch.cat([token.ids, token.ids.new_tensor([[drawn_id]])], dim=1)
    if is_ended(token.loaded, ids):
        return "the text ends here"
    return "" if fits(token.loaded, ids.shape[1] + 1) else "the model holds no longer text"


def _spared(
    scores: torch.Tensor, sampling: Mapping[str, Any], draw: Mapping[str, Any], kept: torch.Tensor
) -> Iterator[str]:
    """A note for each filter that applies by chance, and would cut more than it does this time."""
    for filter in FILTERS:
        if filter.needs and is_on(filter, sampling):
            always = {**sampling, filter.needs: RECORDS[filter.needs].high}
            if not torch.equal(mask_logits(scores, **always, **draw) > -math.inf, kept):
                yield f"{label(filter.name)} would cut more, but chance spares this step"


def _steps(
    token: NextToken,
    request: Request,
    stages: list[warpers.Stage],
    sampling: dict[str, Any],
    draw: Mapping[str, Any],
) -> tuple[list[tuple[str, torch.Tensor]], torch.Tensor]:
    """What is left after each step that may drop tokens, bool [V], beside the step's name.

    And the scores [V] that `sampling` draws from.
    """
    scores = token.edited(request)
    unspelled = unspelled_ids(token.loaded.tokenizer, len(scores))
    spelled = torch.ones_like(scores, dtype=torch.bool).index_fill(0, unspelled, False)
    steps = [
        ("the tokenizer", spelled),
        ("the model", token.raw > -math.inf),
        ("the generation config", token.logits > -math.inf),
        (label(MIN_TOKENS.name), token.processed(request) > -math.inf),
        ("the bias", scores > -math.inf),
    ]
    for stage in stages:
        if isinstance(stage, SamplingParams):
            steps += _filters(scores, vars(stage), draw)
        scores = token.run([stage], scores)
        steps.append(("the generation config", scores > -math.inf))
    if request.greedy:
        steps.append(("greedy", mask_logits(scores, 0) > -math.inf))
    else:
        steps += _filters(scores, sampling, draw)
    return steps, scores


def _filters(
    scores: torch.Tensor, sampling: Mapping[str, Any], draw: Mapping[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """What is left after each filter that is on, by its name."""
    names = [name for filter in FILTERS for name in (filter.name, filter.needs) if name]
    so_far = {**sampling, **{name: RECORDS[name].off for name in names}}
    for filter in FILTERS:
        if is_on(filter, sampling):
            own = (name for name in (filter.name, filter.needs) if name)
            so_far |= {name: sampling[name] for name in own}
            yield label(filter.name), mask_logits(scores, **so_far, **draw) > -math.inf


def _cumulative_mass(
    scores: torch.Tensor, sampling: Mapping[str, Any], greedy: bool, kept: torch.Tensor
) -> torch.Tensor:
    """The mass of the kept ids up to every id, int64 [V]; greedy: all is the one token's."""
    if greedy:
        return kept.cumsum(0) * BEST_MASS
    x = scores[None]
    table = BlockTable(x, resolve_rows(x, temperature=sampling["temperature"]).c)
    return table.cumulative_mass(kept[None])[0, : len(kept)]
