"""Ids that the tokenizer cannot spell are never drawn, and their number is told."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from explorer import PROMPT, request_of
from tiny_model import save_tiny_model

from fused_sampler import sample
from fused_sampler.cli import main
from fused_sampler.explorer.page import render_page
from fused_sampler.explorer.text import Explorer
from fused_sampler.models.load import load_model
from fused_sampler.models.vocabulary import forbid_unspelled, unspelled_ids, unspelled_note

PADDING = 71
NOTE = "257 of 328 ids: 71 that the tokenizer cannot spell are forbidden"
HOT = {"temperature": 3.0}


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """The folder of a model whose padding would be drawn nearly always."""
    folder = tmp_path_factory.mktemp("padded")
    save_tiny_model(folder, padding=PADDING)
    return str(folder)


@pytest.fixture(scope="module")
def explorer(padded):
    return Explorer(load_model(padded))


def raw_logits(explorer):
    with torch.no_grad():
        ids = explorer.loaded.tokenizer(PROMPT, return_tensors="pt").input_ids
        return explorer.loaded.model(ids).logits[0, -1]


def test_gaps_and_padding_are_forbidden():
    class Gaps:
        def get_vocab(self):
            return {"a": 0, "b": 2, "c": 5}

    logits = torch.arange(8.0)
    found = forbid_unspelled(logits.repeat(2, 1), Gaps())
    assert unspelled_ids(Gaps(), 8).tolist() == [1, 3, 4, 6, 7]
    assert (found == -math.inf).nonzero()[:, 1].tolist() == [1, 3, 4, 6, 7] * 2
    assert logits.tolist() == list(range(8))  # not written to
    assert unspelled_note(6, 1).endswith("1 that the tokenizer cannot spell is forbidden")


def test_nothing_is_copied_or_said_where_all_can_be_spelled(folder, capsys):
    tokenizer = load_model(folder).tokenizer
    logits = torch.zeros(257)
    assert forbid_unspelled(logits, tokenizer) is logits
    assert unspelled_note(257, 0) is None
    for command in (["generate", "--max-new-tokens", "2"], ["inspect"]):
        assert main([*command, PROMPT, "--model", folder, "--seed", "1"]) == 0
        out, err = capsys.readouterr()
        assert "forbidden" not in out + err


def test_the_model_would_draw_them(explorer):
    """Or the other tests would prove nothing."""
    tokens = sample(raw_logits(explorer), **HOT, seed=0, num_samples=100)
    assert (tokens > 256).sum() > 50


def test_generate_draws_none_and_says_so(padded, explorer, capsys):
    for sampling in (["--temperature", "3"], ["--temperature", "0"]):
        arguments = ["generate", PROMPT, "--model", padded, "--seed", "1", *sampling]
        assert main([*arguments, "--max-new-tokens", "20"]) == 0
        out, err = capsys.readouterr()
        assert err.startswith(f"{NOTE}\n20 tokens in")
        request = request_of(seed=1, temperature=float(sampling[1]))
        appended = ()
        for _ in range(20):  # the explorer can append what it draws
            appended += (explorer.view(request, appended).table.drawn_id,)
        assert max(appended) <= 256
        tokenizer = explorer.loaded.tokenizer
        assert out == tokenizer.decode(tokenizer(PROMPT).input_ids + list(appended)) + "\n"


def test_inspect_says_so(padded, capsys):
    arguments = ["inspect", PROMPT, "--model", padded, "--seed", "1", "--temperature", "3"]
    assert main(arguments) == 0
    assert f"\n{NOTE}\n" in capsys.readouterr().out
    assert main([*arguments, "--json", "--top", "328"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["vocabulary"], found["unspelled"], found["kept"]) == (328, PADDING, 257)
    forbidden = [row for row in found["tokens"] if row["id"] > 256]
    assert len(forbidden) == PADDING
    assert {(row["logit"], row["probability"], row["kept"]) for row in forbidden} == {
        (None, 0.0, False)
    }


def test_plot_says_so(padded, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs the `plot` extra")
    out = str(tmp_path / "sky.svg")
    assert main(["plot", PROMPT, "--model", padded, "--out", out]) == 0
    assert capsys.readouterr().err == f"{NOTE}\n"


def test_explorer_says_so(explorer):
    view = explorer.view(request_of())
    page = render_page(request_of(), [view], saved=False)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["views"][0]["table"]["notes"] == [NOTE]
    only = SimpleNamespace(get_vocab=lambda: {"a": 5, "b": 9})
    few = Explorer(explorer.loaded._replace(tokenizer=Few(explorer.loaded.tokenizer, only)))
    dropped = {row.id: row.dropped_by for row in few.view(request_of()).rows}
    assert [name for name in dropped.values() if name != "the tokenizer"] == [None, None]


class Few:
    """A tokenizer that spells less than it reads."""

    def __init__(self, tokenizer, vocabulary):
        self.tokenizer = tokenizer
        self.get_vocab = vocabulary.get_vocab

    def __call__(self, *arguments, **keywords):
        return self.tokenizer(*arguments, **keywords)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)
