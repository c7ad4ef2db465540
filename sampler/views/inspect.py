"""The next token after a prompt: what each filter keeps, and what a seed draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..api import mask_logits, sample, softmax
from ..models.load import LoadedModel
from ..models.prompt import encode_prompt
from ..models.quiet import quiet_transformers
from ..models.vocabulary import forbid_unspelled, unspelled_ids
from ..output import SampleOutput
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
    prompt_tokens: int
    sampling: dict[str, Any]  # by the names of `SamplingParams`
    seed: int | None
    vocabulary: int
    unspelled: int  # ids of these that are forbidden, as the tokenizer cannot spell them
    kept: int
    kept_probability: float
    drawn_id: int | None  # None: neither a seed nor greedy
    drawn_probability: float | None  # among the kept tokens
    tokens: list[Candidate]


def inspect_prompt(loaded: LoadedModel, request: Request, top: int) -> Inspection:
    """What `generate` would draw its first token from, and which token the seed draws."""
    inputs = encode_prompt(loaded, request.prompt, new_tokens=1)
    logits = next_logits(loaded, inputs)
    return inspect_logits(loaded, request, logits, inputs["input_ids"].shape[1], top)


def next_logits(loaded: LoadedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model says of the token after `inputs`, fp32 [V]; -inf: it cannot be spelled."""
    with torch.inference_mode(), quiet_transformers():
        logits = loaded.model(**inputs).logits[0, -1].float()
        return forbid_unspelled(logits, loaded.tokenizer)


def inspect_logits(
    loaded: LoadedModel,
    request: Request,
    logits: torch.Tensor,
    prompt_tokens: int,
    top: int,
    step: int = 0,
) -> Inspection:
    """The table of logits [V]; `step` counts the tokens since the prompt, as in `generate`."""
    sampling = dict(request.sampling)
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
        sampling=sampling,
        seed=request.seed,
        vocabulary=len(logits),
        unspelled=len(unspelled_ids(loaded.tokenizer, len(logits))),
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
