"""Penalties and bias in the commands and the views: what they show is what `mask_logits` gives."""

import inspect
import json
import math
import re

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from explorer import ask_view, request_of, serving
from tiny_model import save_tiny_model

from fused_sampler import mask_logits, sample, softmax
from fused_sampler.cli import generate as cli_generate
from fused_sampler.edits.records import NUMBERS
from fused_sampler.explorer.text import Explorer
from fused_sampler.hf import fused_generate
from fused_sampler.models.load import load_model
from fused_sampler.views.next_token import NextToken
from fused_sampler.views.numbers import label, read_bias, write_bias
from fused_sampler.views.parameters import EDITS, NEXT_EDITS
from fused_sampler.views.request import FieldError, Request

PROMPT = "qndqndqn"  # repeats itself, and its tokens are among the best ones after it
REPETITION = {"repetition_penalty": 1.5}
DRY = {"dry_multiplier": 0.25}
CASES = [
    REPETITION,
    {"repetition_penalty": 0.5},
    DRY,
    {**DRY, "dry_base": 1.5},
    {**DRY, "dry_allowed_length": 4},
    {**DRY, "dry_range": 5},
    {"logit_bias": {77: 3.0, 67: -math.inf}},
    {**DRY, "logit_bias": {67: 20.0}},
]
BOTH = {**REPETITION, **DRY, "logit_bias": {67: 3.0, 77: 1.0}}
each_case = pytest.mark.parametrize("edits", CASES, ids=str)


@pytest.fixture
def table(run, folder):
    """What `inspect --json` prints of the prompt."""

    def call(*arguments, model=folder):
        done = run("inspect", PROMPT, "--model", model, "--json", *arguments)
        assert done.status == 0, done.err
        return json.loads(done.out)

    return call


@pytest.fixture(scope="module")
def explorer(folder):
    return Explorer(load_model(folder))


@pytest.fixture(scope="module")
def token(explorer):
    return NextToken(explorer.loaded, request_of(PROMPT).reading)


@pytest.fixture
def penalized(tmp_path):
    """A model whose generation config has a repetition penalty."""
    model = save_tiny_model(tmp_path)
    model.generation_config.update(repetition_penalty=1.25, do_sample=True)
    model.save_pretrained(tmp_path)
    return str(tmp_path)


def expected(token, edits):
    return mask_logits(token.logits, **edits, prompt_ids=token.ids)


def options(edits):
    """As they are typed."""
    parts = []
    for name, value in edits.items():
        values = write_bias(value).split(", ") if name == "logit_bias" else [str(value)]
        parts += [part for one in values for part in (f"--{label(name)}", one)]
    return parts


def numbers(logits, ids):
    return [None if value == -math.inf else value for value in logits[ids].tolist()]


# The table


@each_case
def test_table_has_the_logits_before_and_after(table, token, edits):
    found = table(*options(edits), "--temperature", 0.7, "--top", 257)
    after = expected(token, edits)
    assert not torch.equal(after, token.logits)
    ids = [row["id"] for row in found["tokens"]]
    assert ids == after.argsort(descending=True, stable=True).tolist()
    assert [row["logit"] for row in found["tokens"]] == numbers(after, ids)
    assert [row["logit_before"] for row in found["tokens"]] == numbers(token.logits, ids)
    for key, logits in (("probability", after), ("probability_before", token.logits)):
        assert [row[key] for row in found["tokens"]] == softmax(logits, 0.7)[ids].tolist()
    assert found["edited"] is True
    for name, value in edits.items():
        shown = write_bias(value) if name == "logit_bias" else value
        assert found["edits"][name] == shown


def test_penalty_of_transformers_comes_first(token):
    request = request_of(PROMPT, edits=BOTH)
    others = {name: value for name, value in BOTH.items() if name not in REPETITION}
    after = mask_logits(expected(token, REPETITION), **others, prompt_ids=token.ids)
    assert torch.equal(token.edited(request), after)
    assert not torch.equal(after, expected(token, BOTH))


@each_case
def test_printed_table_says_from_where(run, folder, token, edits):
    done = run("inspect", PROMPT, "--model", folder, "--top", 257, *options(edits))
    heading, _, *lines = done.out.splitlines()
    assert heading.split()[-2:] == ["moved", "kept"]
    after = expected(token, edits)
    order = after.argsort(descending=True, stable=True).tolist()
    for line, i in zip(lines, order, strict=False):
        moved = re.findall(r"from (\S+)", line)
        assert moved == ([f"{token.logits[i]:.4f}"] if after[i] != token.logits[i] else [])


