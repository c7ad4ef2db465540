"""The explorer without a browser: its views are the library's, its server keeps to this machine."""

import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from explorer import PROMPT, ask, ask_view, request_of, serving
from scripted import scripted_model
from tiny_model import END, POSITIONS, save_tiny_model

from fused_sampler import mask_logits, sample, softmax
from fused_sampler.cli import explore as cli_explore
from fused_sampler.cli import main
from fused_sampler.explorer.page import SAVED_TEMPERATURES, SCRIPTS, render_page
from fused_sampler.explorer.text import Explorer
from fused_sampler.explorer.view import SAMPLES, TOP
from fused_sampler.models.load import LoadedModel, load_model

ROOT = Path(__file__).resolve().parents[2]
SAMPLINGS = [
    {},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 5.0, "min_p": 0.3},
    {"top_k": 20, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 0.5, "top_n_sigma": 1.5, "eta_cutoff": 0.03, "top_a": 0.05},
    {"temperature": 0.0},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    save_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def explorer(folder):
    return Explorer(load_model(str(folder)))


@pytest.fixture(scope="module")
def server(explorer):
    with serving(explorer) as running:
        yield running


def next_logits(explorer, appended=()):
    """What the model says after the prompt and these tokens."""
    ids = explorer.loaded.tokenizer(PROMPT).input_ids + list(appended)
    with torch.no_grad():
        return explorer.loaded.model(torch.tensor([ids])).logits[0, -1]


def drawn(view):
    return next(row for row in view.rows if row.drawn)


# Views


def test_bar_by_hand(explorer):
    """Of probabilities 1/8, 1/2, 1/8, 1/4 top-p 0.7 keeps the second and the last."""
    tokenizer = explorer.loaded.tokenizer
    ids = tokenizer("abcd").input_ids
    logits = torch.full((257,), -math.inf)
    logits[ids] = torch.tensor([0.125, 0.5, 0.125, 0.25]).log()
    fixed = Explorer(LoadedModel("fixed", scripted_model(lambda _: logits), tokenizer))
    view = fixed.view(request_of(top_p=0.7), samples=12)
    rows = {row.token: row for row in view.rows}

    third = pytest.approx(2 / 3, abs=1e-6)  # the contract's distance from the exact softmax: 3e-7
    assert (rows["b"].start, rows["b"].end) == (0.0, third)
    assert (rows["d"].start, rows["d"].end) == (third, 1.0)
    assert all(rows[token].start == rows[token].end for token in "ac")
    assert [rows[token].dropped_by for token in "abcd"] == ["top-p", None, "top-p", None]
    forbidden = next(row for row in view.rows if row.logit is None)
    assert forbidden.dropped_by == "the model"
    assert rows["b"].observed + rows["d"].observed == 12
    assert (view.others.tokens, view.others.chance, view.others.observed) == (0, 0.0, 0)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drawn_token_is_that_of_sample(explorer, sampling):
    found = set()
    for step in range(3):
        appended = (40,) * step
        logits = next_logits(explorer, appended)
        for seed in (0, 1, 2**63 - 1):
            view = explorer.view(request_of(seed=seed, **sampling), appended)
            row = drawn(view)
            assert row.id == int(sample(logits, seed=seed, step=step, **sampling))
            assert eval(view.call, {"sample": sample, "logits": logits}) == row.id
            if view.draw is None:
                assert sampling["temperature"] == 0
                assert (row.start, row.end) == (0.0, 1.0)
            else:
                assert row.start <= view.draw.u < row.end
                assert int(view.draw.first) <= int(view.draw.r) <= int(view.draw.last)
                assert int(view.draw.mass) > int(view.draw.last)
            found.add(row.id)
    assert len(found) > 1


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_bar_holds_the_kept_tokens_in_vocabulary_order(explorer, sampling):
    logits = next_logits(explorer)
    view = explorer.view(request_of(**sampling))
    kept = mask_logits(logits, **sampling) > -math.inf
    exact = (softmax(logits, sampling.get("temperature", 1.0)).double() * kept).cumsum(0)
    for row in view.rows:
        assert row.kept == bool(kept[row.id]) == (row.dropped_by is None)
        end = float(exact[row.id] / exact[-1])
        assert row.end == pytest.approx(end, abs=1e-6)  # the contract's 3e-7, and fp32's own
    assert view.table.kept == int(kept.sum())
    assert view.others.tokens == int(kept.sum()) - sum(row.kept for row in view.rows)
    chances = sum(row.end - row.start for row in view.rows)
    assert chances + view.others.chance == pytest.approx(1, abs=1e-12)  # 2**-53 a token


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_counts_are_those_of_sample(explorer, sampling):
    view = explorer.view(request_of(seed=5, **sampling), samples=SAMPLES)
    tokens = sample(next_logits(explorer), seed=5, num_samples=SAMPLES, **sampling)
    counts = tokens.bincount(minlength=257).tolist()
    assert [row.observed for row in view.rows] == [counts[row.id] for row in view.rows]
    assert view.others.observed == SAMPLES - sum(row.observed for row in view.rows)
    assert int(tokens[0]) == drawn(view).id
    uncounted = explorer.view(request_of(seed=5, **sampling))
    assert {row.observed for row in uncounted.rows} == {None}


