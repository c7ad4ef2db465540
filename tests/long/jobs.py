"""What the soak draws: calls of many shapes, each made of two numbers, and what is wrong with one.

A bound on the false alarms comes from Dvoretzky, Kiefer and Wolfowitz with Massart's constant: n
draws have a distribution function further than `sqrt(ln(2 / a) / (2 n))` from their own anywhere
with a probability of at most a, whatever the distribution.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from common import KINDS, logits_of

from fused_sampler import History, mask_logits, sample

BINS = 4096  # of the share of mass below a draw, which is uniform
_SOUND = [kind for kind in KINDS if kind not in ("invalid", "extreme")]
_VOCABS = [1, 2, 63, 64, 65, 1000, 4097, 32_000, 49_152, 128_256]
_LARGEST = 2**19  # logits of a call
_TOKENS = 2**17  # of a call, about
_BY_TEXTBOOK = 2**15  # logits up to which a call is compared with it
_SAME_DRAWS = 16  # draws a row that are

Draw = Callable[..., Any]


class Fault(AssertionError):
    """Something wrong with what was drawn."""


class Job(NamedTuple):
    """A call, and how many tokens it is to give a row."""

    logits: torch.Tensor
    arguments: dict[str, Any]  # of `mask_logits`, too
    num_samples: int


class Drawn(NamedTuple):
    """What is left of a call when it has been checked."""

    tokens: int
    sum: int  # tells two results apart
    shares: torch.Tensor  # int64 [BINS]: of its draws by the share of mass below


def make(seed: int, number: int) -> Job:
    """The call of that number; the same whenever it is asked for."""
    chance = random.Random(f"{seed} {number}")
    vocab = chance.choice(_VOCABS)
    batch = min(chance.choice([1, 1, 2, 4, 7, 16, 64]), max(1, _LARGEST // vocab))
    dtype = chance.choice([torch.float32, torch.bfloat16, torch.float16])
    logits = logits_of(chance.choice(_SOUND), batch, vocab, seed=chance.randrange(2**31)).to(dtype)
    arguments = _parameters(chance, batch, vocab) | _edits(chance, batch, vocab)
    arguments["seed"] = chance.randrange(2**63)
    if chance.random() < 0.5:
        arguments["seed"] = torch.tensor([chance.randrange(2**63) for _ in range(batch)])
    arguments["step"] = chance.randrange(2**40)
    return Job(logits, arguments, max(1, _TOKENS // batch // chance.choice([1, 1, 4, 64])))


def _parameters(chance: random.Random, batch: int, vocab: int) -> dict[str, Any]:
    """Some of them: most calls have few, and some have a value a row."""

    def number(low: float, high: float) -> Any:
        if chance.random() < 0.8:
            return chance.uniform(low, high)
        return torch.tensor([chance.uniform(low, high) for _ in range(batch)])

    parameters = {
        "temperature": number(0.3, 2.0) if chance.random() < 0.95 else 0.0,
        "temperature_last": True,
        "top_n_sigma": number(0.5, 4),
        "top_h": number(0.2, 1),
        "top_k": chance.randint(1, max(1, min(vocab, chance.choice([5, 50, 1000])))),
        "top_p": number(0.3, 1),
        "min_p": number(0, 0.2),
        "typical_p": number(0.3, 1),
        "epsilon_cutoff": number(0, 0.01),
        "eta_cutoff": number(0, 0.01),
        "top_a": number(0, 0.3),
        "xtc_probability": number(0, 1),
        "mirostat_mu": number(2, 9),
    }
    usual = ("temperature", "top_k", "top_p", "min_p")
    chosen = [n for n in parameters if chance.random() < (0.4 if n in usual else 0.08)]
    return {name: parameters[name] for name in chosen}


def _edits(chance: random.Random, batch: int, vocab: int) -> dict[str, Any]:
    """Bias and penalties, in one call of four."""
    edits: dict[str, Any] = {}
    if chance.random() < 0.15:
        few = [chance.randrange(vocab) for _ in range(5)]
        edits["logit_bias"] = {token: chance.uniform(-4, 4) for token in few}
    if chance.random() < 0.15:
        ids = [[chance.randrange(vocab) for _ in range(8)] for _ in range(batch)]
        edits["history"] = History(torch.tensor(ids), torch.tensor(ids)[:, :5])
        edits["repetition_penalty"] = chance.uniform(0.8, 1.5)
        edits["presence_penalty"] = chance.uniform(-1, 1)
    return edits


def draw(job: Job, by: Draw = sample) -> torch.Tensor:
    """The tokens, [B, num_samples]."""
    tokens = by(job.logits, backend="cpu", num_samples=job.num_samples, **job.arguments)
    return tokens[:, None] if job.num_samples == 1 else tokens


def check(job: Job, tokens: torch.Tensor, alarms: float) -> Drawn:
    """Raise `Fault` for what is wrong with the tokens; with nothing, at most so probably."""
    vocab = job.logits.shape[1]
    if bool((tokens < 0).any()) or bool((tokens >= vocab).any()):
        raise Fault(f"ids from {int(tokens.min())} to {int(tokens.max())} of a vocabulary {vocab}")
    masked = mask_logits(job.logits, backend="cpu", **job.arguments)
    kept = masked > -torch.inf
    if not kept.gather(1, tokens).all():
        raise Fault("a token was drawn that the filters dropped")
    if masked.numel() <= _BY_TEXTBOOK:
        _compare(job, tokens, masked)
    weights = masked.double().softmax(-1)
    upto = weights.cumsum(-1)
    own = weights.gather(1, tokens)
    noise = torch.rand(tokens.shape, dtype=torch.float64, generator=_noise(job))
    shares = upto.gather(1, tokens) - own * noise
    limit = math.sqrt(math.log(2 * len(tokens) / alarms) / (2 * tokens.shape[1]))
    for row, (counts, exact) in enumerate(zip(_counts(tokens, vocab), upto, strict=True)):
        away = float((counts.cumsum(0) / tokens.shape[1] - exact).abs().max())
        if away > limit:
            raise Fault(f"row {row} is {away:.3g} from its distribution, more than {limit:.3g}")
    informative = shares[own < 1 - 1e-6]  # where the token was certain, they say nothing
    binned = (informative * BINS).long().clamp(0, BINS - 1).bincount(minlength=BINS)
    return Drawn(tokens.numel(), checksum(tokens), binned)


def checksum(tokens: torch.Tensor) -> int:
    """Of values and places."""
    places = torch.arange(1, tokens.numel() + 1)
    return int(((tokens.reshape(-1) + 1) * places).sum())


def distance(shares: torch.Tensor, alarms: float) -> tuple[float, float]:
    """How far all draws together are from uniform shares, and how far they may be."""
    total = max(1, int(shares.sum()))
    edges = torch.arange(1, BINS + 1, dtype=torch.float64) / BINS
    away = float((shares.cumsum(0) / total - edges).abs().max())
    return away, math.sqrt(math.log(2 / alarms) / (2 * total))


def _compare(job: Job, tokens: torch.Tensor, masked: torch.Tensor) -> None:
    """With the textbook: kept sets, and the first draws."""
    if not torch.equal(mask_logits(job.logits, backend="torch", **job.arguments), masked):
        raise Fault("the kept set is not the textbook's")
    few = job._replace(num_samples=min(_SAME_DRAWS, job.num_samples))
    theirs = draw(few, lambda x, **given: sample(x, **{**given, "backend": "torch"}))
    if not torch.equal(theirs, tokens[:, : few.num_samples]):
        raise Fault("the tokens are not the textbook's")


def _counts(tokens: torch.Tensor, vocab: int) -> torch.Tensor:
    """How often each row drew each token, fp64 [B, V]."""
    return torch.stack([row.bincount(minlength=vocab) for row in tokens]).double()


def _noise(job: Job) -> torch.Generator:
    return torch.Generator().manual_seed(int(job.arguments["step"]))
