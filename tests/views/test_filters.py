"""Every filter of FILTERS is offered by every front end, and none of them names one itself."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from explorer import PROMPT, ask_view, request_of, serving

import fused_sampler
from fused_sampler import SamplingParams, mask_logits, sample
from fused_sampler.cli import main
from fused_sampler.explorer.page import render_page
from fused_sampler.explorer.text import Explorer
from fused_sampler.explorer.view import TOP
from fused_sampler.filters import FILTERS
from fused_sampler.models.load import load_model
from fused_sampler.params import PARAMETERS
from fused_sampler.views.next_token import NextToken
from fused_sampler.views.numbers import label
from fused_sampler.views.parameters import COMMON, EDITS, MORE, OFFERED, SWEPT
from fused_sampler.views.sweep import sweep

ROOT = Path(fused_sampler.__file__).parent
OFF = {record.name: record.off for record in OFFERED}
COLD = {"temperature": 0.5}  # where every filter drops most tokens somewhere on its axis
SEEDS = 16
each_filter = pytest.mark.parametrize("record", FILTERS, ids=lambda record: record.name)


@pytest.fixture(scope="module")
def explorer(folder):
    return Explorer(load_model(folder))


@pytest.fixture(scope="module")
def token(explorer):
    return NextToken(explorer.loaded, request_of().reading)


@pytest.fixture(scope="module")
def logits(token):
    return token.logits


@pytest.fixture(scope="module")
def biting(token):
    """Of a filter: a value that keeps some of the tokens in the explorer's table, and not all."""

    def value_of(record):
        if record.needs:  # it takes away the best
            return 0.1
        curve = sweep(token, request_of(**COLD), record.name)
        kept, value = min(zip(curve.kept, curve.values, strict=True), key=lambda p: abs(p[0] - 10))
        assert 1 < kept < TOP
        return record.kind(value)

    return value_of


def _values(record, biting):
    """The filter's parameters that let it bite."""
    needed = {record.needs: 1.0} if record.needs else {}
    return {record.name: biting(record), **needed}


def _options(values):
    return [part for name, value in values.items() for part in (f"--{label(name)}", str(value))]


