"""`fused-sampler plot`: what its figures show is what the library computes."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")
pytest.importorskip("matplotlib", reason="needs the `plot` extra")

from matplotlib.colors import to_rgb
from scripted import scripted_model
from transformers import BatchEncoding

from fused_sampler import mask_logits, sample, softmax
from fused_sampler.cli import main
from fused_sampler.cli import plot as cli_plot
from fused_sampler.models.load import LoadedModel, load_model
from fused_sampler.views.figures import draw_panels
from fused_sampler.views.inspect import inspect_token
from fused_sampler.views.next_token import NextToken
from fused_sampler.views.numbers import label
from fused_sampler.views.parameters import OFFERED, SWEPT
from fused_sampler.views.request import Request

PROMPT = "The sky is"


@pytest.fixture(scope="module")
def logits(folder):
    """What it says of the token after the prompt."""
    loaded = load_model(folder)
    inputs = loaded.tokenizer(PROMPT, return_tensors="pt").to(loaded.model.device)
    with torch.no_grad():
        return loaded.model(**inputs).logits[0, -1]


@pytest.fixture
def run(capsys, folder, tmp_path, monkeypatch):
    """Call `plot` in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status = main(["plot", "--model", folder, *map(str, arguments)])
        return SimpleNamespace(status=status, **capsys.readouterr()._asdict())

    return call


@pytest.fixture
def draw(run, monkeypatch):
    """The figure that `plot` would write, and its axes."""
    figures = []
    monkeypatch.setattr(cli_plot, "save", lambda figure, path: figures.append(figure))

    def call(*arguments):
        done = run(PROMPT, *arguments)
        assert done.status == 0, done.err
        return figures[-1], figures[-1].axes

    return call


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def bars(panel):
    """Lengths of the bars, a list for each temperature."""
    return [[bar.get_width() for bar in container] for container in panel.containers]


def hatched(panel):
    """Which bars are hatched, and grey as they then have to be."""
    for container in panel.containers:
        for bar in container:
            red, green, blue = to_rgb(bar.get_facecolor())
            grey = red == green == blue
            assert grey == bool(bar.get_hatch())
    return [[bool(bar.get_hatch()) for bar in container] for container in panel.containers]


# The command line


@pytest.mark.parametrize(
    "arguments",
    [
        [PROMPT, "--temperature", "0.5", "1", "2", "--top-k", "3"],
        ["--top-k", "3", "--temperature", "0.5", "1", "2", PROMPT],
        ["--temperature=0.5", "1", "2", PROMPT, "--top-k=3"],
        [PROMPT, "--temperature", "2", "--temperature", "1", "0.5", "1", "--top-k", "3"],
        ["--temperature", "0.5", "1", "2", "--top-k", "3", "--", PROMPT],
    ],
    ids=" ".join,
)
def test_several_temperatures(run, monkeypatch, arguments):
    calls = []
    monkeypatch.setattr(cli_plot, "run_plot", lambda requests, *_: calls.append(requests))
    assert run(*arguments).status == 0
    found = [
        (request.prompt, request.temperature, request.sampling["top_k"]) for request in calls[0]
    ]
    assert found == [(PROMPT, 0.5, 3), (PROMPT, 1.0, 3), (PROMPT, 2.0, 3)]


def test_words_after_two_dashes_are_no_options(run, monkeypatch):
    calls = []
    monkeypatch.setattr(cli_plot, "run_plot", lambda requests, *_: calls.append(requests))
    assert run("--", "--temperature").status == 0
    assert [(request.prompt, request.temperature) for request in calls[0]] == [
        ("--temperature", 1.0)
    ]


START = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".PNG": b"\x89PNG"}