@pytest.mark.parametrize("arguments", [[], ["--dry-base", 3], ["--repetition-penalty", 1]], ids=str)
def test_nothing_has_moved_where_all_are_off(run, folder, table, arguments):
    assert "moved" not in run("inspect", PROMPT, "--model", folder, *arguments).out
    found = table(*arguments)
    assert found["edited"] is False
    assert all(row["logit"] == row["logit_before"] for row in found["tokens"])
    assert found["edits"]["logit_bias"] == ""


def test_best_tokens_that_moved_away_stay_in_the_table(table, token):
    best = token.logits.topk(6).indices.tolist()
    bias = [("--logit-bias", f"{i}=-inf") for i in (best[0], best[1], best[5])]
    found = table("--top", 2, *(part for pair in bias for part in pair))
    assert [row["id"] for row in found["tokens"][:2]] == best[2:4]
    # But for the sixth, which shows too where the table would have had it.
    assert {row["id"] for row in found["tokens"]} == {*best[2:4], best[0], best[1]}
    assert [row["rank"] for row in found["tokens"]] == sorted(
        row["rank"] for row in found["tokens"]
    )
    assert all(row["logit"] is None for row in found["tokens"][2:])
    found = table("--top", 2, "--logit-bias", f"{best[2]}=50")
    assert [row["id"] for row in found["tokens"]] == [best[2], best[0]]  # no others have moved


@each_case
def test_draw_is_that_of_sample(table, token, edits):
    drawn = [table(*options(edits), "--seed", seed)["drawn_id"] for seed in range(8)]
    assert drawn == [
        int(sample(token.logits, **edits, prompt_ids=token.ids, seed=seed)) for seed in range(8)
    ]


def test_option_goes_before_the_generation_config(run, table, penalized, token):
    note = "the model's generation config applies repetition_penalty 1.25"
    for given, applies, notes in ((None, 1.25, [note]), (1.5, 1.5, []), (1, 1.0, [])):
        arguments = [] if given is None else ["--repetition-penalty", given]
        found = table(*arguments, model=penalized)
        ids = [row["id"] for row in found["tokens"]]
        after = expected(token, {"repetition_penalty": applies})
        assert [row["logit"] for row in found["tokens"]] == numbers(after, ids)
        before = expected(token, {"repetition_penalty": 1.25})
        assert [row["logit_before"] for row in found["tokens"]] == numbers(before, ids)
        assert (found["notes"], found["edited"]) == (notes, given is not None)
        assert found["edits"]["repetition_penalty"] == applies
        done = run("generate", PROMPT, "--model", penalized, "--max-new-tokens", 1, *arguments)
        assert (note in done.err) == bool(notes)


# Log-probabilities


@pytest.mark.parametrize("edits", [{}, REPETITION, {"logit_bias": {67: -math.inf}}], ids=str)
def test_logprobs_are_those_of_sample(table, token, edits):
    arguments = ["--temperature", 0.7, "--top-k", 3, "--top-logprobs", 5, *options(edits)]
    found = table(*arguments)
    info = sample(
        token.logits,
        0.7,
        top_k=3,
        **edits,
        prompt_ids=token.ids,
        return_info=True,
        top_logprobs=5,
        seed=0,
    )
    for name, ids, logprobs in (
        ("top_logprobs", info.top_ids[:3], info.top_logprobs[:3]),  # as many as are kept
        ("raw_top_logprobs", info.raw_top_ids, info.raw_top_logprobs),
    ):
        assert [one["id"] for one in found[name]] == ids.tolist()
        assert [one["logprob"] for one in found[name]] == logprobs.tolist()
    assert found["top_logprobs"][0]["token"] == found["tokens"][0]["token"]


def test_raw_logprobs_are_of_the_model_itself(table, penalized, token):
    found = table("--top-logprobs", 4, model=penalized)["raw_top_logprobs"]
    raw = sample(token.logits, return_info=True, top_logprobs=4, seed=0)
    assert [one["logprob"] for one in found] == raw.raw_top_logprobs.tolist()