@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": 20, "top_p": 0.9, "min_p": 0.4},
        {"top_n_sigma": 1.2, "epsilon_cutoff": 0.02, "eta_cutoff": 0.35, "top_a": 0.6},
    ],
    ids=" ".join,
)
def test_each_filter_is_named_by_what_it_dropped(explorer, filters):
    """In the order in which they apply; the request names them in another."""
    backwards = dict(reversed(filters.items()))
    view = explorer.view(request_of(temperature=0.8, **backwards))
    logits, left, so_far = next_logits(explorer), {}, {"temperature": 0.8}
    for name, value in filters.items():
        so_far[name] = value
        left[name.replace("_", "-")] = mask_logits(logits, **so_far) > -math.inf
    for row in view.rows:
        stages = (name for name, kept in left.items() if not kept[row.id])
        assert row.dropped_by == next(stages, None)
    assert {row.dropped_by for row in view.rows} == {*left, None}


def test_greedy_decoding_is_named_too(explorer):
    greedy = explorer.view(request_of(temperature=0.0))
    assert [row.dropped_by for row in greedy.rows] == [None] + ["greedy"] * (TOP - 1)
    tiny = explorer.view(request_of(temperature=1e-30))  # not 0, but greedy as well
    assert [row.dropped_by for row in tiny.rows] == [row.dropped_by for row in greedy.rows]


def test_appended_tokens_are_the_text_that_generate_writes(explorer, folder, capsys):
    request = request_of(temperature=0.9, top_p=0.95, seed=3)
    appended = ()
    for _ in range(12):
        appended += (drawn(explorer.view(request, appended)).id,)
    sampling = ["--temperature", "0.9", "--top-p", "0.95", "--seed", "3"]
    length = ["--max-new-tokens", "12"]
    assert main(["generate", PROMPT, "--model", str(folder), *sampling, *length]) == 0
    view = explorer.view(request, appended)
    tokenizer = explorer.loaded.tokenizer
    text = tokenizer.decode(tokenizer(PROMPT).input_ids + list(appended))
    assert capsys.readouterr().out == f"{text}\n"
    assert text.startswith(PROMPT + "".join(view.pieces))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_draws_ahead_are_the_views_of_the_next_steps(explorer, sampling):
    request = request_of(seed=3, **sampling)
    ahead = explorer.view(request, (40,), ahead=4).ahead
    appended = (40,)
    for step, draw in enumerate(ahead, start=1):
        view = explorer.view(request, appended)
        row = drawn(view)
        assert (draw.step, draw.id, draw.label) == (step, row.id, row.label)
        assert (draw.start, draw.end, draw.kept) == (row.start, row.end, view.table.kept)
        assert draw.u == (view.draw and view.draw.u)
        appended += (row.id,)
    assert len(ahead) == 4


