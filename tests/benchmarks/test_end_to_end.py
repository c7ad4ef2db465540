"""Tokens a second of `generate`: what is timed, what is drawn, what is written."""

import json
import time
from unittest import mock

import pytest
import torch
from slow import DELAY, slowed
from transformers import LogitsProcessorList

from fused_sampler.benchmarks import end_to_end
from fused_sampler.benchmarks.end_to_end import (
    OURS,
    SAMPLERS,
    THEIRS,
    Run,
    generate,
    measure,
    prompts,
    row_of,
    table,
)

CASE = "top-k 50 + top-p 0.9"


def test_prompts_differ_and_need_no_padding(loaded):
    ids = prompts(loaded, 40)
    assert ids.shape == (40, 16)
    assert len(ids.unique(dim=0)) == 40
    assert torch.equal(ids[:8], prompts(loaded, 8))


# Everything from the processors to the drawn token counts as sampling, for both.
@pytest.mark.parametrize(
    ("sampler", "owner", "name"),
    [
        (THEIRS, LogitsProcessorList, "__call__"),
        (THEIRS, torch.nn.functional, "softmax"),
        (THEIRS, torch, "multinomial"),
        (OURS, end_to_end, "sample"),
    ],
)
def test_a_slow_part_of_sampling_shows_in_its_share(loaded, sampler, owner, name):
    with mock.patch.object(owner, name, slowed(getattr(owner, name))):
        assert generate(loaded, sampler, CASE, batch=2, new_tokens=6).share > 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_slow_model_leaves_sampling_a_small_share(loaded, sampler):
    forward = slowed(loaded.model.forward)
    start = time.perf_counter()
    with mock.patch.object(loaded.model, "forward", forward):
        run = generate(loaded, sampler, CASE, batch=2, new_tokens=6)
    seconds = time.perf_counter() - start
    assert run.share < 0.5
    assert 2 * 6 / seconds <= run.tokens_per_second <= 2 * 6 / (6 * DELAY)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_row_stops_early_and_nothing_stays_replaced(loaded, sampler):
    places = (LogitsProcessorList, "__call__"), (torch, "multinomial")
    before = [getattr(*place) for place in places]
    config = loaded.model.generation_config
    every = list(range(257))
    with mock.patch.object(config, "eos_token_id", every):  # all tokens would end a text
        generate(loaded, sampler, CASE, batch=2, new_tokens=6)  # raises for a missing draw
        assert config.eos_token_id == every
    assert [getattr(*place) for place in places] == before


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_draws_with_its_own(loaded, sampler):
    owner, name = {THEIRS: (end_to_end, "sample"), OURS: (torch, "multinomial")}[sampler]
    with mock.patch.object(owner, name, side_effect=AssertionError("the other's draw")):
        generate(loaded, sampler, CASE, batch=1, new_tokens=2)


def test_samplers_take_turns_and_the_first_turn_does_not_count(loaded):
    turns = []

    def fake(loaded, sampler, case, batch, new_tokens):
        turns.append((sampler, new_tokens))
        return Run(1.0 if new_tokens == 2 else {THEIRS: 10.0, OURS: 25.0}[sampler], 0.5)

    with mock.patch.dict(end_to_end.CALLS, {"generate": fake}):
        rows = measure(loaded, ["generate"], [CASE], [4], 9, repeats=2, report=lambda line: None)
    assert turns == [(name, tokens) for tokens in (2, 9, 9) for name in (THEIRS, OURS)]
    assert [row["ratio"] for row in rows] == [1.0, 2.5]


def test_figures_of_injected_runs():
    runs = {
        THEIRS: [Run(10.0, 0.5), Run(20.0, 0.3), Run(12.0, 0.4)],
        OURS: [Run(30.0, 0.1), Run(18.0, 0.2), Run(90.0, 0.3)],
    }
    rows = [row_of("generate", CASE, 8, 32, name, runs) for name in runs]
    assert rows[1]["tokens_per_second"] == 30.0
    assert (rows[1]["slowest"], rows[1]["fastest"], rows[1]["ratio"]) == (18.0, 90.0, 2.5)
    assert [row["sampling_share"] for row in rows] == [0.4, 0.2]
    speeds = "12.0 (10.0 to 20.0) | 30.0 (18.0 to 90.0) | 2.50 x"
    assert table(rows).splitlines()[2] == f"| generate | {CASE} | 8 | {speeds} | 40.0% | 20.0% |"


def test_the_command_writes_what_it_prints(loaded, tmp_path, capsys):
    with mock.patch.object(end_to_end, "load_model", return_value=loaded):
        end_to_end.main(["--quick", "--batch", "2", "--out", str(tmp_path / "new")])
    printed = capsys.readouterr().out
    assert (tmp_path / "new" / "generate.md").read_text() == printed
    stored = json.loads((tmp_path / "new" / "generate.json").read_text())
    assert [(row["call"], row["name"], row["batch"]) for row in stored["rows"]] == [
        (call, sampler, 2) for call in end_to_end.CALLS for sampler in SAMPLERS
    ]
    assert stored["run"]["model"] == "tiny"
    assert "end_to_end --quick --batch 2 --out" in stored["run"]["command"]


def test_what_was_measured_is_shown_where_it_cannot_be_written(loaded, tmp_path, capsys):
    (tmp_path / "generate.json").mkdir()
    with (
        mock.patch.object(end_to_end, "load_model", return_value=loaded),
        pytest.raises(ValueError, match=r"cannot write .*generate\.json' .* folder with --out"),
    ):
        end_to_end.main(["--quick", "--batch", "2", "--call", "generate", "--out", str(tmp_path)])
    assert f"| generate | {CASE} | 2 |" in capsys.readouterr().out


@pytest.mark.parametrize("batch", ["0", "-1", "2.5", "many"])
def test_a_wrong_batch_is_one_line(batch, capsys):
    with pytest.raises(SystemExit) as stop:
        end_to_end.main(["--batch", batch])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"argument --batch: {batch!r} is not a whole number from 1 up" in lines[0]