def test_printed_logprobs_stand_side_by_side(run, folder, table):
    arguments = ["--top", 2, "--top-k", 2, "--top-logprobs", 3]
    found = table(*arguments)
    _, printed, _ = run("inspect", PROMPT, "--model", folder, *arguments).out.split("\n\n")
    heading, _, *lines = printed.splitlines()
    assert heading.split() == ["rank", "token", "logprob", "raw", "token", "raw", "logprob"]
    logprobs = [[f"{one['logprob']:.4f}" for one in found[name]] for name in _BOTH]
    assert [re.findall(r"-?\d+\.\d{4}", line) for line in lines] == [
        [logprobs[0][0], logprobs[1][0]],
        [logprobs[0][1], logprobs[1][1]],
        [logprobs[1][2]],
    ]
    assert "logprob" not in run("inspect", PROMPT, "--model", folder).out
    assert all(table()[name] == [] for name in _BOTH)


_BOTH = ("top_logprobs", "raw_top_logprobs")


def test_more_logprobs_than_tokens_are_all(table):
    assert len(table("--top-logprobs", 1000)["raw_top_logprobs"]) == 257


# The command line


@pytest.mark.parametrize("text", ["", "5=1", "5=1.5, 7=-inf", "0=-2, 1=3e+06"])
def test_bias_is_read_as_it_is_written(text):
    assert write_bias(read_bias(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "logit_bias is '5'; give ID=VALUE"),
        ("5=", "is '5='; give"),
        ("=1", "is '=1'; give"),
        ("x=1", "is 'x=1'; give"),
        ("-1=1", "is '-1=1'; give"),
        ("5=inf", "is '5=inf'; give"),
        ("5=nan", "is '5=nan'; give"),
        ("5=1e39", "is '5=1e39'; give"),
        ("5=1, 6", "is '6'; give"),
        ("5=1,,", "is ''; give"),
        ("5=1=2", "is '5=1=2'; give"),
        ("5=1, 5=2", "logit_bias holds token 5 twice; give one value"),
    ],
)
def test_wrong_bias_is_named(run, text, words):
    with pytest.raises(FieldError, match=re.escape(words)) as refused:
        read_bias(text)
    assert refused.value.field == "logit_bias"
    for command in ("generate", "inspect", "explore", "plot"):
        parts = [part for one in text.split(", ") for part in ("--logit-bias", one)]
        done = run(command, PROMPT, *parts)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert "'--logit-bias': logit_bias " in done.err
        assert words in done.err


@pytest.mark.parametrize("command", ["generate", "inspect", "explore"])
def test_token_beyond_the_vocabulary_is_named(run, folder, command):
    done = run(command, PROMPT, "--model", folder, "--logit-bias", "257=1")
    assert (done.status, done.out) == (1, "")
    assert done.err == "fused-sampler: logit_bias names token 257; the model's ids end at 256\n"


@pytest.mark.parametrize("record", EDITS, ids=lambda record: record.name)
def test_number_out_of_range_is_refused_in_the_librarys_words(run, record):
    option, low = f"--{label(record.name)}", record.low - 1
    done = run("generate", PROMPT, option, low)
    assert (done.status, done.out) == (2, "")
    value = record.kind(low)
    words = f"'{option}': {record.name} is {value}, out of range; {record.remedy} (see"
    assert words in done.err
    with pytest.raises(FieldError, match="out of range"):
        Request(PROMPT, None, {}, None, edits={record.name: value})


@pytest.mark.parametrize("command", ["generate", "inspect", "explore", "plot"])
def test_help_has_a_panel_of_them(command, run):
    _, panel = run(command, "--help").out.split("─ Penalties and bias ─")
    listed = re.findall(r"│ --([a-z-]+)", panel)
    wanted = EDITS if command in ("generate", "explore") else NEXT_EDITS
    assert listed == [*(label(record.name) for record in wanted), "logit-bias"]
    assert set(NUMBERS) - {record.name for record in NEXT_EDITS} == {
        "frequency_penalty",
        "presence_penalty",
        "min_tokens",
    }


# generate

ALL = {
    "repetition_penalty": 1.5,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.25,
    "dry_multiplier": 4.0,
    "dry_base": 3.0,
    "dry_allowed_length": 4,
    "dry_range": 9,
    "min_tokens": 2,
    "logit_bias": {77: 3.0, 67: -math.inf},
}
OF_TRANSFORMERS = {"repetition_penalty": "repetition_penalty", "min_tokens": "min_new_tokens"}


