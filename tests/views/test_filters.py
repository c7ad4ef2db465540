"""Every filter of FILTERS is offered by every front end, and none of them names one itself."""

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer", reason="needs the `cli` extra")
pytest.importorskip("transformers", reason="needs the `hf` extra")

from explorer import PROMPT, ask_view, request_of, serving

import fused_sampler
from fused_sampler import SamplingParams, mask_logits
from fused_sampler.cli import main
from fused_sampler.explorer.page import render_page
from fused_sampler.explorer.text import Explorer
from fused_sampler.filters import FILTERS
from fused_sampler.models.load import load_model
from fused_sampler.params import PARAMETERS, RECORDS
from fused_sampler.views.next_token import NextToken
from fused_sampler.views.numbers import label
from fused_sampler.views.sweep import sweep

ROOT = Path(fused_sampler.__file__).parent
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


def middle(record):
    """A value of the axis that drops some tokens and keeps more than one."""
    if record.kind is int:
        return 5
    return record.axis.high / 10 if record.axis.log else (record.axis.low + record.axis.high) / 2


@each_filter
def test_inspect_filters(record, folder, logits, capsys):
    value = middle(record)
    option = f"--{label(record.name)}"
    assert main(["inspect", PROMPT, "--model", folder, "--json", option, str(value)]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = int((mask_logits(logits, **{record.name: value}) > -math.inf).sum())
    assert found["kept"] == kept
    assert 1 < kept < 257
    assert found["sampling"] == {**vars(SamplingParams()), record.name: value}
    assert main(["inspect", PROMPT, "--model", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 257  # off is off


@each_filter
def test_generate_filters(record, folder, capsys):
    """A value at the strict end of the range leaves the best token alone."""
    strict = 1 if record.kind is int else record.low if record.off else record.high
    arguments = ["generate", PROMPT, "--model", folder, "--seed", "1", "--max-new-tokens", "12"]
    texts = []
    for more in ([f"--{label(record.name)}", repr(strict)], ["--temperature", "0"], []):
        assert main([*arguments, *more]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


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
def test_explorer_filters(record, explorer):
    value = middle(record)
    with serving(explorer) as server:
        status, view = ask_view(server, **{record.name: str(value)})
        assert (status, view["table"]["sampling"][record.name]) == (200, value)
        dropped = {row["dropped_by"] for row in view["rows"]}
        assert dropped == {label(record.name), None}
        assert f"{record.name}={value}" in view["call"]
        status, answer = ask_view(server, **{record.name: "x"})
        assert (status, answer["field"]) == (400, record.name)
        assert record.remedy in answer["error"]


def test_page_has_an_input_for_each(explorer):
    request = request_of()
    page = render_page(request, [explorer.view(request)], saved=False)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [setting["name"] for setting in data["settings"]] == list(PARAMETERS)
    for setting in data["settings"]:
        assert setting["slider"]["max"] <= RECORDS[setting["name"]].high
        assert data["request"][setting["name"]] == RECORDS[setting["name"]].off


@pytest.mark.parametrize("name", PARAMETERS)
def test_sweep_covers_the_axis(token, name):
    logits = token.logits
    record = RECORDS[name]
    curve = sweep(token, request_of(), name)
    ends = record.axis.low, min(record.axis.high, len(logits))
    assert (curve.values[0], curve.values[-1]) == pytest.approx(ends)
    assert curve.values == sorted(set(curve.values))
    for value, kept in list(zip(curve.values, curve.kept, strict=True))[::7]:
        masked = mask_logits(logits, **{name: record.kind(value)})
        assert kept == int((masked > -torch.inf).sum())
    assert len(curve.values) > 20


@each_filter
def test_plot_sweeps_and_tells(record, folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="needs the `plot` extra")
    from fused_sampler.cli import plot

    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, path: figures.append(figure))
    arguments = ["plot", PROMPT, "--model", folder, "--out", str(tmp_path / "sky.svg")]
    assert main([*arguments, "--sweep", label(record.name)]) == 0
    assert figures[-1].axes[0].get_xlabel() == label(record.name)
    assert (figures[-1].axes[0].get_xscale() == "log") == record.axis.log
    value = middle(record)
    assert main([*arguments, f"--{label(record.name)}", str(value)]) == 0
    assert f"{label(record.name)} {value:g}" in figures[-1].get_suptitle()


def test_no_front_end_names_a_filter():
    """So that another filter touches none of their files."""
    files = [
        path
        for folder in ("cli", "explorer", "models", "views")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".js", ".html", ".css")
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
