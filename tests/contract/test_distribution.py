"""Drawn tokens follow the exact distribution: chi-squared with fixed seeds."""

from __future__ import annotations

import pytest
import torch
from common import NINE_WORDS, real_logits
from scipy.stats import chisquare

from fused_sampler import mask_logits, sample

DRAWS = 20_000


def assert_follows(tokens: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Observed counts against fp64 probabilities; rare tokens are taken together."""
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    assert counts[probabilities == 0].sum() == 0, "a token of probability zero was drawn"
    expected = probabilities * len(tokens)
    rare = expected < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    some = expected > 0
    assert chisquare(observed[some], expected[some]).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_nine_words(temperature):
    x = torch.tensor(NINE_WORDS)
    tokens = sample(x, temperature=temperature, seed=1, num_samples=DRAWS)
    assert_follows(tokens, (x.double() / temperature).softmax(-1))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_k": 50},
        {"top_p": 0.9},
        {"min_p": 0.02},
        {"temperature": 1.4, "top_k": 99, "top_p": 0.8},
    ],
    ids=str,
)
def test_real_logits(params):
    x = real_logits()[5].float()
    masked = mask_logits(x, **params).double()
    assert_follows(sample(x, seed=2, num_samples=DRAWS, **params), masked.softmax(-1))


def test_streams_and_steps_are_independent_draws():
    x = torch.tensor(NINE_WORDS)
    batch = sample(x.expand(DRAWS, -1), temperature=3.0, seed=3)
    assert_follows(batch, (x.double() / 3).softmax(-1))
    seeds = sample(x.expand(DRAWS, -1), temperature=3.0, seed=torch.arange(DRAWS))
    assert_follows(seeds, (x.double() / 3).softmax(-1))
    steps = sample(x.expand(DRAWS, -1), temperature=3.0, seed=4, step=torch.arange(DRAWS))
    assert_follows(steps, (x.double() / 3).softmax(-1))


def test_log_probabilities():
    x = real_logits()[:8].float()
    params = {"temperature": 0.7, "top_k": 40, "top_p": 0.95}
    out = sample(x, seed=5, num_samples=3, return_info=True, **params)
    processed = mask_logits(x, **params).double().log_softmax(-1).gather(-1, out.tokens)
    raw = x.double().log_softmax(-1).gather(-1, out.tokens)
    # The masses are within 3e-7 of the softmax, and fp32 holds a logarithm of 10 to 1e-6.
    assert (out.logprobs - processed).abs().max() < 2e-6
    assert (out.raw_logprobs - raw).abs().max() < 2e-6
    assert out.kept.tolist() == (mask_logits(x, **params) > -torch.inf).sum(-1).tolist()


def test_log_probability_of_a_greedy_row():
    out = sample(torch.tensor([NINE_WORDS]), temperature=0.0, return_info=True)
    assert (out.tokens, out.logprobs, out.kept) == (3, 0.0, 1)
    raw = torch.tensor(NINE_WORDS).double().log_softmax(-1)[3]
    assert abs(out.raw_logprobs - raw) < 1e-6