@pytest.fixture
def handed_on(monkeypatch):
    """What `generate` hands to the decoding loop."""
    calls = []

    def stand_in(*arguments, generation_config, **others):
        own = [name for name in ALL if name not in OF_TRANSFORMERS]
        found = {name: others[name] for name in own if others.get(name) is not None}
        for name, hf in OF_TRANSFORMERS.items():
            if (value := getattr(generation_config, hf)) not in (None, 1.0):
                found[name] = value
        calls.append(found)
        return fused_generate(*arguments, generation_config=generation_config, **others)

    stand_in.__signature__ = inspect.signature(fused_generate)
    monkeypatch.setattr(cli_generate, "fused_generate", stand_in)
    return calls


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("edits", [{}, ALL, *({n: v} for n, v in ALL.items())], ids=str)
def test_generate_hands_them_on(run, folder, handed_on, recwarn, edits, greedy):
    how = ["--temperature", 0] if greedy else ["--seed", 1]
    arguments = ["--model", folder, "--max-new-tokens", 3, *how]
    done = run("generate", PROMPT, *arguments, *options(edits))
    assert done.status == 0, done.err
    assert handed_on[0] == edits
    assert not recwarn.list


def test_off_is_not_handed_on(run, folder, handed_on):
    off = [(f"--{label(r.name)}", r.off) for r in EDITS]
    arguments = ["--model", folder, "--max-new-tokens", 1, *(part for pair in off for part in pair)]
    assert run("generate", PROMPT, *arguments).status == 0
    assert [{n: v for n, v in call.items() if v} for call in handed_on] == [{}]


@pytest.mark.parametrize("edits", [*CASES, BOTH], ids=str)
@pytest.mark.parametrize("how", [["--temperature", 0], ["--seed", 1], ["--seed", 2]], ids=str)
def test_drawn_token_is_the_first_that_generate_gives(run, folder, table, edits, how):
    found = table(*options(edits), *how)
    token = next(row["token"] for row in found["tokens"] if row["drawn"])
    arguments = ["--model", folder, "--max-new-tokens", 1, *how, *options(edits)]
    assert run("generate", PROMPT, *arguments).out == f"{PROMPT}{token}\n"


def test_text_does_not_end_before_its_least_tokens(run, tmp_path):
    model = save_tiny_model(tmp_path)
    model.generation_config.eos_token_id = [i for i in range(257) if i != 5]
    model.save_pretrained(tmp_path)
    for least in (0, 2, 5):
        arguments = ["--model", tmp_path, "--max-new-tokens", 8, "--temperature", 0]
        done = run("generate", PROMPT, *arguments, "--min-tokens", least)
        assert int(done.err.split(" tokens in")[0].split()[-1]) == least + 1


# The explorer


@each_case
def test_explorer_shows_them(explorer, token, edits):
    view = explorer.view(request_of(PROMPT, seed=3, edits=edits, top_k=40), samples=50)
    after = expected(token, edits)
    ids = [row.id for row in view.rows]
    assert [row.logit for row in view.rows] == numbers(after, ids)
    assert [row.logit_before for row in view.rows] == numbers(token.logits, ids)
    drawn = next(row for row in view.rows if row.drawn)
    given = {"top_k": 40, **edits, "prompt_ids": token.ids}
    assert drawn.id == int(sample(token.logits, **given, seed=3))
    assert drawn.start <= view.draw.u < drawn.end
    counts = sample(token.logits, **given, seed=3, num_samples=50).bincount(minlength=257)
    assert [row.observed for row in view.rows] == counts[ids].tolist()
    assert view.call == "sample(edited, top_k=40, seed=3, step=0)"
    assert eval(view.call, {"sample": sample, "edited": after}) == drawn.id


def test_penalties_look_at_what_was_appended(explorer):
    """The text that they look at is the prompt and the appended tokens."""
    request = request_of("abc", edits={**REPETITION, **DRY})
    appended = explorer.loaded.tokenizer("cab").input_ids
    following = NextToken(explorer.loaded, request.reading, appended)
    whole = NextToken(explorer.loaded, request_of("abccab").reading)
    after = mask_logits(expected(whole, REPETITION), **DRY, prompt_ids=whole.ids)
    assert torch.equal(following.edited(request), after)
    assert not torch.equal(after, expected(whole, REPETITION))
    view = explorer.view(request, tuple(appended))
    assert [row.logit for row in view.rows] == after[[row.id for row in view.rows]].tolist()