OF_OUTPUT = ["--frequency-penalty", 2, "--presence-penalty", 1.5]
OF_TEXT = ["--dry-multiplier", 4, "--dry-range", 6, "--repetition-penalty", 1.3, "--min-tokens", 4]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("options", [[], OF_OUTPUT, OF_TEXT, OF_OUTPUT + OF_TEXT], ids=str)
@pytest.mark.parametrize("ends", [[256], [*range(256, 60, -3)]], ids=len)
def test_draws_ahead_are_what_generate_writes(tmp_path, run, options, temperature, ends):
    """As far as it writes: the model may end the text, which `--min-tokens` puts off."""
    model = save_tiny_model(tmp_path)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    names = [option[2:].replace("-", "_") for option in options[::2]]
    edits = dict(zip(names, options[1::2], strict=True))
    request = request_of("qndqnd", edits=edits, seed=5, temperature=temperature)
    ahead = Explorer(loaded).view(request, ahead=10).ahead
    how = ["--model", tmp_path, "--temperature", temperature, "--seed", 5, "--max-new-tokens", 10]
    done = run("generate", "qndqnd", *how, *options)
    text = loaded.tokenizer.decode(
        loaded.tokenizer("qndqnd").input_ids + [draw.id for draw in ahead], skip_special_tokens=True
    )
    assert done.out == f"{text}\n"
    assert f"{len(ahead)} tokens in" in done.err
    ended = len(ahead) < 10
    assert [draw.last for draw in ahead][-1] == ("the text ends here" if ended else "")
    assert ended == (ends != [256])


def test_stop_string_of_the_model_ends_the_draws_ahead(tmp_path):
    model = save_tiny_model(tmp_path)
    loaded = load_model(str(tmp_path))
    request = request_of(seed=3)
    ids = [draw.id for draw in Explorer(loaded).view(request, ahead=6).ahead]
    stop = loaded.tokenizer.decode(ids[2:4])
    model.generation_config.stop_strings = [stop]
    model.save_pretrained(tmp_path)
    ahead = Explorer(load_model(str(tmp_path))).view(request, ahead=6).ahead
    assert [draw.id for draw in ahead] == ids[:4]
    assert [draw.last for draw in ahead] == ["", "", "", "the text ends here"]


def test_draws_ahead_end_where_the_model_is_full(explorer):
    view = explorer.view(request_of("x" * (POSITIONS - 3)), ahead=6)
    assert [draw.last for draw in view.ahead] == ["", "", "the model holds no longer text"]


def test_least_tokens_are_named_by_what_they_cut(explorer):
    tokenizer = explorer.loaded.tokenizer
    logits = torch.arange(257.0)
    fixed = Explorer(LoadedModel("fixed", scripted_model(lambda _: logits), tokenizer))
    request = request_of(edits={"min_tokens": 2})
    for appended, cut in (((), "min-tokens"), ((40,), "min-tokens"), ((40, 41), None)):
        rows = {row.id: row for row in fixed.view(request, appended).rows}
        assert (rows[256].dropped_by, rows[256].logit is None) == (cut, cut is not None)
        assert rows[256].logit_before == 256.0
        assert rows[255].dropped_by is None


def test_kept_tokens_without_mass_give_the_best_of_them(explorer):
    """XTC may leave tokens of which none has any chance at a very low temperature."""
    tokenizer = explorer.loaded.tokenizer
    logits = torch.full((257,), -20.0)
    logits[[10, 20, 30]] = torch.tensor([5.0, 4.0, -3.0])
    fixed = Explorer(LoadedModel("fixed", scripted_model(lambda _: logits), tokenizer))
    sampling = {"xtc_threshold": 0.0001, "xtc_probability": 1.0}
    view = fixed.view(request_of(temperature=0.001, temperature_last=True, **sampling), (), 9)
    row = drawn(view)
    assert row.id == int(sample(logits, 0.001, temperature_last=True, **sampling, seed=0)) == 30
    assert (row.start, row.end, row.observed, view.draw, view.ahead[0].u) == (0, 1, 9, None, None)
    assert "no kept token has mass at this temperature: the best of them is drawn" in (
        view.table.notes
    )


