"""The recipe of docs/trainers.md on the demo's model: the ratio on the drawing policy is 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from embedded import load_embedded

from fused_sampler.hf import fused_generate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trainers.md"


@pytest.fixture(scope="module")
def recipe():
    """The names of the page's blocks after they have run."""
    demo = load_embedded()
    prompts = ["The sky is", "Once upon a time there was", "Two and two"]
    tokenizer, model = demo.tokenizer, demo.model
    tokenizer.padding_side = "left"
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    model.generation_config.max_new_tokens = 24
    names = {"model": model, "tokenizer": tokenizer, "inputs": inputs}
    # The first row shall end early: its fifth token ends a text from here on.
    draw = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.9, "seed": 7}
    drawn = model.generate(**inputs, **draw, max_new_tokens=5, custom_generate=fused_generate)
    tokenizer.eos_token_id = model.generation_config.eos_token_id = int(drawn[0, -1])
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(code, names)  # with the page's own assertions
    return names


def test_the_ratio_is_one_for_every_token(recipe):
    live, tokens, logits, kept = (recipe[name] for name in ("live", "tokens", "logits", "kept"))
    assert live.shape == tokens.shape == (3, 24)
    assert live[0].tolist() == [True] * 5 + [False] * 19 and live.sum() > 24
    drawn = torch.stack([logprobs for logprobs, _ in recipe["records"]], dim=1)
    within = recipe["replay"](logits, tokens, recipe["temperature"], kept=kept).logprobs
    assert torch.equal(within[live], drawn[live])
    assert (recipe["ratio"] == 1).all()
    value = recipe["policy_logprobs"](logits, tokens, kept, recipe["temperature"])
    assert ((value - drawn).exp()[live] == 1).all()


def test_other_ratios_are_off_by_what_the_page_says(recipe):
    live, tokens, logits = (recipe[name] for name in ("live", "tokens", "logits"))
    drawn = torch.stack([logprobs for logprobs, _ in recipe["records"]], dim=1)
    scores = logits / recipe["temperature"]
    within = scores.masked_fill(~marked(recipe), -torch.inf)
    plain, softmax = (
        x.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] for x in (scores, within)
    )
    for other, bound in ((softmax, 1e-5), (recipe["old"], 1e-3)):
        ratio = (other - drawn).exp()[live]
        assert 0 < (ratio - 1).abs().max() < bound and (ratio != 1).float().mean() > 0.25
    ratio = (plain - drawn).exp()[live]
    assert 0.9 - 1e-5 < ratio.min() < 0.95 and ratio.max() < 1 + 1e-5


def marked(recipe):
    """The kept sets as bool [B, S, V]."""
    words = [recipe["kept"] >> place & 1 for place in range(32)]
    return torch.stack(words, -1).flatten(-2)[..., : recipe["logits"].shape[-1]].bool()


def test_the_gradient_is_that_of_plain_pytorch(recipe):
    live, tokens, kept = (recipe[name] for name in ("live", "tokens", "kept"))
    assert all(p.grad.isfinite().all() for p in recipe["model"].parameters() if p.grad is not None)
    x, y = (recipe["logits"].clone().requires_grad_() for _ in range(2))
    value = recipe["policy_logprobs"](x, tokens, kept, recipe["temperature"])
    value[live].sum().backward()
    scores = (y / recipe["temperature"]).masked_fill(~marked(recipe), -torch.inf).log_softmax(-1)
    scores.gather(-1, tokens[..., None])[..., 0][live].sum().backward()
    assert x.grad.abs().sum() > 0 and torch.equal(x.grad, y.grad)


def test_the_old_kept_set_keeps_every_ratio_positive(recipe):
    assert recipe["dropped"].any()
    assert recipe["within"][recipe["live"]].isfinite().all()
    assert torch.isneginf(recipe["anew"][recipe["dropped"]]).all()