@pytest.mark.parametrize("suffix", START)
def test_file_is_of_its_kind_and_the_same_each_time(run, suffix):
    out = Path(f"sky{suffix}")
    contents = []
    for _ in range(2):
        done = run(PROMPT, "--temperature", 0.5, 1, 2, "--top", 3, "--top-k", 2, "--out", out)
        assert (done.status, done.out, done.err) == (0, f"wrote {out}\n", "")
        contents.append(out.read_bytes())
    assert contents[0].startswith(START[suffix])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("prompt", "arguments", "name"),
    [
        (PROMPT, [], "the-sky-is.png"),
        (PROMPT, ["--sweep", "top-p"], "the-sky-is-top-p.png"),
        ("../a / b.c?", [], "a-b-c.png"),
        ("?!", [], "plot.png"),
        ("a" * 44, [], "a" * 40 + ".png"),
    ],
)
def test_default_name(run, prompt, arguments, name):
    done = run(prompt, "--top", 2, *arguments)
    assert (done.status, done.out) == (0, f"wrote {name}\n"), done.err
    assert [path.name for path in Path().iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature"], "Option '--temperature' requires an argument"),
        (["--temperature", "--top-k"], "'--temperature': temperature is '--top-k', no number"),
        (["--temperature", "hot"], "'--temperature': temperature is 'hot', no number"),
        (["--temperature", "1", "-1"], "'--temperature': temperature is -1.0, out of range"),
        (["--temperature", "1", "hot"], "unexpected extra argument(s) (hot)"),
        (["--temperature", "1", "1e39"], "temperature is 1e+39, out of range; use"),
        (["--temperature", *"1234567"], "'--temperature': there are 7 values; give at most 6"),
        (["--top-k", "3", "2"], "unexpected extra argument(s) (2)"),
        (["--top", "61"], "'--top': '61' is not a whole number from 1 to 60"),
        (
            ["--sweep", "top"],
            "'--sweep': 'top' is not one of 'temperature', 'top-k', 'top-p', 'min-p', 'top-n-si",
        ),
        (["--sweep", "top-k", "--top-k", "3"], "'--top-k': --sweep top-k runs it over its range"),
        (["--sweep", "temperature", "--temperature", "2"], "leave --temperature out"),
        (["--sweep", "temperature", "--temperature", "1", "2"], "leave --temperature out"),
        (["--out", "sky.gif"], "'--out': 'sky.gif' does not end in .png, .svg or .pdf"),
        (["--out", "sky"], "'--out': 'sky' does not end in"),
        (["--out", "no/sky.png"], "'--out': 'no' is no folder; make it first"),
        (["--out", ""], "'--out': it names no file; give a name that ends in .png, .svg or .pdf"),
        (["--out", "n" * 999 + "/sky.png"], "is no folder; make it first"),
    ],
)
def test_wrong_command_line_is_one_line(run, monkeypatch, arguments, words):
    monkeypatch.setattr(cli_plot, "load_to_look", None)  # refused before a model is loaded
    done = run(PROMPT, *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("fused-sampler: ")
    assert words in done.err
    assert done.err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_folder_of_the_name_is_refused_before_the_model_is_loaded(run, monkeypatch):
    monkeypatch.setattr(cli_plot, "load_to_look", None)
    Path("taken.png").mkdir()
    done = run(PROMPT, "--out", "taken.png")
    assert (done.status, done.out) == (2, "")
    assert "'--out': 'taken.png' is a folder; give another name" in done.err
    assert done.err.count("\n") == 1


def test_file_that_cannot_be_written_is_one_line(run):
    name = "n" * 999 + ".png"
    done = run(PROMPT, "--out", name)
    assert (done.status, done.out) == (1, "")
    assert f"cannot write '{name}' (File name too long); give another file" in done.err
    assert done.err.count("\n") == 1


def test_help_says_where_a_number_as_prompt_goes_and_what_is_overwritten(run, monkeypatch):
    calls = []
    monkeypatch.setattr(cli_plot, "run_plot", lambda requests, *_: calls.append(requests))
    shown = " ".join(run("--help").out.replace("│", " ").split())
    assert "A prompt that is a number goes in front." in shown
    assert "A file that exists is overwritten." in shown
    assert run("42", "--temperature", "0.5", "1").status == 0
    assert [(request.prompt, request.temperature) for request in calls[0]] == [
        ("42", 0.5),
        ("42", 1.0),
    ]


def test_missing_matplotlib_is_named(run, monkeypatch):
    for module in ("fused_sampler.cli.plot", "fused_sampler.views.figures"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run(PROMPT)
    assert (done.status, done.out) == (1, "")
    line = "matplotlib is not installed; run pip install 'fused-sampler[plot]'"
    assert done.err == f"fused-sampler: {line}\n"


# The three panels


def test_bars_are_what_the_library_computes(draw, logits):
    sampling = {"top_k": 4, "top_p": 0.8, "min_p": 0.01}
    options = ("--top-k", 4, "--top-p", 0.8, "--min-p", 0.01)
    figure, panels = draw("--temperature", 0.5, 1, 2, "--top", 6, *options)
    best = logits.argsort(descending=True)[:6]
    assert bars(panels[0]) == [logits[best].tolist()]
    kept_by_any = torch.zeros(6, dtype=torch.bool)
    for number, temperature in enumerate((0.5, 1.0, 2.0)):
        scaled = mask_logits(logits, temperature)[best]
        assert bars(panels[1])[number] == pytest.approx(scaled.tolist(), rel=1e-6)  # fp32
        assert bars(panels[2])[number] == softmax(logits, temperature)[best].tolist()
        shown = [label.get_text() for label in panels[2].texts[6 * number : 6 * number + 6]]
        assert shown == [f"{p:.2g}" for p in bars(panels[2])[number]]
        masked = mask_logits(logits, temperature, **sampling)
        kept = (masked[best] > -math.inf).cpu()
        assert not kept.all()
        assert hatched(panels[1])[number] == hatched(panels[2])[number] == (~kept).tolist()
        count = int((masked > -math.inf).sum())
        assert legend(figure)[number] == f"T = {temperature:g}: {count} kept"
        kept_by_any |= kept
    assert hatched(panels[0]) == [(~kept_by_any).tolist()]
    assert legend(figure)[3:] == ["dropped"]


def test_nothing_is_dropped_without_filters(draw):
    figure, panels = draw("--temperature", 1, 2)
    assert not any(any(row) for panel in panels for row in hatched(panel))
    assert legend(figure) == ["T = 1: 257 kept", "T = 2: 257 kept"]


def test_bars_of_a_token_stand_together_in_the_order_of_the_legend(draw):
    figure, panels = draw("--temperature", 2, 0.5, 1, "--top", 3)
    assert [label.split(":")[0] for label in legend(figure)] == ["T = 0.5", "T = 1", "T = 2"]
    lower, upper = panels[1].get_ylim()
    assert lower > upper  # the first token is on top
    for place in range(3):
        group = [container[place] for container in panels[1].containers]
        for bar, below in pairwise(group):
            assert bar.get_y() + bar.get_height() == pytest.approx(below.get_y())
        top, bottom = group[0].get_y(), group[-1].get_y() + group[-1].get_height()
        assert top + bottom == pytest.approx(2 * place, abs=1e-9)  # centred on the label
        assert bottom - top < 1


def test_greedy_keeps_one_and_divides_nothing(draw, logits):
    figure, panels = draw("--temperature", 0, "--top", 3)
    assert bars(panels[0]) == [logits.topk(3).values.tolist()]
    assert bars(panels[1]) == [[0.0, 0.0, 0.0]]
    assert bars(panels[2]) == [[1.0, 0.0, 0.0]]
    assert hatched(panels[2]) == [[False, True, True]]
    assert legend(figure) == ["T = 0: 1 kept", "dropped"]


def test_title_names_prompt_model_and_filters(draw, folder):
    figure, _ = draw("--top-k", 5, "--min-p", 0.25)
    shown = folder if len(folder) <= 55 else "…" + folder[-54:]
    title = f"Next token after '{PROMPT}'\n{shown}, top-k 5, min-p 0.25"
    assert figure.get_suptitle() == title


def test_title_of_many_filters_has_lines_that_fit():
    everything = {
        **{"top_k": 50, "top_p": 0.95, "min_p": 0.001, "epsilon_cutoff": 1.2345e-4},
        **{"eta_cutoff": 0.012345, "top_n_sigma": 12.25, "top_a": 0.012345},
        **{"top_h": 0.95, "typical_p": 0.875, "xtc_threshold": 0.25, "xtc_probability": 0.125},
        "temperature_last": True,
    }
    assert {"temperature", *everything} == {record.name for record in OFFERED}
    figure = panels_of(["a", "b"], [2.0, 1.0], model="W" * 60, **everything)
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.x1 <= width and box.y1 <= height
    lines = figure.get_suptitle().split("\n")
    said = " ".join(lines[1:]).split(", ")[1:]
    assert sorted(said) == sorted(
        label(name) if value is True else f"{label(name)} {value:g}"
        for name, value in everything.items()
    )
    assert len(lines) == 5


class Words:
    """A tokenizer of a few words."""

    def __init__(self, *words):
        self.words = words

    def get_vocab(self):
        return {word: i for i, word in enumerate(self.words)}

    def __call__(self, text, return_tensors):
        ids = torch.tensor([[0]])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def decode(self, ids, clean_up_tokenization_spaces):
        return self.words[ids[0]]

    def convert_ids_to_tokens(self, token):
        return f"piece{token}"


def panels_of(words, logits, prompt=PROMPT, temperatures=(1.0,), model="by hand", **sampling):
    """The figure of logits that were made by hand."""
    scripted = scripted_model(lambda _: torch.tensor(logits), len(words))
    loaded = LoadedModel(model, scripted, Words(*words))
    requests = [Request(prompt, None, {"temperature": t, **sampling}, None) for t in temperatures]
    inspections = [
        inspect_token(NextToken(loaded, request.reading), request, len(words))
        for request in requests
    ]
    return draw_panels(inspections)


def test_labels_show_what_is_in_a_token():
    words = [" sky", "\n\t", "$x$", "日本", "\ufffd", "é", " " * 40]
    figure = panels_of(words, [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "a $y$\nb 日" + " c" * 50)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    long = "…" + " " * 22 + "'"
    assert labels == ["' sky'", r"'\n\t'", "'$x$'", r"'\u65e5\u672c'", "<piece4>", "'é'", long]
    assert not any(label.get_parse_math() for label in figure.axes[0].get_yticklabels())
    assert figure.get_suptitle() == f"Next token after …c{' c' * 26}'\nby hand"


@pytest.mark.parametrize("count", [1, 3, 6])
def test_nothing_is_cut_off_or_overlaps(count):
    words = ["M" * 40, "sky", "is"]
    figure = panels_of(
        words, [-300.0, -310.0, -311.0], "W" * 200, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0][:count], top_k=2
    )
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    labels = [text for text in figure.axes[2].texts if text.get_text()]
    assert len(labels) == 3 * count
    for one, other in zip(labels, labels[3:], strict=False):  # of one token, at two temperatures
        assert not one.get_window_extent().overlaps(other.get_window_extent())


def test_forbidden_tokens_have_no_bar():
    figure = panels_of(["a", "b", "c"], [1.0, -math.inf, 2.0], temperatures=(1.0, 2.0))
    assert bars(figure.axes[0]) == [[2.0, 1.0, 0.0]]
    assert bars(figure.axes[1])[1] == [1.0, 0.5, 0.0]
    assert hatched(figure.axes[0]) == [[False, False, True]]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_temperatures_differ_in_lightness(count):
    """As on grey paper, or to a reader who confuses hues."""
    figure = panels_of(["a"], [1.0], temperatures=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0][:count])
    colours = [to_rgb(container[0].get_facecolor()) for container in figure.axes[1].containers]
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in colours]
    steps = [after - before for before, after in pairwise(luminance)]
    assert min(steps) > 0.03
    assert max(luminance) < 0.65  # stands out from white


