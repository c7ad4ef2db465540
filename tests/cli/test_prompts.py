"""Prompts of every command: in a chat template, with words that the model does not have."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from embedded import load_embedded
from explorer import ask_view, request_of, serving
from tiny_model import save_tiny_model
from transformers import AutoTokenizer

from fused_sampler.cli import main
from fused_sampler.explorer.text import Explorer
from fused_sampler.models.load import load_model
from fused_sampler.models.prompt import Prompt, encode_prompt
from fused_sampler.views.request import Request

PROMPT = "The sky is"
COMMANDS = [
    ["generate", "--max-new-tokens", "4"],
    ["inspect"],
    ["explore", "--no-browser"],
    ["plot", "--out", "sky.svg"],
]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Call the program in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        return SimpleNamespace(status=status, **capsys.readouterr()._asdict())

    return call


def with_template(folder, template):
    save_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """The folder of a tiny model with a chat template."""
    return with_template(tmp_path_factory.mktemp("chatty"), TEMPLATE)


# --chat and --system

CHATS = [
    (["--chat"], f"user: {PROMPT}\nA:"),
    (["--chat", "--system", "Be kind"], f"system: Be kind\nuser: {PROMPT}\nA:"),
    (["--chat", "--system", ""], f"system: \nuser: {PROMPT}\nA:"),
]


@pytest.mark.parametrize(("options", "read"), CHATS)
def test_answer_is_what_follows_the_template(run, chatty, options, read):
    """The prompt shows as it was typed, and the answer on a line of its own."""
    arguments = ["--model", chatty, "--seed", 1, "--max-new-tokens", 6]
    chat = run("generate", PROMPT, *options, *arguments)
    plain = run("generate", read, *arguments)
    assert (chat.status, plain.status) == (0, 0), chat.err + plain.err
    assert chat.out == f"{PROMPT}\n{plain.out.removeprefix(read)}"


@pytest.mark.parametrize(("options", "read"), CHATS)
def test_inspect_reads_the_same(run, chatty, options, read):
    arguments = ["--model", chatty, "--seed", 1, "--json"]
    chat = json.loads(run("inspect", PROMPT, *options, *arguments).out)
    plain = json.loads(run("inspect", read, *arguments).out)
    assert chat["tokens"] == plain["tokens"]
    assert chat["prompt_tokens"] == plain["prompt_tokens"] == len(read)
    system = options[2] if len(options) > 1 else None
    assert (chat["prompt"], chat["chat"], chat["system"]) == (PROMPT, True, system)
    assert (plain["chat"], plain["system"]) == (False, None)


def test_explorer_reads_the_same(chatty):
    """Also what is typed into the page."""
    explorer = Explorer(load_model(chatty))
    request = Request(PROMPT, None, {}, 0, chat=True, system="Hi")
    with serving(explorer, request) as server:
        for prompt in (PROMPT, "ab"):
            _, view = ask_view(server, prompt=prompt, appended=[40])
            plain = explorer.view(request_of(f"system: Hi\nuser: {prompt}\nA:"), (40,))
            assert [row["logit"] for row in view["rows"]] == [row.logit for row in plain.rows]
            assert (view["table"]["prompt"], view["table"]["chat"]) == (prompt, True)


def test_plot_reads_the_same(run, chatty, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the `plot` extra")
    from fused_sampler.cli import plot

    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, path: figures.append(figure))
    for prompt, options in ((PROMPT, ["--chat"]), (CHATS[0][1], [])):
        assert run("plot", prompt, "--model", chatty, *options).status == 0
    widths = [[bar.get_width() for bar in figure.axes[0].patches] for figure in figures]
    assert widths[0] == widths[1]
    assert figures[0].get_suptitle().startswith(f"First token in answer to {PROMPT!r}\n")
    assert figures[1].get_suptitle().startswith("Next token after ")


def test_embedded_model_answers(run):
    load_embedded()
    arguments = ["--chat", "--temperature", 0, "--max-new-tokens", 16]
    done = run("generate", "What is the capital of France?", *arguments)
    assert done.out == "What is the capital of France?\nThe capital of France is Paris.\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--system", "Hi"], 2, "'--system': it goes with --chat alone; add --chat or leave it"),
        (["--system", ""], 2, "'--system': it goes with --chat alone"),
        (["--chat", "--system", "\udcff"], 2, "'--system': the system is not valid UTF-8"),
        (["--chat"], 1, "has no chat template; leave --chat out, or give a model that has one"),
    ],
)
def test_wrong_chat_is_one_line(run, folder, command, options, status, words):
    done = run(*command, PROMPT, "--model", folder, *options)
    assert (done.status, done.out, done.err.count("\n")) == (status, "", 1)
    assert words in done.err


@pytest.mark.parametrize(
    ("template", "options", "words"),
    [
        ("{{ raise_exception('no system here') }}", [], "(no system here); leave --chat out"),
        (
            "{{ raise_exception('no system here') }}",
            ["--system", "Hi"],
            "(no system here); leave --system, or --chat as well, out",
        ),
        ("{% if %}", [], "leave --chat out"),
        ("{{ messages[7].content }}", [], "leave --chat out"),
    ],
)
def test_template_that_fails_is_one_line(run, tmp_path, capsys, template, options, words):
    model = with_template(tmp_path / "model", template)
    capsys.readouterr()  # the bar of saving it
    done = run("inspect", PROMPT, "--model", model, "--chat", *options)
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert f"the chat template of {model} fails (" in done.err
    assert words in done.err


# A tokenizer with more ids than the model has


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """The folder of a tiny model whose tokenizer has learned two words since."""
    folder = tmp_path_factory.mktemp("smaller")
    save_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zebra", "yak"])
    tokenizer.save_pretrained(folder)
    return str(folder)


def unknown(model):
    return (
        f"the prompt holds 'yak', which is id 258 of the tokenizer, but {model} has 257 ids; leave "
        "it out, or give a model with the tokenizer that it was trained with"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_word_that_the_model_does_not_have_is_named(run, smaller, command):
    done = run(*command, "a yak and a zebra", "--model", smaller)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"fused-sampler: {unknown(smaller)}\n"


def test_word_that_the_model_does_not_have_is_named_in_the_page(smaller):
    with serving(Explorer(load_model(smaller))) as server:
        status, answer = ask_view(server, prompt="a yak")
        assert (status, answer["error"]) == (400, unknown(smaller))
        status, answer = ask_view(server, appended=[258])
        message = "appended token 258 is no id of the tokenizer's"
        assert (status, answer["error"]) == (400, message)
        assert ask_view(server)[0] == 200


def test_words_that_the_model_has_are_read(smaller, folder):
    found, expected = (
        encode_prompt(load_model(name), Prompt(PROMPT), new_tokens=1) for name in (smaller, folder)
    )
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