def test_chance_that_spares_a_step_is_told(explorer):
    sampling = {"xtc_threshold": 0.01, "xtc_probability": 0.5}
    logits, told = next_logits(explorer), []
    for seed in range(8):
        view = explorer.view(request_of(seed=seed, **sampling))
        kept = mask_logits(logits, **sampling, seed=seed, step=0) > -math.inf
        notes = [note for note in view.table.notes if note.startswith("xtc-threshold would cut")]
        assert len(notes) == kept.all()
        assert {row.dropped_by for row in view.rows if not row.kept} <= {"xtc-threshold"}
        told += notes
    assert 0 < len(told) < 8
    assert explorer.view(request_of(xtc_probability=1.0)).table.notes == []


def test_half_a_character_waits_for_its_other_half(explorer):
    tokenizer = explorer.loaded.tokenizer
    appended = (*tokenizer(" é!").input_ids, tokenizer.convert_tokens_to_ids(END))
    assert explorer.view(request_of(), appended).pieces == [" ", "", "é", "!", END]


def test_model_reads_a_text_once(explorer):
    calls = []

    def answer(ids):
        calls.append(ids)
        return torch.arange(257.0)

    fixed = Explorer(LoadedModel("fixed", scripted_model(answer), explorer.loaded.tokenizer))
    for temperature in (0.0, 0.5, 1.0):
        fixed.view(request_of(temperature=temperature))
        fixed.view(request_of(temperature=temperature), (40,))
    assert len(calls) == 2


# The server


def test_server_listens_to_this_machine_alone(server):
    assert server.server_address == ("127.0.0.1", server.server_port)
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_page_comes_from_the_server(server):
    status, headers, text = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert (headers["X-Frame-Options"], headers["Cache-Control"]) == ("DENY", "no-store")
    for left in ("{{", "http://", "https://"):
        assert left not in text


def test_view_comes_as_json(server, explorer):
    status, found = ask_view(server, temperature="0.7", top_p="0.9", seed="7", appended=[40])
    assert status == 200
    view = explorer.view(request_of(temperature=0.7, top_p=0.9, seed=7), (40,))
    assert found["rows"] == [vars(row) for row in view.rows]
    assert found["draw"] == vars(view.draw)
    assert found["rows"][0]["observed"] is None
    _, counted = ask_view(server, count=True)
    listed = sum(row["observed"] for row in counted["rows"])
    assert listed + counted["others"]["observed"] == SAMPLES


@pytest.mark.parametrize(
    "host", ["localhost:{port}", "127.0.0.1:{port}", "localhost:9", "127.0.0.1"]
)
def test_own_names_are_answered(server, host):
    """Any port: a tunnel may bring the page from another one."""
    host = host.format(port=server.server_port)
    assert ask(server, headers={"Host": host})[0] == 200
    assert ask_view(server, {"Host": host, "Origin": f"http://{host}"})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example", "Origin": "http://attacker.example"},
        {"Host": "127.0.0.1.attacker.example"},
        {"Host": ""},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
    ],
)
def test_other_sites_are_refused(server, headers):
    headers = {"Host": f"127.0.0.1:{server.server_port}", **headers}
    status, answer = ask_view(server, headers)
    assert (status, "for this machine alone; open it as http://127" in answer["error"]) == (
        403,
        True,
    )
    assert ask(server, headers=headers)[0] == 403


