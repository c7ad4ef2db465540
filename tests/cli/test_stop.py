"""Where a text ends: `--stop`, and the model's own `stop_strings`."""

from __future__ import annotations

import json

import pytest
from embedded import load_embedded

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from tiny_model import save_tiny_model
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from fused_sampler.cli import main
from fused_sampler.models.generation import stopping_criteria
from fused_sampler.models.load import load_model

PROMPT = "The sky is"
GREEDY = ["--temperature", 0, "--max-new-tokens", 24]


@pytest.fixture(scope="module")
def writing(tmp_path_factory):
    """The folder of a tiny model that writes "abc.abc." by its config's bias."""
    folder = tmp_path_factory.mktemp("writing")
    save_tiny_model(folder)
    tokenizer = load_model(str(folder)).tokenizer
    s, a, b, c, dot = tokenizer("sabc.").input_ids
    bias = [[[before, after], 1000.0] for before, after in ((s, a), (a, b), (b, c), (c, dot))]
    config = {"sequence_bias": [*bias, [[dot, a], 1000.0]], "eos_token_id": 256}
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def text(capsys):
    """What `generate` writes after the prompt."""

    def call(folder, *arguments):
        arguments = ["generate", PROMPT, "--model", folder, *GREEDY, *arguments]
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out.removeprefix(PROMPT).removesuffix("\n")

    return call


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        ([], "abc." * 6),
        (["c"], "abc"),
        (["."], "abc."),
        ([".a"], "abc.a"),  # of several tokens
        (["x", "c.", "abc.abc"], "abc."),  # the first that comes
        (["sabc"], "abc"),  # with the prompt's end
        (["sky"], "abc." * 6),  # in the prompt alone
        (["x"], "abc." * 6),
    ],
)
def test_text_ends_behind_the_first_stop(text, writing, stops, expected):
    options = [word for stop in stops for word in ("--stop", stop)]
    assert text(writing, *options) == expected


@pytest.mark.parametrize("own", ["c", ["x", "c"]])
def test_stops_of_the_model_apply_beside_those_of_the_user(text, writing, tmp_path, own):
    save_tiny_model(tmp_path)
    config = json.loads((writing / "generation_config.json").read_text())
    config["stop_strings"] = own
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert text(tmp_path) == "abc"
    assert text(tmp_path, "--stop", "b") == "ab"
    assert text(tmp_path, "--stop", ".") == "abc"


def test_each_sample_ends_by_itself(text, writing):
    headers = [f"=== sample {i} of 2, seed {i + 4} ===\n" for i in (1, 2)]
    out = text(writing, "--stop", "c", "--seed", 5, "--num-samples", 2)
    assert out == f"{headers[0]}{PROMPT}abc\n{headers[1]}{PROMPT}abc"


def test_stop_inside_a_token_shows_the_whole_token(capsys):
    load_embedded()
    arguments = ["The capital of France is the city of", "--temperature", "0", "--stop", "ar"]
    assert main(["generate", *arguments]) == 0
    assert capsys.readouterr().out.endswith("the city of Paris\n")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "'--stop': it is empty; give some text, or leave it out"),
        ("\udcff", "'--stop': the text is not valid UTF-8"),
    ],
)
def test_wrong_stop_is_one_line(capsys, value, words):
    assert main(["generate", PROMPT, "--stop", "a", "--stop", value]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_stop_that_no_token_ends_is_one_sentence(writing):
    words = Tokenizer(models.WordLevel({"abcdef": 0, "x": 1}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    loaded = load_model(str(writing))._replace(name="words", tokenizer=tokenizer)
    assert len(stopping_criteria(loaded, ["x"])) == 1
    message = "no token of words could end '\u65e5', 'y'; give another text to stop at"
    with pytest.raises(ValueError, match=message):
        stopping_criteria(loaded, ["\u65e5", "y"])