# Sweeps


@pytest.mark.parametrize("name", [label(record.name) for record in SWEPT])
def test_sweep_is_what_the_sampler_does(draw, logits, name):
    fixed = {
        "temperature": {"top_p": 0.9},
        "top-p": {"top_k": 99},
        "xtc-threshold": {"temperature": 0.3, "xtc_probability": 1.0},
        "xtc-probability": {"temperature": 0.3, "xtc_threshold": 0.03},
    }.get(name, {})
    options = [word for k, v in fixed.items() for word in ("--" + k.replace("_", "-"), v)]
    _, (count, entropy) = draw("--sweep", name, *options)
    values, kept = count.lines[0].get_data()
    assert list(values) == list(entropy.lines[0].get_xdata()) == sorted(set(values))
    for place, value in enumerate(values):
        value = int(value) if name == "top-k" else float(value)
        sampling = {**fixed, name.replace("-", "_"): value}
        assert kept[place] == sample(logits, **sampling, seed=0, return_info=True).kept
        p = mask_logits(logits, **sampling, seed=0).double().softmax(-1)
        bits = float(-(p * p.log2()).nansum())
        assert entropy.lines[0].get_ydata()[place] == pytest.approx(bits, abs=1e-4)  # fp32 sums
    # XTC drops few, or with a probability those few or none.
    assert len(set(kept)) > {"xtc-threshold": 3, "xtc-probability": 1}.get(name, 10)
    assert count.get_xlabel() == entropy.get_xlabel() == name


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("temperature", (0.1, 5)),
        ("top-k", (1, 257)),
        ("top-p", (0, 1)),
        ("min-p", (1e-4, 1)),
        ("top-n-sigma", (0.1, 10)),
        ("epsilon-cutoff", (1e-6, 0.1)),
        ("eta-cutoff", (1e-6, 0.1)),
        ("top-a", (1e-3, 1)),
    ],
)
def test_sweep_covers_its_range(draw, name, ends):
    _, panels = draw("--sweep", name)
    values, kept = panels[0].lines[0].get_data()
    assert (min(values), max(values)) == pytest.approx(ends)
    assert (panels[0].get_xscale() == "log") == (name not in ("temperature", "top-p"))
    if name == "top-k":
        assert list(kept) == list(values)
    if name == "top-p":
        assert (kept[0], kept[-1]) == (1, 257)


