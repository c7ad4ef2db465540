"""The demo model writes JSON by a grammar engine's bitmasks, in a plain loop and in `generate`."""

import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("llguidance", reason="needs the `dev` extra, which has a grammar engine")
transformers = pytest.importorskip("transformers", reason="needs the `hf` extra")

from embedded import load_embedded  # noqa: E402
from llguidance import LLMatcher  # noqa: E402
from llguidance.hf import from_tokenizer  # noqa: E402
from replay import CACHE  # noqa: E402
from transformers import LogitsProcessorList  # noqa: E402

from fused_sampler import sample  # noqa: E402
from fused_sampler.hf import AllowedTokens, fused_generate, processors  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "hugging-face.md"
LIKED = ["tea", "rain", "books"]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "likes": {"type": "array", "items": {"enum": LIKED}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}
GRAMMAR = LLMatcher.grammar_from_json_schema(SCHEMA, overrides={"whitespace_flexible": False})
ROWS, WIDER = 3, 70  # ids that logits have beyond the tokenizer's


@pytest.fixture(scope="module")
def demo():
    return load_embedded()


@pytest.fixture(scope="module")
def grammar_of():
    """The class that the page shows."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "class Grammar:" in block)
    names = {}
    exec(code, names)
    return names["Grammar"]


def prompt(demo):
    text = "Here is a person as JSON:\n"
    return demo.tokenizer([text] * ROWS, return_tensors="pt")


def assert_fits(text):
    value = json.loads(text)
    assert set(value) == {"name", "age", "likes"}, text
    assert isinstance(value["name"], str) and 1 <= len(value["name"]) <= 10
    assert type(value["age"]) is int and 0 <= value["age"] <= 99
    assert 1 <= len(value["likes"]) <= 2 and set(value["likes"]) <= set(LIKED)


def texts(demo, new):
    assert (new == demo.tokenizer.eos_token_id).any(1).all(), "a row did not end"
    return demo.tokenizer.batch_decode(new, skip_special_tokens=True)


@torch.no_grad()
def test_a_plain_loop_draws_json(demo, grammar_of):
    """From logits that are wider than the vocabulary, and like what is beyond it."""
    inputs = prompt(demo)
    ids, end = inputs["input_ids"], demo.tokenizer.eos_token_id
    start, vocabulary = ids.shape[1], demo.vocabulary + WIDER
    tokens = from_tokenizer(demo.tokenizer, n_vocab=vocabulary)
    choose, cache = grammar_of(tokens, GRAMMAR, ids), None
    seeds = torch.tensor([11, 12, 13])
    for step in range(60):
        seen = ids if cache is None else ids[:, -1:]
        output = demo.model(seen, use_cache=True, **({} if cache is None else {CACHE: cache}))
        cache = getattr(output, CACHE)
        logits = torch.nn.functional.pad(output.logits[:, -1].float(), (0, WIDER), value=30.0)
        bits = choose(ids)
        settings = {"temperature": 1.2, "top_p": 0.95, "seed": seeds, "step": step}
        drawn = sample(logits, allowed=bits, **settings)
        places = torch.arange(vocabulary)
        allowed = (bits[:, places // 32] >> (places % 32).int()) & 1
        assert 0 < int(allowed.sum()) < allowed.numel()
        by_hand = logits.masked_fill(allowed == 0, -torch.inf)
        assert torch.equal(drawn, sample(by_hand, **settings))
        assert (allowed.gather(1, drawn[:, None]) == 1).all()
        ids = torch.cat([ids, drawn[:, None]], dim=1)
        if (ids[:, start:] == end).any(1).all():
            break
    for text in texts(demo, ids[:, start:]):
        assert_fits(text)


class InTheList(AllowedTokens):
    """Stays there, as a subclass, and masks the scores."""


def test_generate_draws_json(demo, grammar_of, monkeypatch):
    inputs = prompt(demo)
    narrow = from_tokenizer(demo.tokenizer)
    stayed, split = [], processors.split

    def watched(given, taken):
        stays = split(given, taken)
        stayed.append([type(processor) for processor in stays])
        return stays

    monkeypatch.setattr(processors, "split", watched)
    outputs = []
    for kind in (AllowedTokens, InTheList):
        choose = kind(grammar_of(narrow, GRAMMAR, inputs["input_ids"]))
        outputs.append(
            demo.model.generate(
                **inputs,
                do_sample=True,
                temperature=1.2,
                top_k=0,
                top_p=0.95,
                repetition_penalty=1.1,
                max_new_tokens=60,
                logits_processor=LogitsProcessorList([choose]),
                custom_generate=fused_generate,
                seed=torch.tensor([21, 22, 23]),
                return_dict_in_generate=True,
                output_scores=True,
            )
        )
    assert AllowedTokens not in stayed[0] and InTheList in stayed[1]
    ours, listed = outputs
    assert torch.equal(ours.sequences, listed.sequences)
    assert all(torch.equal(*pair) for pair in zip(ours.scores, listed.scores, strict=True))
    for text in texts(demo, ours.sequences[:, inputs["input_ids"].shape[1] :]):
        assert_fits(text)
