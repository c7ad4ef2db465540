"""A model's own generation config: what is shown is what `generate` draws with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from explorer import ask_view, request_of, serving

from fused_sampler import sample
from fused_sampler.explorer.text import Explorer
from fused_sampler.models.load import load_model

PROMPT = "The sky is"
LENGTH = 12
SHORT = ["--max-new-tokens", LENGTH]
BEST, SECOND = 43, 144  # the best tokens after the prompt
WORD = [[BEST], [SECOND]]
# Of each: whether the first token's distribution is another.
CONFIGS = {
    "repetition penalty": ({"repetition_penalty": 3.0}, True),
    "of the prompt": ({"encoder_repetition_penalty": 0.3}, True),
    "no ngram twice": ({"no_repeat_ngram_size": 1}, True),
    "bad words": ({"bad_words_ids": WORD}, True),
    "suppressed": ({"suppress_tokens": [BEST, SECOND]}, True),
    "suppressed at first": ({"begin_suppress_tokens": [BEST, SECOND]}, True),
    "new tokens at least": ({"min_new_tokens": 3, "eos_token_id": [BEST, SECOND]}, True),
    "tokens at least": ({"min_length": 13, "eos_token_id": [BEST, SECOND]}, True),
    "new tokens before all": (
        {"min_length": 40, "min_new_tokens": 1, "eos_token_id": [BEST, SECOND]},
        True,
    ),
    "bias": ({"sequence_bias": [[[BEST], -9.0], [[SECOND], 2.0]]}, True),
    "decay": ({"exponential_decay_length_penalty": [2, 1.9], "eos_token_id": [SECOND]}, False),
    "guidance": ({"guidance_scale": 2.0}, True),
    "watermark": ({"watermarking_config": {"bias": 4.0, "seeding_scheme": "lefthash"}}, True),
    "renormalized": ({"renormalize_logits": True}, False),
    "several": (
        {
            "repetition_penalty": 1.3,
            "watermarking_config": {"bias": 2.0},
            "renormalize_logits": True,
        },
        True,
    ),
}
SAMPLINGS = [[], ["--temperature", "0.8", "--top-k", "60", "--top-p", "0.95", "--min-p", "0.001"]]


@pytest.fixture
def configured(folder, tmp_path):
    """The tiny model's folder with other settings in its generation config."""

    def call(settings):
        copy = tmp_path / "model"
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        path = copy / "generation_config.json"
        if isinstance(settings, dict):
            plain = json.loads((Path(folder) / path.name).read_text())
            del plain["_from_model_config"]  # with it, transformers passes over unknown names
            settings = json.dumps(plain | settings)
        path.write_text(settings)
        return str(copy)

    return call


@pytest.fixture
def table(run):
    """What `inspect --json` prints."""

    def call(model, *arguments):
        done = run("inspect", PROMPT, "--model", model, "--json", "--top", 1, *arguments)
        assert done.status == 0, done.err
        return json.loads(done.out)

    return call


def drawn(found):
    return next(row for row in found["tokens"] if row["drawn"])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=" ".join)
def test_inspect_shows_the_first_token_of_generate(configured, folder, table, run, name, sampling):
    settings, changes = CONFIGS[name]
    model = configured(settings)
    with_config, without = [], []
    for seed in range(4):
        found = table(model, "--seed", seed, *sampling)
        arguments = ["--model", model, "--seed", seed, "--max-new-tokens", 1, *sampling]
        done = run("generate", PROMPT, *arguments)
        assert done.out == f"{PROMPT}{drawn(found)['token']}\n"
        with_config.append(found["drawn_id"])
        without.append(table(folder, "--seed", seed, *sampling)["drawn_id"])
    assert (with_config != without) or not changes


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_too(configured, table, run, name):
    model = configured(CONFIGS[name][0])
    found = table(model, "--temperature", 0)
    done = run("generate", PROMPT, "--model", model, "--temperature", 0, "--max-new-tokens", 1)
    assert done.out == f"{PROMPT}{drawn(found)['token']}\n"
    assert (found["kept"], found["drawn_probability"]) == (1, 1.0)