def test_explorer_names_the_bias_by_what_it_dropped(explorer, token):
    best = int(token.logits.argmax())
    view = explorer.view(request_of(PROMPT, edits={"logit_bias": {best: -math.inf}}))
    assert {row.id: row.dropped_by for row in view.rows if row.dropped_by} == {best: "the bias"}


def test_explorer_reads_them_as_typed(explorer, token):
    typed = {"repetition_penalty": "1.5", "dry_multiplier": "0.25", "logit_bias": "77=3, 67=-inf"}
    edits = {**REPETITION, **DRY, "logit_bias": {77: 3.0, 67: -math.inf}}
    with serving(explorer, request_of(PROMPT, edits={"dry_range": 5})) as server:
        status, view = ask_view(server, prompt=PROMPT, **typed)
        assert status == 200
        expected_view = explorer.view(request_of(PROMPT, edits=edits))
        assert view["rows"] == [vars(row) for row in expected_view.rows]
        assert view["table"]["edits"]["dry_range"] == 0  # not as at first
        for record in EDITS:
            status, answer = ask_view(server, **{record.name: "x"})
            assert (status, answer["field"]) == (400, record.name)
            assert record.remedy in answer["error"]
        for bias, words in (("5", "give ID=VALUE"), ("257=1", "ids end at 256")):
            status, answer = ask_view(server, logit_bias=bias)
            assert (status, answer["field"]) == (400, "logit_bias")
            assert words in answer["error"]


# Figures


@pytest.fixture
def figure(run, folder, tmp_path, monkeypatch):
    """What `plot` draws of the prompt."""
    pytest.importorskip("matplotlib", reason="needs the `plot` extra")
    from fused_sampler.cli import plot

    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, path: figures.append(figure))

    def call(*arguments):
        out = tmp_path / "ab.svg"
        done = run("plot", PROMPT, "--model", folder, "--out", out, *arguments)
        assert done.status == 0, done.err
        return figures[-1]

    return call


@each_case
def test_figure_has_outlines_where_bars_were(figure, token, edits):
    drawn = figure("--temperature", 0.5, 2, "--top", 60, *options(edits))
    after = expected(token, edits)
    logits, _, probabilities = drawn.axes
    best = after.argsort(descending=True, stable=True)[:60]
    left = token.logits.topk(5).indices
    shown = sorted(
        {*best.tolist(), *left[after[left] != token.logits[left]].tolist()},
        key=after.argsort(descending=True, stable=True).tolist().index,
    )
    moved = [i for i in shown if after[i] != token.logits[i]]
    assert moved
    assert _outlines(logits) == [token.logits[moved].tolist()]
    assert _outlines(probabilities) == [softmax(token.logits, t)[moved].tolist() for t in (0.5, 2)]
    assert drawn.legends[0].get_texts()[-1].get_text() == "before penalties and bias"
    title = drawn.get_suptitle().replace("\n", " ")
    for name, value in edits.items():
        told = write_bias(value) if name == "logit_bias" else f"{value:g}"
        assert f"{label(name)} {told}" in title


def _outlines(panel):
    """Where the bars without a filling end, a list for each temperature."""
    ends = [
        [bar.get_width() for bar in container if bar.get_facecolor()[3] == 0]
        for container in panel.containers
    ]
    return [widths for widths in ends if widths]


def test_figure_without_edits_has_no_outlines(figure):
    drawn = figure("--top", 20)
    assert [_outlines(panel) for panel in drawn.axes] == [[], [], []]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["T = 1: 257 kept"]


def test_sweep_keeps_what_the_edits_leave(figure, token):
    drawn = figure("--sweep", "top-p", "--repetition-penalty", 3)
    (line,) = drawn.axes[0].get_lines()
    after = expected(token, {"repetition_penalty": 3.0})
    for p, kept in list(zip(line.get_xdata(), line.get_ydata(), strict=True))[::9]:
        assert kept == int((mask_logits(after, top_p=p) > -math.inf).sum())
