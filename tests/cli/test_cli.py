"""The command line: most tests call `main`, some run the installed program."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from embedded import load_embedded
from scripted import scripted_model
from tiny_model import END, POSITIONS, save_tiny_model

from fused_sampler import __version__
from fused_sampler.cli import generate as cli_generate
from fused_sampler.cli import info as cli_info
from fused_sampler.models import embedded
from fused_sampler.models.load import LoadedModel, load_model
from fused_sampler.views import environment
from fused_sampler.views.inspect import inspect_prompt
from fused_sampler.views.request import Request

PROGRAM = Path(sys.executable).with_name("fused-sampler")
PROMPT = "The sky is"


@pytest.fixture
def text(run, folder):
    """What `generate` prints for the prompt."""

    def call(*arguments):
        done = run("generate", PROMPT, "--model", folder, "--max-new-tokens", 12, *arguments)
        assert done.status == 0, done.err
        return done.out

    return call


@pytest.fixture
def table(run, folder):
    """What `inspect --json` prints for the prompt."""

    def call(*arguments):
        done = run("inspect", PROMPT, "--model", folder, "--json", *arguments)
        assert done.status == 0, done.err
        return json.loads(done.out)

    return call


# The program as installed


def start(*arguments, **options):
    """The program as a process of its own."""
    if not PROGRAM.exists():
        pytest.skip("the program is not installed beside this Python")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(PROGRAM), *arguments], **(pipes | options))


def finish(process):
    """Exit status, standard output and standard error."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_program_shows_its_version():
    assert finish(start("--version")) == (0, f"fused-sampler {__version__}\n", "")


def test_program_fails_with_one_line_and_no_traceback():
    status, out, err = finish(start("generate", PROMPT, "--top-p", "-2"))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "--top-p" in err


@pytest.mark.parametrize("output", ["long", "short"])  # met while printing, or at the last flush
def test_reader_that_goes_away(folder, output):
    long = ["inspect", PROMPT, "--model", folder, "--json", "--top", "257"]
    environment = {**os.environ}
    environment.pop("PYTHONUNBUFFERED", None)  # would bring every failure to the first print
    reading, writing = os.pipe()
    arguments = long if output == "long" else ["info", "--json"]
    process = start(*arguments, stdout=writing, env=environment)
    os.close(writing)
    os.close(reading)
    assert finish(process) == (1, None, "")


def test_interrupt_ends_generation_quietly():
    load_embedded()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's "&"
    process = start("generate", PROMPT, "--max-new-tokens", "4000", "--seed", "1")
    signal.signal(signal.SIGINT, handler)
    assert process.stdout.read(len(PROMPT)) == PROMPT  # the model is loaded
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert (status, err.strip()) == (130, "")


