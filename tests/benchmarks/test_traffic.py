"""Traffic and what is estimated from it: the stored counts, the formula, measurements in place."""

import json
import os

import pytest

from fused_sampler.benchmarks import estimate, gpu_time
from fused_sampler.benchmarks.cases import CASES
from fused_sampler.benchmarks.estimate import page
from fused_sampler.benchmarks.gpu_time import (
    GPUS,
    Launch,
    estimates,
    launched,
    measured,
    replace,
)
from fused_sampler.benchmarks.peers import PEERS
from fused_sampler.benchmarks.results import Row, facts, write_results
from fused_sampler.benchmarks.traffic import COUNTED, LOGITS, OURS, count, read_planes, table

H100 = GPUS[0]
AT = {"logits": "random", "case": "top-k 50", "vocab": 128_256, "batch": 64, "dtype": "fp32"}


def gpu_results(tmp_path, *rows, gpu=H100.reported):
    """A results.json as the suite writes it, of a GPU."""
    import torch

    run = facts(torch.device("cpu"), "fused-sampler bench --device cuda")
    write_results(tmp_path, run | {"device": "cuda", "gpu": gpu, "commit": "abc"}, list(rows))
    return tmp_path / "results.json"


# The file is what `python -m fused_sampler.benchmarks.traffic` writes: kernels that move more, or
# less, than it says have to be counted again.
@pytest.mark.parametrize(("case", "kind"), [("temperature 0.8", "random"), ("top-k 50", "real")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities
def test_stored_counts_are_those_of_the_kernels(case, kind):
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("traffic is counted in Triton's interpreter")
    stored = [row for row in read_planes() if (row["name"], row["case"]) == (OURS, case)]
    assert [row for row in stored if row["logits"] == kind] == [count(case, kind)]


def test_every_case_is_stored_with_its_source():
    rows = read_planes()
    ours = {(row["case"], row["logits"]) for row in rows if row["name"] == OURS}
    assert ours == {(case, kind) for case in COUNTED for kind in LOGITS}
    assert len({(row["name"], row["case"], row["logits"]) for row in rows}) == len(rows)
    for row in rows:
        least, most = row["planes"]
        assert 1 <= least <= most
        assert row["launches"] >= 1
        assert row["source"]
        assert row["name"] == OURS or (row["name"] in PEERS and row["case"] in CASES)
        if "reads" in row:
            assert row["reads"] + row["writes"] == pytest.approx(most, abs=0.0015)  # rounded thrice
        if row["name"] == OURS:
            assert len(row["by_launch"]) == row["launches"]
            assert sum(row["by_launch"]) == pytest.approx(most, abs=0.001)


def test_table_of_counts():
    row = {"case": "greedy", "reads": 1.016, "writes": 0.5, "launches": 2}
    rows = [row | {"case": case} for case in COUNTED for _ in LOGITS]
    assert table(rows).splitlines()[2] == "| greedy | 2 | 1.02 + 0.50 | 1.02 + 0.50 |"


@pytest.mark.parametrize("threads_a_cycle", [128, 64])
def test_a_launch_takes_the_longer_of_bytes_and_cycles(threads_a_cycle, monkeypatch):
    monkeypatch.setattr(gpu_time, "ACHIEVED", 0.5)
    monkeypatch.setattr(gpu_time, "LATENCY_US", 7.0)
    gpu = H100._replace(
        bytes_per_s=4e12, processors=100, threads_a_cycle=threads_a_cycle, clock=1e9
    )
    # 2 planes of 1,000 x 1,000 fp32 logits are 8 MB; at 0.5 of 4 TB/s they take 4 us. Of 3 programs
    # for each of 1,000 rows a processor has 30, of 1,000 cycles each at 1 GHz.
    slower = 128 / threads_a_cycle
    by_bytes, by_cycles = Launch(2.0, 3, 10), Launch(0.1, 3, 1000)
    assert launched(gpu, [by_bytes], 1000, 1000) == pytest.approx(4 + 7)
    assert launched(gpu, [by_cycles], 1000, 1000) == pytest.approx(30 * slower + 7)
    assert launched(gpu, [by_bytes, by_cycles], 1000, 1000) == pytest.approx(18 + 30 * slower)
    alone = Launch(0.0, 3, 1000)  # a processor has one program at most
    assert launched(gpu, [alone], 1, 1000) == pytest.approx(slower + 7)


def test_estimates_cover_every_gpu_batch_and_range():
    row = {"logits": "real", "case": "greedy", "name": "x", "title": "X", "source": "s"}
    times = estimates([row | {"planes": [1.0, 3.0], "launches": 2}])
    assert {(time.gpu, time.batch) for time in times} == {
        (gpu.name, batch) for gpu in GPUS for batch in (1, 64, 512)
    }
    last = times[-1]
    assert (last.gpu, last.batch, last.basis) == (GPUS[1].name, 512, "estimate")
    moved = 512 * LOGITS["real"][1] * 4 / (0.8 * 5.3e6)
    assert (last.least_us, last.most_us) == pytest.approx((moved + 10, 3 * moved + 10))


def test_a_measurement_replaces_its_estimate_and_no_other(tmp_path):
    path = gpu_results(tmp_path, Row(**AT, name=OURS, median_ms=0.0321))
    before = estimates(read_planes())
    after = replace(before, measured(estimate.read_results(path)))
    (new,) = set(after) - set(before)
    (old,) = set(before) - set(after)
    place = H100.name, "random", "top-k 50", OURS, OURS, 64
    assert old[:6] == new[:6] == place
    assert old.basis == "estimate"
    assert new[6:] == (
        pytest.approx(32.1),
        pytest.approx(32.1),
        "measured",
        "fused-sampler bench --device cuda at commit abc",
    )


def test_another_gpu_and_another_sampler_are_added(tmp_path):
    timed = Row(**AT, name="pytorch", median_ms=1.5)
    path = gpu_results(tmp_path, timed, gpu="Some Other GPU")
    (time,) = measured(estimate.read_results(path))
    assert (time.gpu, time.title, time.most_us) == ("Some Other GPU", "PyTorch sort + cumsum", 1500)
    assert replace(estimates(read_planes()), [time])[-1] == time


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 8},
        {"dtype": "bf16"},
        {"vocab": 32_000},
        {"logits": "all equal"},
        {"median_ms": None},
    ],
)
def test_what_no_estimate_is_made_for_is_not_taken(tmp_path, change):
    path = gpu_results(tmp_path, Row(**{**AT, "median_ms": 1.0, **change}, name=OURS))
    assert measured(estimate.read_results(path)) == []