@pytest.mark.parametrize(
    ("state", "field", "words"),
    [
        (
            {"temperature": "-1"},
            "temperature",
            "temperature is -1.0, out of range; use 0 for greedy",
        ),
        (
            {"temperature": "hot"},
            "temperature",
            "temperature is 'hot', no number; use 0 for greedy",
        ),
        (
            {"temperature": "nan"},
            "temperature",
            "temperature is 'nan', no number; use 0 for greedy",
        ),
        ({"temperature": "1e39"}, "temperature", "temperature is 1e+39, out of range"),
        ({"temperature": ""}, "temperature", "temperature is '', no number; use 0"),
        ({"top_k": "1.5"}, "top_k", "top_k is '1.5', no whole number; use 0 to switch it off"),
        ({"top_k": "-1"}, "top_k", "top_k is -1, out of range; use 0"),
        ({"top_p": "-2"}, "top_p", "top_p is -2.0, out of range; use a number from 0"),
        ({"min_p": "-0.1"}, "min_p", "min_p is -0.1, out of range; use a number from 0"),
        ({"seed": "x"}, "seed", "seed: 'x' is not a whole number from 0 to 9223372036854775807"),
        ({"seed": str(2**63)}, "seed", f"seed: '{2**63}' is not a"),
        ({"seed": None}, "seed", "seed: 'None' is not a"),
        ({"seed": " 7 "}, "seed", "seed: ' 7 ' is not a"),
        ({"seed": "1_0"}, "seed", "seed: '1_0' is not a"),
        ({"seed": "\u0661"}, "seed", "seed: '\u0661' is not a"),
        ({"top_k": "+5"}, "top_k", "top_k is '+5', no whole number"),
        (
            {"temperature": "1_0"},
            "temperature",
            "temperature is '1_0', no number; use 0 for greedy",
        ),
        ({"temperature": "1e"}, "temperature", "temperature is '1e', no number; use 0"),
        ({"top_p": "\u0661"}, "top_p", "top_p is '\u0661', no number"),
        ({"prompt": ""}, "prompt", "the prompt is empty; give some text"),
        ({"prompt": "\udcff"}, "prompt", "the prompt is not valid UTF-8"),
        ({"prompt": 7}, "prompt", "prompt is 7; give text"),
        ({"prompt": "x" * POSITIONS}, None, f"has {POSITIONS} tokens and 1 more are asked for"),
        ({"appended": [40] * POSITIONS}, None, "shorten the prompt"),
        ({"appended": ["a"]}, None, "appended is ['a']; give a list of token ids"),
        ({"appended": [257]}, None, "appended token 257 is no id of the tokenizer's"),
        ({"appended": [-1]}, None, "appended token -1 is no id"),
    ],
)
def test_bad_values_are_one_sentence(server, state, field, words):
    status, answer = ask_view(server, **state)
    assert (status, answer["field"]) == (400, field)
    assert words in answer["error"]
    assert "\n" not in answer["error"]


def test_broken_requests_are_answered(server):
    for body in ("", "{", "[]", b"\xff", "[" * 200_000):
        status, _, text = ask(server, "POST", "/view", body)
        assert (status, "no JSON object" in text) == (400, True)
    assert ask(server, path="/favicon.ico")[0] == 404
    assert ask(server, "POST", "/", "{}")[0] == 404
    lengths = (("many", 411), ("-1", 411), (str(2**21), 413), ("9" * 5000, 400))
    for length, status in lengths:
        assert ask(server, "POST", "/view", "{}", {"Content-Length": length})[0] == status
    assert ask_view(server)[0] == 200


def test_failing_model_is_told(explorer):
    def answer(ids):
        if ids.shape[1] > len(PROMPT):
            raise RuntimeError("out of\nmemory")
        return torch.arange(257.0)

    failing = LoadedModel("failing", scripted_model(answer), explorer.loaded.tokenizer)
    with serving(Explorer(failing)) as server:
        status, answer = ask_view(server, appended=[40])
        message = "the model failed: out of memory; try a shorter text"
        assert (status, answer["error"]) == (500, message)
        assert ask_view(server)[0] == 200


def test_text_of_any_kind_stays_text_in_the_page(explorer):
    prompt = "</script><script>alert(1)</script>{{data}}"
    page = render_page(request_of(prompt), [explorer.view(request_of(prompt))], saved=False)
    inside = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(inside)["request"]["prompt"] == prompt
    assert "alert(1)</script>" not in page


# The command