@each_filter
def test_inspect_filters(record, folder, logits, biting, capsys):
    filters = _values(record, biting)
    arguments = ["inspect", PROMPT, "--model", folder, "--json", "--temperature", "0.5"]
    assert main([*arguments, *_options(filters)]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = int((mask_logits(logits, **COLD, **filters, seed=0) > -math.inf).sum())
    assert found["kept"] == kept < 257
    assert found["sampling"] == {**OFF, **COLD, **filters}
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 257  # off is off


@each_filter
def test_generate_filters(record, folder, token, biting, capsys):
    """Each seed writes the token that `sample` draws of the filtered logits."""
    arguments = ["generate", PROMPT, "--model", folder, "--max-new-tokens", "1", "--seed", "0"]
    filters = COLD | _values(record, biting)
    assert main([*arguments, "--num-samples", str(SEEDS), *_options(filters)]) == 0
    written = capsys.readouterr().out
    plain, drawn = (
        [int(sample(token.logits, **how, seed=seed)) for seed in range(SEEDS)]
        for how in (COLD, filters)
    )
    assert written == "".join(
        f"=== sample {seed + 1} of {SEEDS}, seed {seed} ===\n"
        f"{token.loaded.tokenizer.decode([*token.ids[0].tolist(), drawn[seed]])}\n"
        for seed in range(SEEDS)
    )
    assert drawn != plain


@each_filter
@pytest.mark.parametrize("command", ["generate", "inspect", "explore", "plot"])
def test_a_value_out_of_range_is_refused_in_the_librarys_words(record, command, capsys):
    option = f"--{label(record.name)}"
    low = record.low - 1
    with pytest.raises(ValueError) as refused:
        SamplingParams(**{record.name: low})
    assert main([command, PROMPT, option, str(low)]) == 2
    err = capsys.readouterr().err
    assert f"'{option}': {str(refused.value).removesuffix('.')} (see" in err
    assert main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert option in shown
    assert record.help.split(";")[0].split()[-1] in shown


@each_filter
def test_explorer_filters(record, explorer, biting):
    filters = _values(record, biting)
    with serving(explorer) as server:
        asked = {name: str(value) for name, value in filters.items()}
        status, view = ask_view(server, temperature="0.5", **asked)
        assert (status, view["table"]["sampling"]) == (200, {**OFF, **COLD, **filters})
        dropped = {row["dropped_by"] for row in view["rows"]}
        assert dropped == {label(record.name), None}
        for name, value in filters.items():
            assert f"{name}={value}" in view["call"] or value == OFF[name]
        status, answer = ask_view(server, **{record.name: "x"})
        assert (status, answer["field"]) == (400, record.name)
        assert record.remedy in answer["error"]


@pytest.mark.parametrize("command", ["generate", "inspect", "explore", "plot"])
def test_help_has_the_common_ones_first_and_a_panel_of_the_others(command, capsys):
    assert main([command, "--help"]) == 0
    _, sampling = capsys.readouterr().out.split("─ Sampling ─")
    sampling, _ = sampling.split("─ Penalties and bias ─")
    common, more = (
        [f"--{word}" for word in re.findall(r"│ --([a-z-]+)", panel)]
        for panel in sampling.split("─ More filters ─")
    )
    seed = [] if command == "plot" else ["--seed"]
    assert common == ["--temperature", "--top-k", "--top-p", "--min-p", *seed]
    assert more == [f"--{label(name)}" for name in OFF if f"--{label(name)}" not in common]


def test_page_has_an_input_for_each(explorer):
    request = request_of()
    page = render_page(request, [explorer.view(request)], saved=False)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    folds = {None: COMMON, "more": MORE, "edits": EDITS}
    shown = {record.name: (record, fold) for fold, records in folds.items() for record in records}
    *settings, bias = data["settings"]
    assert [setting["name"] for setting in settings] == list(shown)
    assert {record.name for record in (*COMMON, *MORE)} == set(PARAMETERS) - {"mirostat_mu"}
    for setting in settings:
        record, fold = shown[setting["name"]]
        assert setting["folded"] == fold
        if slider := setting["slider"]:
            assert record.low <= slider["min"] < slider["max"] <= record.high
        assert data["request"][record.name] == record.off
    assert (bias["name"], bias["folded"], data["request"]["logit_bias"]) == (
        "logit_bias",
        "edits",
        "",
    )


@pytest.mark.parametrize("record", SWEPT, ids=lambda record: record.name)
def test_sweep_covers_the_axis(token, record):
    logits, name = token.logits, record.name
    curve = sweep(token, request_of(), name)
    needed = {record.needs: 1.0} if record.needs else {}
    ends = record.axis.low, min(record.axis.high, len(logits))
    assert (curve.values[0], curve.values[-1]) == pytest.approx(ends)
    assert curve.values == sorted(set(curve.values))
    for value, kept in list(zip(curve.values, curve.kept, strict=True))[::7]:
        masked = mask_logits(logits, **{name: record.kind(value)}, **needed, seed=0)
        assert kept == int((masked > -torch.inf).sum())
    assert len(curve.values) > 20


@each_filter
def test_plot_sweeps_and_tells(record, folder, biting, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="needs the `plot` extra")
    from fused_sampler.cli import plot

    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, path: figures.append(figure))
    arguments = ["plot", PROMPT, "--model", folder, "--out", str(tmp_path / "sky.svg")]
    assert main([*arguments, "--sweep", label(record.name)]) == 0
    assert figures[-1].axes[0].get_xlabel() == label(record.name)
    assert (figures[-1].axes[0].get_xscale() == "log") == record.axis.log
    filters = _values(record, biting)
    assert main([*arguments, *_options(filters)]) == 0
    for name, value in filters.items():
        assert f"{label(name)} {value:g}" in figures[-1].get_suptitle()


def test_no_front_end_names_a_filter():
    """So that another filter touches none of their files; but for those that everyone uses."""
    files = [
        path
        for folder in ("cli", "explorer", "models", "views")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".js", ".html", ".css") and path.name != "parameters.py"
    ]
    assert len(files) > 30
    found = [
        (path.name, name)
        for path in files
        for filter in FILTERS
        for name in (filter.name, label(filter.name))
        if name in path.read_text(encoding="utf-8")
    ]
    assert found == [("app.py", "top-k"), ("app.py", "top-p")]  # a case of the benchmarks
