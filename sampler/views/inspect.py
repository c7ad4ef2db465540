"""The next token after a prompt: what each filter keeps, and what a seed draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from ..api import mask_logits, sample, softmax
from ..models.generation import config_notes
from ..models.load import LoadedModel
from ..models.vocabulary import unspelled_ids, unspelled_note
from ..output import SampleOutput
from .next_token import NextToken
from .request import Request


@dataclass
class Candidate:
    """One token. `scaled_logit` is logit / T, None where decoding is greedy: nothing is divided."""

    rank: int  # 1 is the best; equal logits in the order of their ids
    id: int
    token: str  # as decoded alone
    piece: str | None  # as the vocabulary spells it
    logit: float | None  # None: the token is forbidden
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
    chat: bool  # whether the prompt was read as a user's message
    system: str | None
    prompt_tokens: int
    sampling: dict[str, Any]  # by the names of `SamplingParams`
    seed: int | None
    notes: list[str]  # what the model's tokenizer and generation config do to the logits
    vocabulary: int
    unspelled: int  # ids of these that are forbidden, as the tokenizer cannot spell them
    kept: int
    kept_probability: float
    drawn_id: int | None  # None: neither a seed nor greedy
    drawn_probability: float | None  # among the kept tokens
    tokens: list[Candidate]


def inspect_prompt(loaded: LoadedModel, request: Request, top: int) -> Inspection:
    """What `generate` would draw its first token from, and which token the seed draws."""
    return inspect_token(NextToken(loaded, request.reading), request, top)


def inspect_token(token: NextToken, request: Request, top: int) -> Inspection:
    """The table of a token's logits, and what the request keeps and draws of them."""
    loaded, logits = token.loaded, token.logits
    probabilities = softmax(logits, request.temperature).double()
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

    unspelled = len(unspelled_ids(loaded.tokenizer, len(logits)))
    note = unspelled_note(len(logits), unspelled)
    return Inspection(
        model=loaded.name,
        prompt=request.prompt,
        chat=request.chat,
        system=request.system,
        prompt_tokens=token.prompt_tokens,
        sampling=dict(request.sampling),
        seed=request.seed,
        notes=[
            *([note] if note else []),
            *config_notes(loaded, to_the_end=False),
        ],
        vocabulary=len(logits),
        unspelled=unspelled,
        kept=int(kept.sum()),
        kept_probability=min(1.0, float(probabilities[kept].sum())),
        drawn_id=drawn_id,
        drawn_probability=drawn_probability,
        tokens=[candidate(place) for place in shown],
    )


def spelling(row: Candidate) -> str:
    """The token in quotes with spaces visible; in <> as the vocabulary spells it if no text."""
    whole = row.token and "\ufffd" not in row.token
    return repr(row.token) if whole else f"<{row.piece or row.id}>"
