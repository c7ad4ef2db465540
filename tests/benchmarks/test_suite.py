"""The benchmark suite: what it writes, what it refuses to time, what it says about bad input."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("matplotlib", reason="needs the `bench` extra")
pytest.importorskip("transformers", reason="needs the `bench` extra")
pytest.importorskip("typer", reason="needs the `bench` extra")

from fused_sampler.benchmarks import measure as measuring
from fused_sampler.benchmarks import ours, plan
from fused_sampler.benchmarks.cases import BATCHES, CASES, VOCABS
from fused_sampler.benchmarks.measure import WrongResult, measure
from fused_sampler.benchmarks.ours import Ours
from fused_sampler.benchmarks.peers import PEERS, Peer
from fused_sampler.benchmarks.plan import Cell, chosen_cells
from fused_sampler.benchmarks.run import run_suite
from fused_sampler.benchmarks.timing import CPUClock
from fused_sampler.cli import main
from fused_sampler.dispatch import choose_backend

CPU = torch.device("cpu")
BACKEND = f'"{choose_backend("auto", CPU)}"'
CELL = Cell("random", "top-k 50", 300, 2, "fp32")


class Fixed:
    """A clock that says what each call takes, in the order of the calls."""

    def __init__(self, *turns):
        self.turns = list(turns)

    def turn(self, call, first):
        call(first)
        self.turns.append(self.turns.pop(0))  # again in the next round
        return self.turns[-1]


class KeepsAll(Peer):
    """No filter, which is wrong where there is one."""

    name, title = "keeps-all", "keeps all"

    def prepare(self, params):
        return lambda logits: logits.argmax(-1)

    def mask(self, logits, params):
        return torch.ones_like(logits, dtype=torch.bool)


class DrawsTheWorst(Peer):
    """A wrong sampler: its mask is right, its draw is not."""

    name, title = "draws-the-worst", "draws the worst"

    def prepare(self, params):
        return lambda logits: logits.argmin(-1)

    def mask(self, logits, params):
        return Ours().mask(logits, params)


def measured(*peers, clock=None, cell=CELL):
    contenders = {peer.name: peer for peer in (Ours(), *peers)}
    rows = measure(cell, contenders, CPU, clock or CPUClock(), seconds=0.0)
    return {row.name: row for row in rows}


def test_a_run_writes_csv_json_markdown_and_pictures(tmp_path, capsys):
    cells = [
        *chosen_cells(["random"], plan.SWEPT, [200, 300], [1, 8], ["fp32"]),
        Cell("all equal", "top-p 0.9", 200, 8, "bf16"),
    ]
    peers = [PEERS["hugging-face"], PEERS["exponential-race"], PEERS["flashinfer"]]
    assert run_suite(cells, peers, CPU, tmp_path, ["Of your choice."], seconds=0.0)

    printed = capsys.readouterr()
    assert f"13 cells, no GPU, so on the CPU by the backend {BACKEND}, " in printed.err
    assert "13 of 13: top-p 0.9, all equal bf16, V=200, B=8\n" in printed.err
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["run"]["device"] == "cpu"
    assert f'"{result["run"]["backend"]}"' == BACKEND
    assert result["run"]["threads"] == torch.get_num_threads()
    assert result["run"]["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert result["run"]["left_out"] == [
        "Of your choice.",
        "FlashInfer: runs on a GPU only.",
    ]
    names = {"fused-sampler", "hugging-face", "exponential-race", "floor"}
    places = {(row["logits"], row["case"], row["vocab"], row["batch"]) for row in result["rows"]}
    assert places == {cell[:4] for cell in cells}
    assert {row["name"] for row in result["rows"]} == names
    assert len(result["rows"]) == len(cells) * len(names)
    for row in result["rows"]:
        if row["median_ms"] is None:
            assert row["note"] == "it has one temperature and one top-k"
            continue
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        if row["name"] == "fused-sampler":
            assert row["ratio"] == 1 and row["differing_tokens"] == 0
            assert 0 < row["launches"] < 10 and row["extra_bytes"] > 0

    with (tmp_path / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for line, row in zip(table, result["rows"], strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in row.items()}

    page = (tmp_path / "summary.md").read_text()
    assert "| random, V=200 | top-k 50 + top-p 0.9 |" in page
    assert printed.out.strip() in page
    assert "Of your choice." in page
    for name in ("ratios", "time-by-vocab", "time-by-batch", "traffic"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_figures_come_from_the_times():
    clock = Fixed([2.0, 1.0, 3.0], [10.0], [0.5])
    rows = measured(PEERS["hugging-face"], clock=clock)
    ours, peer, floor = (rows[name] for name in ("fused-sampler", "hugging-face", "floor"))
    assert (ours.median_ms, ours.p10_ms, ours.p90_ms, ours.calls) == (2.0, 1.2, 2.8, 3)
    assert (ours.ratio, peer.ratio, floor.ratio) == (1.0, 5.0, 0.25)
    assert (ours.floor_ratio, peer.floor_ratio, floor.floor_ratio) == (4.0, 20.0, 1.0)
    assert ours.gb_per_s == pytest.approx(2 * 300 * 4 / 2e-3 / 1e9)  # rounding of the quotient


def test_a_wrong_peer_is_reported_and_not_timed():
    rows = measured(KeepsAll(), DrawsTheWorst(), PEERS["hugging-face"])
    assert rows["hugging-face"].median_ms is not None
    assert rows["keeps-all"].median_ms is rows["draws-the-worst"].median_ms is None
    assert rows["keeps-all"].note == (
        "its kept set differs from the contract's in 500 tokens (500 beyond ties of the boundary) "
        "of 100"
    )
    assert rows["keeps-all"].differing_tokens == 500
    assert rows["draws-the-worst"].note == "it drew a token that it does not keep"


def test_a_peer_that_raises_is_reported_and_not_timed():
    class Raises(KeepsAll):
        def mask(self, logits, params):
            raise RuntimeError("no kernel\nfor this device")

    assert measured(Raises())["keeps-all"].note == "it failed: no kernel for this device"


def test_an_error_of_ours_is_not_swallowed(monkeypatch):
    monkeypatch.setattr(ours, "mask_logits", lambda logits, **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured()


def test_a_run_fails_where_ours_keeps_something_else(monkeypatch, tmp_path):
    right = ours.mask_logits

    def one_more(logits, **params):
        masked = right(logits, **params)
        masked[0, logits[0].argmin()] = 0.0
        return masked

    monkeypatch.setattr(ours, "mask_logits", one_more)
    with pytest.raises(WrongResult, match=r"fused-sampler is wrong at top-k 50.*in 1 tokens"):
        run_suite([CELL], [], CPU, tmp_path, seconds=0.0)
    assert not list(tmp_path.iterdir())


def test_a_run_fails_where_ours_draws_something_else(monkeypatch):
    monkeypatch.setattr(ours, "sample", lambda logits, **_: logits.argmax(-1))
    with pytest.raises(WrongResult, match="where the contract draws"):
        measured(cell=Cell("random", "temperature 0.8", 300, 4, "fp32"))


def test_ctrl_c_keeps_what_was_measured(monkeypatch, tmp_path, capsys):
    def interrupted(cell, *rest):
        if cell.batch > 2:
            raise KeyboardInterrupt
        return measure(cell, *rest)

    monkeypatch.setattr("fused_sampler.benchmarks.run.measure", interrupted)
    arguments = ["--case", "top-k 50", "--vocab", "300", "--batch", "2,3", "--peers", "pytorch"]
    assert main(["bench", *arguments, "--quick", "--out", str(tmp_path)]) == 130
    result = json.loads((tmp_path / "results.json").read_text())
    assert {row["batch"] for row in result["rows"]} == {2}
    assert result["run"]["left_out"] == ["Interrupted: 1 of 2 cells measured."]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_cell_without_memory_is_left_out(monkeypatch, tmp_path, capsys, error):
    monkeypatch.setattr("fused_sampler.benchmarks.run.measure", failing(error))
    cells = [CELL._replace(batch=3), CELL]
    assert run_suite(cells, [], CPU, tmp_path, seconds=0.0)
    result = json.loads((tmp_path / "results.json").read_text())
    line = "top-k 50, random fp32, V=300, B=3: out of memory; give a smaller --batch or --vocab."
    assert result["run"]["left_out"] == [line]
    assert {row["batch"] for row in result["rows"]} == {2}
    assert f"{line}\n" in capsys.readouterr().err


def failing(error):
    """`measure`, but for batches of more than two rows."""

    def fails(cell, *rest):
        if cell.batch > 2:
            raise error
        return measure(cell, *rest)

    return fails


def test_nothing_measured_is_an_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("fused_sampler.benchmarks.run.measure", failing(MemoryError()))
    arguments = ["--case", "top-k 50", "--vocab", "300", "--batch", "3", "--peers", "pytorch"]
    assert main(["bench", *arguments, "--quick", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"1 cell, no GPU, so on the CPU by the backend {BACKEND}, {threads()}\n")
    assert err.splitlines()[-1].startswith("fused-sampler: nothing was measured; top-k 50, random")
    assert not list(tmp_path.iterdir())


def threads():
    number = torch.get_num_threads()
    return "1 thread" if number == 1 else f"{number} threads"


@pytest.mark.parametrize("error", [WrongResult("ours is wrong"), RuntimeError("ours is\nwrong")])
def test_an_error_keeps_what_was_measured(monkeypatch, tmp_path, capsys, error):
    monkeypatch.setattr("fused_sampler.benchmarks.run.measure", failing(error))
    with pytest.raises(type(error), match=r"ours is\swrong"):
        run_suite([CELL, CELL._replace(batch=3)], [], CPU, tmp_path, seconds=0.0)
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["run"]["left_out"] == ["Stopped: ours is wrong."]
    assert {row["batch"] for row in result["rows"]} == {2}
    assert "| random, V=300 | top-k 50 |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["summary.md", "results.csv", "results.json", "ratios.png"])
def test_a_file_that_cannot_be_written_is_one_line_below_the_table(tmp_path, capsys, name):
    (tmp_path / name).mkdir()
    arguments = ["--case", "top-k 50", "--vocab", "300", "--batch", "2", "--peers", "pytorch"]
    assert main(["bench", *arguments, "--quick", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "| random, V=300 | top-k 50 |" in printed.out
    path = str(tmp_path / name)
    assert printed.err.splitlines()[-1] == (
        f"fused-sampler: cannot write {path!r} (Is a directory); give another folder with --out"
    )


def test_a_table_that_nobody_reads_costs_no_results(monkeypatch, tmp_path):
    def nobody_reads(*text):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", nobody_reads)
    with pytest.raises(BrokenPipeError):
        run_suite([CELL], [], CPU, tmp_path, seconds=0.0)
    assert (tmp_path / "results.json").exists()


def test_inputs_of_a_cell_are_different_rows():
    inputs = measuring.make_inputs(CELL._replace(batch=1), CPU)
    assert len(inputs) == 16 and len({x[0, 0].item() for x in inputs}) == 16
    assert [len(x) for x in measuring.make_inputs(CELL._replace(batch=64), CPU)] == [64, 64]


def test_calls_go_through_the_inputs():
    seen, turns = [], []

    class Looks(KeepsAll):
        def prepare(self, params):
            return lambda logits: seen.append(logits[0, 0].item()) or logits.argmax(-1)

    class Turn:
        def turn(self, call, first):
            seen.clear()
            for number in range(20):
                call(number)
            turns.append(list(seen))
            return [1.0]

    cell = Cell("random", "temperature 0.8", 300, 1, "fp32")
    measured(Looks(), clock=Turn(), cell=cell)
    firsts = [x[0, 0].item() for x in measuring.make_inputs(cell, CPU)]
    assert turns[1] == [*firsts, *firsts[:4]]  # ours has the first turn


def test_the_default_plan_covers_every_case_vocabulary_and_batch():
    cells = plan.default_cells()
    assert len(cells) == len(set(cells))
    assert {cell.case for cell in cells if cell.logits == "real"} == set(CASES)
    assert {cell.vocab for cell in cells if cell.logits == "random"} == set(VOCABS)
    assert {cell.batch for cell in cells} == set(BATCHES)
    assert set(plan.quick_cells()) < set(cells)


def test_what_is_asked_for_is_crossed():
    cells = chosen_cells(["real", "random"], ["greedy"], [100, 200], [], ["bf16", "fp16"])
    assert {cell[:3] for cell in cells} == {
        ("random", "greedy", 100),
        ("random", "greedy", 200),
        ("real", "greedy", 49_152),
    }
    assert len(cells) == 3 * 3 * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--case", "top-k 51"],
            ["'--case': 'top-k 51' is", "choose from greedy, temperature 0.8"],
        ),
        (["--peers", "hugging-face,me"], ["'me'", "--peers", "llama.cpp"]),
        (["--vocab", "0"], ["'--vocab': '0'", "from 1 to 4194304"]),
        (["--batch", "8,x"], ["'--batch': 'x'"]),
        (["--dtype", "fp64"], ["'fp64'", "fp32, bf16, fp16"]),
        (["--logits", "real", "--vocab", "32000"], ["49152", "leave --vocab out"]),
        (["--device", "tpu"], ["'--device': 'tpu' is not one of 'auto', 'cpu', 'cuda'"]),
        (["--batch", "1,"], ["'--batch': a value is missing in '1,'; give one, or several"]),
        (["--peers", ""], ["'--peers': a value is missing in ''"]),
        (
            ["--device", "cpu", "--peers", "flashinfer,vllm"],
            ["'--peers': none", "(FlashInfer: runs on a GPU only; vLLM: runs on a GPU only)"],
        ),
    ],
)
def test_bad_options_are_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr("fused_sampler.benchmarks.run.run_suite", None)  # nothing is measured
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--device", "cuda"]) == 2
    assert "PyTorch sees no GPU; use cpu" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["bench", "--quick", "--out", str(tmp_path / "file" / "folder")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--out" in err


def test_real_rows_that_cannot_be_had_are_left_out(monkeypatch, tmp_path, capsys):
    from fused_sampler.benchmarks import cases
    from fused_sampler.models import load as models

    cases._written_logits.cache_clear()
    monkeypatch.setattr(
        models, "load_model", lambda: (_ for _ in ()).throw(models.ModelError("not installed"))
    )
    real = CELL._replace(logits="real", vocab=49_152)
    cells = [CELL, real._replace(batch=10), real._replace(batch=11)]  # 20 rows are there
    assert run_suite(cells, [], CPU, tmp_path, seconds=0.0)
    left_out = json.loads((tmp_path / "results.json").read_text())["run"]["left_out"]
    assert left_out == ["top-k 50, real fp32, V=49,152, B=11: not installed."]


def test_on_a_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    cells = [Cell("random", case, 32_000, 4, dtype) for case in CASES for dtype in ("fp32", "bf16")]
    assert run_suite(cells, list(PEERS.values()), torch.device("cuda"), tmp_path, seconds=0.0)
    rows = [
        SimpleNamespace(**row)
        for row in json.loads((tmp_path / "results.json").read_text())["rows"]
    ]
    graphs = [row for row in rows if row.name == "fused-sampler-graph"]
    assert len(graphs) == len(cells) and all(row.median_ms for row in graphs)