@pytest.mark.parametrize("name", CONFIGS)
def test_explorer_goes_on_as_generate_does(configured, run, name):
    """The processors see the prompt and what was appended to it."""
    model = configured(CONFIGS[name][0])
    explorer = Explorer(load_model(model))
    tokenizer = explorer.loaded.tokenizer
    ends = torch.tensor(explorer.loaded.model.generation_config.eos_token_id).flatten().tolist()
    for seed, sampling in ((0, {"temperature": 0.9}), (1, {"top_k": 30})):
        request = request_of(seed=seed, **sampling)
        appended = ()
        for _ in range(LENGTH):
            view = explorer.view(request, appended)
            appended += (view.table.drawn_id,)
            if appended[-1] in ends:
                break
        options = [(f"--{name.replace('_', '-')}", value) for name, value in sampling.items()]
        arguments = ["--model", model, "--seed", seed, "--max-new-tokens", LENGTH, *options[0]]
        text = tokenizer.decode(
            tokenizer(PROMPT).input_ids + list(appended), skip_special_tokens=True
        )
        assert run("generate", PROMPT, *arguments).out == f"{text}\n"


@pytest.mark.parametrize("name", CONFIGS)
def test_explorer_shows_what_it_draws_from(configured, name):
    """The bar's parts are the chances of the draws, also where a processor follows the filters."""
    explorer = Explorer(load_model(configured(CONFIGS[name][0])))
    request = request_of(temperature=0.8, top_k=60, seed=3)
    view = explorer.view(request, samples=1000)
    row = next(row for row in view.rows if row.drawn)
    assert row.start <= view.draw.u < row.end
    assert int(view.draw.first) <= int(view.draw.r) <= int(view.draw.last)
    chances = sum(row.end - row.start for row in view.rows) + view.others.chance
    assert chances == pytest.approx(1, abs=1e-12)
    assert view.table.drawn_probability == pytest.approx(row.end - row.start, abs=1e-6)
    observed = sum(row.observed for row in view.rows) + view.others.observed
    assert observed == 1000
    for row in view.rows:
        assert row.kept == (row.dropped_by is None)
        assert row.observed == pytest.approx(1000 * (row.end - row.start), abs=70)


def test_explorer_names_what_drops_a_token(configured):
    settings = {**CONFIGS["suppressed"][0], "repetition_penalty": 1.3}
    explorer = Explorer(load_model(configured(settings)))
    view = explorer.view(request_of(top_k=10))
    assert {row.dropped_by for row in view.rows} == {None, "top-k"}
    forbidden = [row for row in explorer.view(request_of()).rows if row.dropped_by]
    assert {row.dropped_by for row in forbidden} <= {"the generation config"}


def test_call_in_python_is_from_the_scores_where_a_processor_follows(configured):
    settings = CONFIGS["watermark"][0]
    explorer = Explorer(load_model(configured(settings)))
    view = explorer.view(request_of(temperature=0.8, epsilon_cutoff=0.01, seed=3))
    assert view.call == "sample(scores, seed=3, step=0)"


def test_call_in_python_draws_from_the_logits_of_the_table(configured):
    explorer = Explorer(load_model(configured(CONFIGS["repetition penalty"][0])))
    request = request_of(temperature=0.8, seed=3)
    logits = explorer._text(request.reading, ()).token.logits
    view = explorer.view(request)
    assert [row.logit for row in view.rows] == [float(logits[row.id]) for row in view.rows]
    assert eval(view.call, {"sample": sample, "logits": logits}) == view.table.drawn_id


def test_first_token_can_be_forced(configured, table, run):
    """The config forces a token behind a lone first one."""
    model = configured({"forced_bos_token_id": SECOND})
    arguments = ["x", "--model", model, "--seed", 1]
    found = json.loads(run("inspect", *arguments, "--json").out)
    assert (found["drawn_id"], found["kept"]) == (SECOND, 1)
    found = json.loads(run("inspect", "xy", *arguments[1:], "--json").out)
    assert found["kept"] == 257
    spelled = load_model(model).tokenizer.decode([SECOND])
    assert run("generate", *arguments, "--max-new-tokens", 1).out == f"x{spelled}\n"


# Notes

NOTED = {
    "repetition_penalty": 1.1,
    "suppress_tokens": [1, 2, 3],
    "bad_words_ids": WORD,
    "renormalize_logits": True,
    "watermarking_config": {"bias": 2.0},
    "num_beams": 4,
    "return_dict_in_generate": True,
    "forced_eos_token_id": 5,
    "min_length": 0,
    "stop_strings": ["ab"],
    "max_time": 100.0,
}
APPLIED = (
    "the model's generation config applies repetition_penalty 1.1, bad_words_ids (2 sequences), "
    "suppress_tokens (3 ids), watermarking_config, renormalize_logits"
)
LEFT_OUT = "left out of the model's generation config: num_beams 4, return_dict_in_generate"