def test_terminal_gets_colours_and_a_file_does_not(folder, run):
    pty = pytest.importorskip("pty", reason="needs a Unix terminal")
    arguments = ["inspect", PROMPT, "--model", folder, "--top", "3", "--seed", "1"]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    process = start(*arguments, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b"".join(iter(lambda: read_terminal(ours), b""))
    assert finish(process) == (0, None, "")
    assert b"\x1b[32m" in shown  # green: kept

    plain = run(*arguments)
    assert "\x1b" not in plain.out + plain.err
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")
    assert without_colours == plain.out


def read_terminal(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux tells that the program is gone
        return b""


# Help and errors


def test_help_names_the_commands(run):
    done = run()
    assert done.status == 0
    assert done.out == run("--help").out
    for command in ("generate", "inspect", "info"):
        assert command in done.out
        assert run(command, "-h").status == 0


HOT = ["generate", PROMPT, "--temperature"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*HOT, "-1"], "'--temperature': temperature is -1.0, out of range; use 0 for greedy"),
        ([*HOT, "nan"], "'--temperature': temperature is 'nan', no number; use 0 for greedy"),
        ([*HOT, "inf"], "'--temperature': temperature is 'inf', no number"),
        ([*HOT, "1e39"], "'--temperature': temperature is 1e+39, out of range"),
        ([*HOT, "hot"], "'--temperature': temperature is 'hot', no number"),
        (["generate", PROMPT, "--top-k", "-1"], "'--top-k': top_k is -1, out of range; use 0"),
        (["generate", PROMPT, "--top-k", "1.5"], "'--top-k': top_k is '1.5', no whole number"),
        (["inspect", PROMPT, "--top-p", "-2"], "'--top-p': top_p is -2.0, out of range"),
        (["inspect", PROMPT, "--min-p", "-0.1"], "'--min-p': min_p is -0.1, out of range"),
        (["inspect", PROMPT, "--seed", "-1"], "'--seed': '-1' is not a whole number from 0 to"),
        (["inspect", PROMPT, "--seed", str(2**63)], "is not a whole number from 0 to"),
        (["inspect", PROMPT, "--top", "0"], "'--top': '0' is not a whole number from 1 up"),
        (["generate", PROMPT, "--max-new-tokens", "0"], "'0' is not a whole number from 1 up"),
        (["generate", PROMPT, "--num-samples", "0"], "'0' is not a whole number from 1 up"),
        (["generate", PROMPT, "--seed", str(2**63 - 1), "--num-samples", "2"], "'--seed': 9"),
        (
            ["generate", PROMPT, "--num-samples", str(2**64)],
            "'--num-samples': 18446744073709551616",
        ),
        (["generate", ""], "the prompt is empty; give some text"),
        (["inspect", "\udcff"], "the prompt is not valid UTF-8"),
        (["generate", PROMPT, "--model", ""], "'--model': it is empty; give a folder or a hub id"),
        (["generate"], "Missing argument"),
        (["generate", PROMPT, "more"], "unexpected extra argument"),
        (["generate", PROMPT, "--topp", "1"], "No such option: --topp"),
        (["generat", PROMPT], "Did you mean 'generate'?"),
        (["info", "--yaml"], "No such option: --yaml"),
    ],
)
def test_wrong_command_line_is_one_line(run, arguments, words):
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("fused-sampler: ")
    assert words in done.err
    assert done.err.count("\n") == 1


def test_missing_model_is_one_line(run, tmp_path):
    for name, words in [
        (tmp_path / "nowhere", "does not exist; give an existing folder or hub id"),
        (tmp_path, "holds no config.json"),
    ]:
        done = run("generate", PROMPT, "--model", name)
        assert (done.status, done.out) == (1, "")
        assert str(name) in done.err
        assert words in done.err
        assert done.err.count("\n") == 1


def test_text_longer_than_the_model_holds_is_one_line(run, folder):
    room = POSITIONS - len(PROMPT)
    done = run("generate", PROMPT, "--model", folder, "--max-new-tokens", room + 1)
    assert (done.status, done.out) == (1, "")
    assert f"has {len(PROMPT)} tokens and {room + 1} more are asked for" in done.err
    assert done.err.endswith("; shorten the prompt or lower --max-new-tokens\n")
    assert run("generate", PROMPT, "--model", folder, "--max-new-tokens", room).status == 0


def test_prompt_longer_than_the_model_holds_is_one_line(run, folder):
    """`inspect` has no --max-new-tokens to lower."""
    done = run("inspect", "x" * POSITIONS, "--model", folder)
    assert (done.status, done.out) == (1, "")
    assert done.err.endswith(f"{folder} holds {POSITIONS}; shorten the prompt\n")


def test_broken_model_is_one_line(run, tmp_path, capsys):
    model = save_tiny_model(tmp_path)
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    model.save_pretrained(tmp_path)
    for command, length in (("generate", ["--max-new-tokens", 1]), ("inspect", [])):
        capsys.readouterr()
        done = run(command, "x", "--model", tmp_path, "--seed", 1, *length)
        assert done.status == 1
        assert "row 0" in done.err
        assert "NaN" in done.err
        assert done.err.count("\n") == 1


def test_missing_cli_packages_are_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    done = run("info")
    assert (done.status, done.out) == (1, "")
    line = "fused-sampler: typer is not installed; run pip install 'fused-sampler[cli]'\n"
    assert done.err == line


