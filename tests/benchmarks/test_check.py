"""Recorded ratios: when the check passes, when it fails, and what it then says."""

import json
from itertools import cycle

import pytest

from fused_sampler.benchmarks import check
from fused_sampler.benchmarks.check import FLOOR, THEIRS, failures, measure, ratios_of, read_record
from fused_sampler.benchmarks.kept_sets import Difference
from fused_sampler.benchmarks.measure import Entrant, WrongResult
from fused_sampler.benchmarks.ours import Ours
from fused_sampler.benchmarks.plan import Cell

CELL = Cell("random", "top-k 50", 1000, 2, "fp32")
PLACES = [f"{CELL}, against {name}" for name in (THEIRS, FLOOR)]


class Times:
    """A clock that reports given milliseconds, a turn each: floor, ours, theirs, and again."""

    def __init__(self, *turns):
        self.turns = cycle(turns)

    def turn(self, call, first):
        call(first)
        return next(self.turns)


def spread(low, high):
    return {"p10": low, "median": (low + high) / 2, "p90": high}


@pytest.fixture
def one_cell(monkeypatch, tmp_path):
    """The command measures one small cell, and compares with a record in a folder of its own."""
    monkeypatch.setattr(check, "CELLS", [CELL])
    monkeypatch.setattr(check, "OWN", tmp_path / "floor.json")

    def with_times(*turns):
        monkeypatch.setattr(check, "CPUClock", lambda: Times(*turns))

    return with_times


def test_ratio_of_medians_round_by_round():
    clock = Times([1, 9, 2], [4, 4], [40], [3], [2, 4, 99], [8])
    assert ratios_of(CELL, 2, clock) == {THEIRS: [10, 2], FLOOR: [0.5, 0.75]}


def test_spread_of_all_passes():
    # Theirs over ours is 1, 2, ..., 12 in the twelve rounds of three passes.
    turns = [turn for number in range(1, 13) for turn in ([0.5], [1], [number])]
    told = []
    now = measure([CELL], Times(*turns), told.append)
    assert list(now) == PLACES
    assert now[PLACES[0]] == pytest.approx({"p10": 2.1, "median": 6.5, "p90": 10.9})
    assert now[PLACES[1]] == {"p10": 0.5, "median": 0.5, "p90": 0.5}
    assert told == [str(CELL)] * 3


@pytest.mark.parametrize("sampler", [Ours.name, THEIRS])
def test_a_wrong_result_is_not_timed(monkeypatch, sampler):
    right = check.enter

    def enter(contender, *rest):
        if contender.name == sampler:
            return Entrant(None, Difference(1, 1, 9, 0.1), "it keeps too much")
        return right(contender, *rest)

    monkeypatch.setattr(check, "enter", enter)
    with pytest.raises(WrongResult, match=f"{sampler} is not timed at top-k 50.*keeps too much"):
        ratios_of(CELL, 1, Times([1]))


@pytest.mark.parametrize(
    ("now", "fallen"),
    [
        ((10, 12), False),  # at the floor
        ((20, 30), False),  # above
        ((5, 10), False),  # below, but the spreads meet
        ((5, 9), False),  # as much as two runs may differ
        ((1, 100), False),  # so noisy that nothing is known
        ((5, 8.99), True),
    ],
)
def test_fallen_by_more_than_the_noise(now, fallen):
    lines = failures(
        {"a": spread(10, 12), "b": spread(1, 1)}, {"a": spread(*now), "b": spread(1, 1)}
    )
    assert len(lines) == fallen
    if fallen:
        assert (
            lines[0]
            == "a: 7 (5 to 8.99) now, recorded 11 (10 to 12): fallen by more than the noise"
        )


def test_a_missing_case_is_a_failure():
    lines = failures({"a": spread(1, 2), "b": spread(1, 2)}, {"b": spread(1, 2), "c": spread(1, 2)})
    assert lines == [
        "a: recorded, but not measured now",
        "c: measured, but not recorded; run with --record",
    ]


def test_recorded_then_compared(one_cell, capsys):
    one_cell([1], [4], [40])
    assert check.main(["--record", str(check.OWN)]) == 0
    record = json.loads(check.OWN.read_text())
    assert record["ratios"][PLACES[0]]["median"] == 10
    assert "--record" in record["run"]["command"]
    capsys.readouterr()

    assert check.main([]) == 0
    printed = capsys.readouterr()
    assert f"{PLACES[1]}: 0.25 (0.25 to 0.25), recorded 0.25 (0.25 to 0.25)" in printed.out
    assert "FAILED" not in printed.err

    one_cell([1], [8], [40])  # ours takes twice the time
    assert check.main([]) == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FAILED")]
    assert [line.split(":")[0] for line in failed] == [
        f"FAILED {place}" for place in sorted(PLACES)
    ]

    one_cell([2], [8], [80])  # the whole machine does
    assert check.main([]) == 0


def test_another_machine_is_named(one_cell, capsys):
    one_cell([1], [4], [40])
    check.main(["--record", str(check.OWN)])
    record = json.loads(check.OWN.read_text())
    record["run"]["cpu"] = "Another CPU"
    check.OWN.write_text(json.dumps(record))
    assert check.main([]) == 0
    assert "recorded with cpu Another CPU, not " in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"ratios": {}}'])
def test_without_a_record_the_remedy_is_told_before_anything_is_measured(one_cell, content):
    if content is not None:
        check.OWN.write_text(content)
    with pytest.raises(
        ValueError, match=r"floor\.json holds no recorded ratios; run with --record .*floor\.json"
    ):
        check.main([])  # no times are given: measuring would be an error of another kind


def test_a_record_of_ones_own_is_compared_with(one_cell, tmp_path, capsys):
    mine, other = tmp_path / "mine.json", tmp_path / "other.json"
    one_cell([1], [4], [40])
    check.main(["--record", str(mine)])
    one_cell([1], [8], [40])
    check.main(["--record", str(other)])
    assert check.main(["--against", str(mine)]) == 1
    assert check.main(["--against", str(other)]) == 0
    assert not check.OWN.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--record"], "expected one argument"),
        (["--record", "none/floor.json"], "in a folder that does not exist"),
        (["--record", "a.json", "--against", "b.json"], "not allowed with argument"),
    ],
)
def test_options_that_are_refused_before_anything_is_measured(one_cell, capsys, arguments, message):
    with pytest.raises(SystemExit) as left:
        check.main(arguments)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_the_repository_records_every_cell():
    recorded = read_record(check.OWN)["ratios"]
    assert set(recorded) == {
        f"{cell}, against {who}" for cell in check.CELLS for who in (THEIRS, FLOOR)
    }
    for own in recorded.values():
        assert 0 < own["p10"] <= own["median"] <= own["p90"]