def test_notes_tell_what_applies_and_what_does_not(configured, table, run):
    model = configured(NOTED)
    assert table(model)["notes"] == [APPLIED, f"{LEFT_OUT}, forced_eos_token_id 5"]
    shown = run("inspect", PROMPT, "--model", model).out
    assert f"\n{APPLIED}\n{LEFT_OUT}, forced_eos_token_id 5\n" in shown
    done = run("generate", PROMPT, "--model", model, "--max-new-tokens", 1)
    ending = ", forced_eos_token_id 5, max_time 100.0, stop_strings ['ab']"
    assert done.err.startswith(f"{APPLIED}{ending}\n{LEFT_OUT}\n1 tokens in")
    assert done.out.startswith(PROMPT)
    with serving(Explorer(load_model(model))) as server:
        _, view = ask_view(server, repetition_penalty="1.1")
        assert view["table"]["notes"] == [APPLIED, f"{LEFT_OUT}, forced_eos_token_id 5"]


def test_plot_applies_and_tells_it_too(configured, run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the `plot` extra")
    from fused_sampler.cli import plot

    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, path: figures.append(figure))
    model = configured({"suppress_tokens": [BEST], "renormalize_logits": True})
    note = "the model's generation config applies suppress_tokens (1 id), renormalize_logits\n"
    out = tmp_path / "sky.svg"
    done = run("plot", PROMPT, "--model", model, "--temperature", 0, 1, "--top", 60, "--out", out)
    assert (done.status, done.err) == (0, note)
    labels = figures[-1].axes[0].get_yticklabels()
    assert repr(chr(76)) not in [label.get_text() for label in labels]
    done = run("plot", PROMPT, "--model", model, "--sweep", "top-k", "--out", out)
    (line,) = figures[-1].axes[0].get_lines()
    explorer = Explorer(load_model(model))
    for top_k, kept in list(zip(line.get_xdata(), line.get_ydata(), strict=True))[::9]:
        assert explorer.view(request_of(top_k=int(top_k))).table.kept == kept


def test_nothing_is_told_of_a_config_without_such_settings(folder, table, run):
    assert table(folder)["notes"] == []
    assert run("generate", PROMPT, "--model", folder, "--max-new-tokens", 1).err.startswith("1 tok")


# Settings that a command which draws tokens one by one cannot follow


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 2, "force_words_ids": [[5]]},
        {"num_beams": 2, "constraints": ["x"]},
        {"penalty_alpha": 0.6},
        {"dola_layers": "high"},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_early_exit": 1},
        {"is_assistant": True},
        {"num_return_sequences": 2},
        {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
        {"return_dict_in_generate": True, "output_attentions": True, "output_hidden_states": True},
        {"token_healing": True},
        {"cache_implementation": "static"},
        {"cache_implementation": "quantized", "cache_config": {"nbits": 4}},
        {"prefill_chunk_size": 4},
        {"prefill_chunk_size": 4, "use_cache": False},
    ],
    ids=lambda settings: " ".join(settings),
)
@pytest.mark.parametrize("sampling", [["--seed", 3], ["--temperature", 0]], ids=["seed", "greedy"])
def test_what_cannot_be_followed_is_left_out_and_told(
    configured, folder, run, recwarn, settings, sampling
):
    model = configured({"do_sample": True, **settings})
    arguments = ["--max-new-tokens", LENGTH, *sampling]
    done = run("generate", PROMPT, "--model", model, *arguments)
    assert done.status == 0, done.err
    assert done.out == run("generate", PROMPT, "--model", folder, *arguments).out
    note, figures = done.err.splitlines()
    assert figures.startswith(f"{LENGTH} tokens in")
    assert note.startswith("left out of the model's generation config: ")
    told = set(settings) - {"use_cache", "length_penalty", "early_stopping"}
    assert all(name in note for name in told)
    arguments = ["--model", model, "--top", 3, *sampling]
    assert run("inspect", PROMPT, *arguments).out.splitlines()[-2] == note
    assert not recwarn.list