def test_interrupt_anywhere_is_130(run, monkeypatch):
    def interrupted(as_json):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_info, "run_info", interrupted)
    done = run("info")
    assert (done.status, done.err) == (130, "")


# generate


def test_greedy_text_is_that_of_transformers(text, folder):
    loaded = load_model(folder)
    inputs = loaded.tokenizer(PROMPT, return_tensors="pt").to(loaded.model.device)
    ids = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=12)[0]
    assert text("--temperature", 0) == loaded.tokenizer.decode(ids) + "\n"


def test_seed_decides_the_text(text):
    assert text("--seed", 1).startswith(PROMPT)
    assert text("--seed", 1) == text("--seed", 1)
    assert text("--seed", 1) != text("--seed", 2)


def test_filters_reach_the_sampler(text):
    greedy = text("--temperature", 0)
    assert text("--seed", 1) != greedy
    for only_the_best in (["--top-k", 1], ["--top-p", 0], ["--min-p", 1], ["--temperature", 1e-4]):
        assert text("--seed", 1, *only_the_best) == greedy


def test_settings_of_the_model_do_not_replace_the_defaults(text, tmp_path, run):
    """A model's own top_k must not show where the user asked for no top-k."""
    model = save_tiny_model(tmp_path)
    model.generation_config.do_sample = True
    model.generation_config.top_k = 1
    model.save_pretrained(tmp_path)
    done = run("generate", PROMPT, "--model", tmp_path, "--max-new-tokens", 12, "--seed", 1)
    assert done.out == text("--seed", 1)


def test_each_sample_has_the_next_seed(text):
    parts = text("--seed", 5, "--num-samples", 3).split("=== sample ")[1:]
    assert [part.split(" ===\n")[0] for part in parts] == [
        f"{i} of 3, seed {i + 4}" for i in (1, 2, 3)
    ]
    assert [part.split(" ===\n", 1)[1] for part in parts] == [text("--seed", s) for s in (5, 6, 7)]


FIGURES = re.compile(
    r"(\d+) tokens in [\d.]+ s: ([\d.]+) tokens/s, "
    r"([\d.]+)% of the time spent sampling, seed (\d+)\n"
)


def test_figures_go_to_stderr_and_the_seed_repeats_the_run(run, folder, text):
    done = run("generate", PROMPT, "--model", folder, "--max-new-tokens", 12, "--num-samples", 2)
    found = FIGURES.fullmatch(done.err)
    assert found, done.err
    tokens, speed, share, seed = found.groups()
    assert 2 <= int(tokens) <= 24  # a sample may end early
    assert float(speed) > 0
    assert 0 < float(share) < 100
    assert text("--seed", seed, "--num-samples", 2) == done.out


def test_the_tokens_of_all_samples_are_counted(run, folder):
    arguments = ["--max-new-tokens", 12, "--num-samples", 2, "--seed", 1]
    assert run("generate", PROMPT, "--model", folder, *arguments).err.startswith("24 tokens in ")


def test_greedy_shows_no_seed(run, folder):
    done = run("generate", PROMPT, "--model", folder, "--max-new-tokens", 2, "--temperature", 0)
    assert done.err.endswith("greedy\n")


def test_time_in_the_sampler_is_counted(monkeypatch):
    def slow(*arguments, **keywords):
        time.sleep(0.02)
        return arguments, keywords

    monkeypatch.setattr(cli_generate, "sample", slow)
    timed = cli_generate.TimedSampler(torch.device("cpu"))
    assert timed(1, 2, seed=3) == ((1, 2), {"seed": 3})
    timed()
    time.sleep(0.5)  # not the sampler's
    assert 0.04 <= timed.seconds < 0.5


def test_text_appears_token_by_token(folder, capsys):
    """Half a character waits for its other half; special tokens do not show."""
    tokenizer = load_model(folder).tokenizer
    live = cli_generate.LiveText(tokenizer)
    live.put(tokenizer(PROMPT, return_tensors="pt").input_ids)
    shown = []
    new = tokenizer(" é!").input_ids
    for token in [*new, tokenizer.convert_tokens_to_ids(END), new[1]]:
        live.put(torch.tensor([token]))
        shown.append(capsys.readouterr().out)
    live.end()
    shown.append(capsys.readouterr().out)
    assert shown == [" ", "", "é", "!", "", "", "\ufffd"]