def test_axis_of_few_counts_has_whole_numbers(draw):
    figure, (count, _) = draw(
        "--sweep", "xtc-threshold", "--xtc-probability", 1, "--temperature", 0.3
    )
    figure.draw_without_rendering()
    low, high = count.get_ylim()
    labels = [int(tick.get_text()) for tick in count.yaxis.get_ticklabels()]
    seen = [number for number in labels if low <= number <= high]
    assert len(seen) == len(set(seen)) > 2
    assert 257 in seen or high > 257


def test_powers_of_ten_are_written_out(draw):
    figure, (count, _) = draw("--sweep", "eta-cutoff", "--temperature", 0.5)
    figure.draw_without_rendering()
    labels = [
        [tick.get_text() for tick in axis.get_ticklabels()] for axis in (count.xaxis, count.yaxis)
    ]
    assert {"0.000001", "0.0001", "0.1"} <= set(labels[0])
    assert {"10", "100"} <= set(labels[1])


def test_sweep_has_a_line_for_each_temperature(draw, logits):
    figure, (count, entropy) = draw("--sweep", "top-p", "--temperature", 2, 0.5)
    assert legend(figure) == ["T = 0.5", "T = 2"]
    dashes = {line.get_linestyle() for line in count.lines}
    assert len(dashes) == 2
    for line, temperature in zip(entropy.lines, (0.5, 2), strict=True):
        p = (logits.double() / temperature).softmax(-1)
        assert line.get_ydata()[-1] == pytest.approx(float(-(p * p.log2()).sum()), abs=1e-4)
    cold, hot = (line.get_ydata() for line in count.lines)
    assert all(a <= b for a, b in zip(cold, hot, strict=True))


def test_sweep_of_the_temperature_needs_no_legend(draw):
    figure, _ = draw("--sweep", "temperature")
    assert figure.legends == []