@pytest.mark.parametrize(
    "settings",
    [
        {"use_cache": False},
        {"max_length": 5},
        {"max_length": 5, "min_new_tokens": 100},
        {"max_new_tokens": 3},
        {"seed": 5},
        {"temperature": 0.3, "top_k": 1, "top_p": 0.1, "min_p": 0.5, "epsilon_cutoff": 0.3},
        {"eta_cutoff": 0.3, "typical_p": 0.2},
        {"top_n_sigma": 0.1, "top_a": 1.0},  # which transformers passes on
        {"do_sample": False},
    ],
    ids=lambda settings: " ".join(settings),
)
@pytest.mark.parametrize("sampling", [["--seed", 3], ["--temperature", 0]], ids=["seed", "greedy"])
def test_what_the_options_say_goes_before_the_config(
    configured, folder, run, recwarn, settings, sampling
):
    arguments = ["--max-new-tokens", LENGTH, *sampling]
    done = run("generate", PROMPT, "--model", configured(settings), *arguments)
    assert (done.status, done.err.count("\n")) == (0, 1 + ("min_new_tokens" in settings))
    assert done.out == run("generate", PROMPT, "--model", folder, *arguments).out
    assert not recwarn.list


def test_end_can_be_forced(configured, run):
    model = configured({"forced_eos_token_id": 0})
    done = run("generate", PROMPT, "--model", model, "--seed", 1, "--max-new-tokens", 4)
    assert done.out.endswith("!\n")  # id 0
    assert done.err.splitlines()[-1].startswith("4 tokens in")


def test_time_can_be_limited(configured, run):
    done = run("generate", PROMPT, "--model", configured({"max_time": 1e-9}), *SHORT)
    assert done.err.splitlines()[-1].startswith("1 tokens in")


# What is broken


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('{"eos_token_id": 256,', "is not a valid JSON file.); mend it, or delete it"),
        ("[1]", "mend it, or delete it"),
        ({"do_sample": False, "num_return_sequences": 2}, "got 2).); mend it, or delete it"),
        ({"logits_processor": 3}, "is not a valid argument of `GenerationConfig`"),
        ({"watermarking_config": {"foo": 1}}, "unexpected keyword argument 'foo'); mend it"),
    ],
    ids=str,
)
def test_config_that_cannot_be_read_is_named(configured, run, settings, words):
    model = configured(settings)
    path = str(Path(model) / "generation_config.json")
    for command in ("generate", "inspect"):
        done = run(command, PROMPT, "--model", model)
        assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
        assert done.err.startswith(f"fused-sampler: cannot use {path!r} (")
        assert words in done.err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"repetition_penalty": "high"}, "strictly positive float, but is high"),
        ({"repetition_penalty": -1.0}, "strictly positive float, but is -1.0"),
        ({"suppress_tokens": "high"}, "too many dimensions 'str'"),
        ({"suppress_tokens": list(range(257))}, "it forbids every token"),
        ({"bad_words_ids": [[999]]}, "but the following tokens were being biased: [999]"),
        ({"exponential_decay_length_penalty": 3}, "'int' object is not subscriptable"),
        ({"eos_token_id": "x"}, "invalid data type 'str'"),
    ],
    ids=str,
)
def test_value_that_cannot_be_used_is_named_before_any_text(configured, run, settings, words):
    model = configured(settings)
    with serving(Explorer(load_model(configured({})))) as server:
        server.explorer = Explorer(load_model(configured(settings)))
        status, answer = ask_view(server)
    start = f"the generation config of {model} cannot be used ("
    end = "); mend its generation_config.json"
    assert (status, answer["error"][: len(start)], words in answer["error"]) == (400, start, True)
    for command in (["generate", *SHORT], ["inspect"], ["explore"]):
        done = run(*command, PROMPT, "--model", model)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"fused-sampler: {start}")
        assert done.err.endswith(f"{end}\n")
        assert words in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stop_strings": 3}, "stop_strings is 3, no text or list of texts"),
        ({"stop_strings": [3]}, "stop_strings is [3], no text or list of texts"),
        ({"max_time": "x"}, "'>' not supported between"),
    ],
    ids=str,
)
def test_value_that_only_a_whole_text_needs_is_named(configured, run, settings, words):
    done = run("generate", PROMPT, "--model", configured(settings), *SHORT)
    assert done.status == 1
    assert words in done.err
    assert done.err.endswith("; mend its generation_config.json\n")
    assert run("inspect", PROMPT, "--model", configured(settings)).status == 0


def test_config_of_the_model_itself_is_untouched(configured):
    """What is left out of a command stays what it is in the loaded model."""
    loaded = load_model(configured({"do_sample": True, "num_beams": 4, "stop_strings": ["a"]}))
    before = loaded.model.generation_config.to_dict()
    explorer = Explorer(loaded)
    explorer.view(request_of())
    assert loaded.model.generation_config.to_dict() == before
    assert torch.is_tensor(explorer._text(request_of().reading, ()).token.raw)