def test_embedded_model_is_the_default(run):
    load_embedded()
    prompt = "The capital of France is the city of"
    done = run("generate", prompt, "--temperature", 0, "--max-new-tokens", 1)
    assert (done.status, done.out) == (0, f"{prompt} Paris\n"), done.err


# inspect


def test_table_by_hand(folder):
    """Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1; every other token is forbidden."""
    tokenizer = load_model(folder).tokenizer
    ids = tokenizer("abcd").input_ids
    logits = torch.full((257,), -math.inf)
    logits[ids] = torch.tensor([0.125, 0.5, 0.125, 0.25]).log()
    loaded = LoadedModel("fixed", scripted_model(lambda _: logits), tokenizer)
    request = Request(PROMPT, None, {"top_p": 0.7}, seed=0)
    found = inspect_prompt(loaded, request, top=5)

    assert [row.token for row in found.tokens[:4]] == ["b", "d", "a", "c"]
    assert [row.rank for row in found.tokens] == [1, 2, 3, 4, 5]
    assert [row.kept for row in found.tokens] == [True, True, False, False, False]
    probabilities = [row.probability for row in found.tokens]
    assert probabilities == pytest.approx([0.5, 0.25, 0.125, 0.125, 0.0], abs=1e-6)
    cumulative = [row.cumulative_probability for row in found.tokens]
    assert cumulative == pytest.approx([0.5, 0.75, 0.875, 1.0, 1.0], abs=1e-6)
    assert (found.kept, found.vocabulary) == (2, 257)
    assert found.kept_probability == pytest.approx(0.75, abs=1e-6)
    among_kept = {ids[1]: 2 / 3, ids[3]: 1 / 3}
    assert found.drawn_probability == pytest.approx(among_kept[found.drawn_id], abs=1e-6)
    assert found.tokens[4].logit is None  # forbidden; JSON has no -inf
    assert found.tokens[4].scaled_logit is None


def test_temperature_divides(table):
    plain, cooled = table("--top", 3), table("--top", 3, "--temperature", 0.5)
    for before, after in zip(plain["tokens"], cooled["tokens"], strict=True):
        assert after["id"] == before["id"]
        assert after["logit"] == before["logit"] == before["scaled_logit"]
        assert after["scaled_logit"] == pytest.approx(2 * before["logit"])
    assert cooled["tokens"][0]["probability"] > plain["tokens"][0]["probability"]


def test_kept_follows_the_filters(table):
    assert table()["kept"] == table()["vocabulary"] == 257
    assert table("--top-k", 3)["kept"] == 3
    found = table("--top", 257, "--top-p", 0.5)
    above = [0.0] + [row["cumulative_probability"] for row in found["tokens"]]
    assert [row["kept"] for row in found["tokens"]] == [p < 0.5 for p in above[:-1]]
    best = found["tokens"][0]["probability"]
    found = table("--top", 257, "--min-p", 0.1)
    kept = [row["kept"] for row in found["tokens"]]
    assert kept == [row["probability"] >= 0.1 * best for row in found["tokens"]]
    assert 1 < sum(kept) < 257


@pytest.mark.parametrize("sampling", [[], ["--temperature", 0.7, "--top-p", 0.9], ["--top-k", 5]])
def test_drawn_token_is_the_first_that_generate_gives(table, run, folder, sampling):
    drawn = set()
    for seed in range(4):
        found = table("--seed", seed, "--top", 1, *sampling)
        row = next(row for row in found["tokens"] if row["drawn"])
        assert row["id"] == found["drawn_id"]
        arguments = ["--model", folder, "--seed", seed, "--max-new-tokens", 1, *sampling]
        assert run("generate", PROMPT, *arguments).out == f"{PROMPT}{row['token']}\n"
        drawn.add(row["id"])
    assert len(drawn) > 1


