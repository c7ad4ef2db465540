"""The next token after a prompt: what each filter keeps, and what a seed draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..api import mask_logits, sample, softmax
from ..models.generation import config_notes
from ..models.load import LoadedModel
from ..models.vocabulary import unspelled_ids, unspelled_note
from ..output import SampleOutput
from .next_token import NextToken
from .numbers import write_bias
from .parameters import LOGIT_BIAS
from .request import Request

FALLEN = 5  # of the best before the edits, so many stay in the table


@dataclass
class Candidate:
    """One token. `scaled_logit` is logit / T, None where decoding is greedy: nothing is divided.

    `logit_before` and `probability_before` are without the request's edits.
    """

    rank: int  # 1 is the best; equal logits in the order of their ids
    id: int
    token: str  # as decoded alone
    piece: str | None  # as the vocabulary spells it
    logit: float | None  # None: the token is forbidden
    logit_before: float | None
    scaled_logit: float | None
    probability: float  # after the temperature, before the filters
    probability_before: float
    cumulative_probability: float
    kept: bool
    drawn: bool


@dataclass
class Logprob:
    """A token and the natural logarithm of its probability."""

    id: int
    token: str  # as in `Candidate`
    piece: str | None
    logprob: float


@dataclass
class Inspection:
    """The next token after a prompt.

    `tokens` holds the best ones, those of the best that the edits moved away, and the drawn one.
    """

    model: str
    prompt: str
    chat: bool  # whether the prompt was read as a user's message
    system: str | None
    prompt_tokens: int
    sampling: dict[str, Any]  # by the names of `SamplingParams`
    edits: dict[str, Any]  # by the names of `Edits`, off or not; the bias as it is typed
    edited: bool  # whether these changed any logit
    seed: int | None
    notes: list[str]  # what the model's tokenizer and generation config do to the logits
    vocabulary: int
    unspelled: int  # ids of these that are forbidden, as the tokenizer cannot spell them
    kept: int
    kept_probability: float
    drawn_id: int | None  # None: neither a seed nor greedy
    drawn_probability: float | None  # among the kept tokens
    tokens: list[Candidate]
    top_logprobs: list[Logprob]  # as many as were asked for: the most probable kept tokens
    raw_top_logprobs: list[Logprob]  # and of all, as the model itself says, at temperature 1


def inspect_prompt(
    loaded: LoadedModel, request: Request, top: int, top_logprobs: int = 0
) -> Inspection:
    """What `generate` would draw its first token from, and which token the seed draws."""
    return inspect_token(NextToken(loaded, request.reading), request, top, top_logprobs)


def inspect_token(
    token: NextToken, request: Request, top: int, top_logprobs: int = 0
) -> Inspection:
    """The table of a token's logits, and what the request keeps and draws of them."""
    loaded, before, logits = token.loaded, token.logits, token.edited(request)
    probabilities = softmax(logits, request.temperature).double()
    probabilities_before = softmax(before, request.temperature).double()
    stages, sampling = token.stages(request)
    scores = token.run(stages, logits)
    seed = request.seed or 0
    kept = mask_logits(scores, **sampling, seed=seed, step=token.step) > -math.inf
    drawn_id = drawn_probability = None
    if request.greedy or request.seed is not None:
        draw = cast(
            SampleOutput, sample(scores, **sampling, seed=seed, step=token.step, return_info=True)
        )
        drawn_id, drawn_probability = int(draw.tokens), math.exp(cast(float, draw.logprobs))
    best = raw_best = []
    if top_logprobs:
        count = min(top_logprobs, len(logits))
        asked: dict[str, Any] = {"return_info": True, "top_logprobs": count}
        info = sample(scores, **sampling, seed=seed, step=token.step, **asked)
        raw = sample(token.raw, seed=seed, **asked)
        best = _logprobs(loaded, info.top_ids, info.top_logprobs)
        raw_best = _logprobs(loaded, raw.raw_top_ids, raw.raw_top_logprobs)

    order = logits.argsort(descending=True, stable=True)
    cumulative = probabilities[order].cumsum(0)
    shown = set(range(min(top, len(order))))
    left = before.argsort(descending=True, stable=True)[: min(top, FALLEN)]
    also = left[logits[left] != before[left]].tolist()
    if drawn_id is not None:
        also.append(drawn_id)
    shown |= {int((order == token_id).nonzero()) for token_id in also}

    def candidate(place: int) -> Candidate:
        token_id = int(order[place])
        alone, piece = _spelled(loaded, token_id)
        logit = _finite(logits[token_id])
        return Candidate(
            rank=place + 1,
            id=token_id,
            token=alone,
            piece=piece,
            logit=logit,
            logit_before=_finite(before[token_id]),
            scaled_logit=None if logit is None or request.greedy else logit / request.temperature,
            probability=float(probabilities[token_id]),
            probability_before=float(probabilities_before[token_id]),
            cumulative_probability=min(1.0, float(cumulative[place])),
            kept=bool(kept[token_id]),
            drawn=token_id == drawn_id,
        )

    unspelled = len(unspelled_ids(loaded.tokenizer, len(logits)))
    note = unspelled_note(len(logits), unspelled)
    return Inspection(
        model=loaded.name,
        prompt=request.prompt,
        chat=request.chat,
        system=request.system,
        prompt_tokens=token.prompt_tokens,
        sampling=dict(request.sampling),
        edits=_told(token.edits(request)),
        edited=not torch.equal(logits, before),
        seed=request.seed,
        notes=[
            *([note] if note else []),
            *config_notes(loaded, to_the_end=False, given=request.editing),
        ],
        vocabulary=len(logits),
        unspelled=unspelled,
        kept=int(kept.sum()),
        kept_probability=min(1.0, float(probabilities[kept].sum())),
        drawn_id=drawn_id,
        drawn_probability=drawn_probability,
        tokens=[candidate(place) for place in sorted(shown)],
        top_logprobs=best,
        raw_top_logprobs=raw_best,
    )


def _finite(logit: torch.Tensor) -> float | None:
    """A number, None where it forbids the token."""
    return None if logit == -math.inf else float(logit)


def _spelled(loaded: LoadedModel, token_id: int) -> tuple[str, str | None]:
    """As decoded alone, and as the vocabulary spells it."""
    tokenizer = loaded.tokenizer
    alone = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    return alone, tokenizer.convert_ids_to_tokens(token_id)


def _logprobs(loaded: LoadedModel, ids: Any, logprobs: Any) -> list[Logprob]:
    """Without the places of those that are not there, as fewer are kept."""
    pairs = zip(ids.tolist(), logprobs.tolist(), strict=True)
    return [Logprob(i, *_spelled(loaded, i), value) for i, value in pairs if i >= 0]


def _told(edits: dict[str, Any]) -> dict[str, Any]:
    return edits | {LOGIT_BIAS: write_bias(edits[LOGIT_BIAS])}


def spelling(row: Candidate | Logprob) -> str:
    """The token in quotes with spaces visible; in <> as the vocabulary spells it if no text."""
    whole = row.token and "\ufffd" not in row.token
    return repr(row.token) if whole else f"<{row.piece or row.id}>"