def test_times_of_a_cpu_are_not_taken(tmp_path):
    path = gpu_results(tmp_path, Row(**AT, name=OURS, median_ms=1.0))
    results = json.loads(path.read_text())
    results["run"] |= {"device": "cpu", "gpu": None}
    assert measured(results) == []


def test_the_page_says_what_is_estimated(tmp_path, capsys):
    estimate.main(["--out", str(tmp_path / "first")])
    first = capsys.readouterr().out
    assert first == (tmp_path / "first" / "estimate.md").read_text()
    assert first.startswith("**Estimated GPU time, not measured**")
    at = line_of(first, "case").split(" | ").index("H100 SXM, B = 64")
    assert line_of(first, "top-k 50 |").split(" | ")[1] == OURS
    assert line_of(first, "top-k 50 |").split(" | ")[at].startswith("~")

    path = gpu_results(tmp_path, Row(**AT, name=OURS, median_ms=0.0321))
    estimate.main(["--measured", str(path), "--out", str(tmp_path / "second")])
    second = capsys.readouterr().out
    assert second.startswith("**GPU time, measured; with ~ in front, estimated")
    assert line_of(second, "top-k 50 |").split(" | ")[at] == "32.1"
    stored = json.loads((tmp_path / "second" / "estimate.json").read_text())
    assert [time["basis"] for time in stored].count("measured") == 1
    assert len(stored) == len(estimates(read_planes()))


def test_files_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "estimate.md").mkdir()
    with pytest.raises(ValueError, match=r"cannot write .*estimate\.md' .* folder with --out"):
        estimate.main(["--out", str(tmp_path)])


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(f"| {start}"))


def test_samplers_of_a_case_stand_together():
    planes = read_planes()
    text = page(estimates(planes), planes)
    cases = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    cases = cases[: cases.index("| case", 1)]  # of the first table
    assert sorted(cases, key=cases.index) == cases
    assert len(cases) > len(set(cases))
    assert line_of(text, "top-k 50 + top-p 0.9 | Hugging Face").count(" to ") >= 3


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"run": {}}'])
def test_a_file_that_is_no_result_is_named(tmp_path, content):
    path = tmp_path / "odd.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"--measured .*odd\.json' is no results\.json"):
        estimate.main(["--measured", str(path), "--out", str(tmp_path)])