def test_port_in_use_is_one_line(folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", "--model", str(folder), "--port", str(port)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"fused-sampler: cannot listen on port {port} of 127.0.0.1 (Address ")
    assert err.endswith("give another port, or 0 for any that is free\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "65536"], "'65536' is not a whole number from 0 to 65535"),
        (["--port", "-1"], "'-1' is not a whole number"),
        (["--seed", "x"], "'x' is not a whole number from 0"),
        (["--temperature", "hot"], "'hot', no number"),
        ([""], "the prompt is empty"),
    ],
)
def test_wrong_command_line_is_one_line(arguments, words, capsys):
    assert main(["explore", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_prompt_that_does_not_fit_is_told_before_the_page_opens(folder, capsys):
    assert main(["explore", "x" * POSITIONS, "--model", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"the prompt has {POSITIONS} tokens" in err


def test_program_prints_its_address_and_ends_with_ctrl_c(folder):
    program = Path(sys.executable).with_name("fused-sampler")
    if not program.exists():
        pytest.skip("the program is not installed beside this Python")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {name: v for name, v in os.environ.items() if not name.endswith("DISPLAY")}
    arguments = [program, "explore", PROMPT, "--model", str(folder)]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's "&"
    process = subprocess.Popen(arguments, env=environment, **pipes)
    signal.signal(signal.SIGINT, handler)
    try:
        readable, _, _ = select.select([process.stdout], [], [], 120)
        assert readable, "no address within two minutes"
        line = process.stdout.readline()
        start, end = "The explorer is at http://127.0.0.1:", "/ (Ctrl-C stops it)\n"
        assert line.startswith(start), process.stderr.read()
        assert line.endswith(end)
        there = SimpleNamespace(server_port=int(line[len(start) : -len(end)]))
        assert ask_view(there)[0] == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "display", "opened"), [([], ":0", 1), ([], "", 0), (["--no-browser"], ":0", 0)]
)
def test_browser_opens_where_there_is_a_display(
    folder, monkeypatch, capsys, arguments, display, opened
):
    def interrupted(self):
        raise KeyboardInterrupt

    urls = []
    monkeypatch.setattr(cli_explore.webbrowser, "open", urls.append)
    monkeypatch.setattr(cli_explore.ExploreServer, "serve_forever", interrupted)
    monkeypatch.setattr(cli_explore.sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["explore", "--model", str(folder), *arguments]) == 130
    assert urls == [capsys.readouterr().out.split()[4]] * opened


def test_export_holds_every_temperature(folder, explorer, tmp_path, capsys):
    path = tmp_path / "page.html"
    arguments = [PROMPT, "--model", str(folder), "--temperature", "0.8", "--top-p", "0.9"]
    assert main(["explore", *arguments, "--seed", "7", "--export", str(path)]) == 0
    page = path.read_text(encoding="utf-8")
    out, err = capsys.readouterr()
    assert (out, err) == (
        f"{path}: {len(page.encode()) / 1000:.0f} kB; open it in any browser\n",
        "",
    )
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["saved"] is True
    temperatures = [view["table"]["sampling"]["temperature"] for view in data["views"]]
    assert temperatures == sorted([*SAVED_TEMPERATURES, 0.8])
    for temperature, view in zip(temperatures, data["views"], strict=True):
        request = request_of(temperature=temperature, top_p=0.9, seed=7)
        assert view["rows"] == [vars(row) for row in explorer.view(request, (), SAMPLES).rows]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("missing/page.html", "missing' is no folder; make it first"),
        (".", "' is a folder; give another name"),
        ("", "it names no file; give a name such as page.html"),
    ],
)
def test_export_to_no_file_is_refused_before_the_model_is_loaded(tmp_path, capsys, place, words):
    path = str(tmp_path / place) if place else ""
    assert main(["explore", "--model", "no-such-model", "--export", path]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "'--export': " in err
    assert words in err


def test_export_that_cannot_be_written_is_one_line(folder, tmp_path, capsys):
    path = tmp_path / ("x" * 300)
    assert main(["explore", "--model", str(folder), "--export", str(path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"fused-sampler: cannot write {str(path)!r} (File name too long)")
    assert err.endswith("give another file with --export\n")


def test_package_holds_the_page(tmp_path):
    build = ["setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    found = {path.name for path in (tmp_path / "fused_sampler" / "explorer" / "web").iterdir()}
    assert found == {"page.html", "style.css", *SCRIPTS}