def test_greedy_draws_the_best(table):
    found = table("--temperature", 0, "--top", 2)
    assert found["drawn_id"] == found["tokens"][0]["id"]
    assert (found["kept"], found["drawn_probability"]) == (1, 1.0)
    assert [row["probability"] for row in found["tokens"]] == [1.0, 0.0]
    assert [row["scaled_logit"] for row in found["tokens"]] == [None, None]


def test_nothing_is_drawn_without_a_seed(table):
    found = table()
    assert found["drawn_id"] is None
    assert not any(row["drawn"] for row in found["tokens"])


def test_printed_table_is_aligned_and_shows_a_low_drawn_token(run, folder, table):
    seed = next(s for s in range(50) if len(table("--top", 2, "--seed", s)["tokens"]) == 3)
    drawn = table("--top", 2, "--seed", seed)["tokens"][2]
    done = run("inspect", PROMPT, "--model", folder, "--top", 2, "--seed", seed, "--top-k", 256)
    lines = done.out.splitlines()
    assert " ".join(lines[0].split()) == "rank token id logit logit / T prob cumul kept"
    assert [line.split()[0] for line in lines[2:6]] == ["1", "2", "...", str(drawn["rank"])]
    assert lines[5].rstrip().endswith("yes <- drawn")
    ends = {lines[0].index(name) + len(name) for name in ("id", "logit / T", "prob", "cumul")}
    for line in (lines[2], lines[3], lines[5]):  # right-aligned under their headings
        assert all(line[end - 1].isdigit() and line[end] == " " for end in ends)
    assert "256 of 257 tokens kept" in done.out
    assert f"seed {seed}: draws {drawn['token']!r}" in done.out or f"<{drawn['piece']}>" in done.out


# info


def test_info_names_versions_backend_and_cache(run, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSED_SAMPLER_CACHE", str(tmp_path))
    facts = json.loads(run("info", "--json").out)
    assert facts["fused_sampler"] == __version__
    assert facts["torch"] == torch.__version__
    assert facts["transformers"] == version("transformers")
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["cache"] == str(tmp_path)
    assert facts["auto_on_cpu"] == environment.auto_backend("cpu")
    assert facts["auto_on_gpu"] == environment.auto_backend("cuda")
    if not torch.cuda.is_available():
        assert facts["devices"] == "cpu"
    printed = run("info").out
    for name, value in facts.items():
        assert f"\n{name.replace('_', ' '):<16}{value}\n" in f"\n{printed}"


@pytest.mark.parametrize(
    ("device", "backend", "compiler"), [("cpu", "cpu", "Numba"), ("cuda", "triton", "Triton")]
)
@pytest.mark.parametrize("gpu", [True, False])
def test_info_says_what_auto_takes_and_what_would_be_better(
    monkeypatch, device, backend, compiler, gpu
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    brings = f"kernels that {compiler} compiles, in "
    asked = []

    def missing(name, device):
        asked.append((name, device.type))
        return "it is missing; pip install it."

    for unavailable, start in (
        (lambda name, device: None, f"{backend}: {brings}"),
        (missing, f"torch: it is missing; pip install it. It brings {brings}"),
    ):
        monkeypatch.setattr(environment.kernels, "unavailable", unavailable)
        shown = environment.auto_backend(device)
        assert shown.startswith(start)
        assert shown.endswith("; PyTorch sees no GPU here") == (device == "cuda" and not gpu)
    assert set(asked) == {(backend, device)}


def test_info_follows_the_embedded_model(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSED_SAMPLER_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "embedded_file", lambda: None)
    assert environment.facts()["embedded_model"].startswith("not installed; run pip install")
    monkeypatch.setattr(embedded, "embedded_file", lambda: Path("model.gguf"))
    assert environment.facts()["embedded_model"].endswith("installed; unpacked at first use")
    folder = embedded.cached_folder()
    folder.mkdir()
    (folder / "complete.json").write_text("{}")
    assert environment.facts()["embedded_model"].endswith(", ready")
    shutil.rmtree(folder)
    assert not environment.facts()["embedded_model"].endswith(", ready")
