"""Have the ratios fallen below those that were recorded? Leaves with 1 if one has.

    python -m fused_sampler.benchmarks.check                    # compares with the suite's own
    python -m fused_sampler.benchmarks.check --against FILE     # with those of this machine
    python -m fused_sampler.benchmarks.check --record FILE      # writes them

A ratio is another's time over ours in the same round, on the CPU: that of Hugging Face's sampling,
and that of one read of the logits. Times of a machine come and go with what else it does; both
sides of a ratio are hit alike.

The rule: a ratio is seen in 12 rounds, four in each of three passes over all cells. Of the recorded
rounds nine tenths lie above their 10th percentile, of today's nine tenths below their 90th. Where
today's 90th percentile is less than nine tenths of the recorded 10th, the ratio has fallen by more
than rounds and runs differ by themselves: without the nine tenths, two of eight runs of one commit
had a failure among 30 ratios. So a small loss may stay hidden, but a false alarm is rare.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from ..views.files import writing
from . import command
from .cases import REAL_VOCAB, row_params
from .kept_sets import Contract
from .measure import WrongResult, enter, make_inputs, read_once
from .ours import Ours
from .peers import PEERS
from .peers.base import Draw
from .plan import VOCAB, Cell
from .report import MAIN_CASES
from .results import FLOOR, facts
from .timing import Clock, CPUClock, time_in_turn

OWN = Path(__file__).with_name("floor.json")
CPU = torch.device("cpu")
PLACES = (("random", VOCAB, 1), ("random", VOCAB, 8), ("real", REAL_VOCAB, 8))
CELLS = [
    Cell(kind, case, vocab, batch, "fp32") for case in MAIN_CASES for kind, vocab, batch in PLACES
]
PASSES, ROUNDS = 3, 4
THEIRS = "hugging-face"
RUNS_DIFFER = 0.9  # what another run of the same commit may come down to

Ratios = dict[str, dict[str, float]]  # p10, median and p90 by "cell, against whom"


def ratios_of(cell: Cell, rounds: int, clock: Clock) -> dict[str, list[float]]:
    """How many times longer each of the others takes, by round. Raises `WrongResult`."""
    inputs = make_inputs(cell, CPU)
    params = row_params(cell.case, cell.batch)
    contract = Contract(inputs[0], params)
    draws: dict[str, Draw] = {FLOOR: read_once}
    for sampler in (Ours(), PEERS[THEIRS]):
        entrant = enter(sampler, inputs, params, contract)
        if entrant.draw is None:
            raise WrongResult(f"{sampler.name} is not timed at {cell}: {entrant.note}")
        draws[sampler.name] = entrant.draw
    calls = {
        name: lambda number, draw=draw: draw(inputs[number % len(inputs)])
        for name, draw in draws.items()
    }
    seen: dict[str, list[float]] = {THEIRS: [], FLOOR: []}
    for _ in range(rounds):
        times = {name: median(turn) for name, (turn,) in time_in_turn(calls, 0, clock).items()}
        for name, own in seen.items():
            own.append(times[name] / times[Ours.name])
    return seen


def measure(
    cells: Sequence[Cell], clock: Clock, report: Callable[[str], None] = lambda line: None
) -> Ratios:
    """The spread of every ratio, over all passes. `report` is told each cell before it."""
    seen: dict[str, list[float]] = {}
    for _ in range(PASSES):
        for cell in cells:
            report(str(cell))
            for name, values in ratios_of(cell, ROUNDS, clock).items():
                seen.setdefault(f"{cell}, against {name}", []).extend(values)
    return {place: _spread(values) for place, values in seen.items()}


def failures(recorded: Ratios, now: Ratios) -> list[str]:
    """A line for each ratio that has fallen, and for each that only one of the two has."""
    lines = [
        f"{place}: {_text(now[place])} now, recorded {_text(own)}: fallen by more than the noise"
        for place, own in recorded.items()
        if place in now and now[place]["p90"] < RUNS_DIFFER * own["p10"]
    ]
    lines += [f"{place}: recorded, but not measured now" for place in recorded.keys() - now.keys()]
    lines += [
        f"{place}: measured, but not recorded; run with --record"
        for place in now.keys() - recorded.keys()
    ]
    return sorted(lines)


def read_record(path: Path) -> dict[str, Any]:
    """What `--record` wrote. Raises ValueError."""
    try:
        record = json.loads(path.read_text())
        return {"run": record["run"], "ratios": record["ratios"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no recorded ratios; run with --record {path} at a commit to compare with"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    options = command.Options(
        prog=f"python -m {__spec__.name}", description=__doc__.splitlines()[0]
    )
    what = options.add_mutually_exclusive_group()
    what.add_argument(
        "--record", type=Path, metavar="FILE", help="write the ratios, do not compare"
    )
    what.add_argument(
        "--against", type=Path, metavar="FILE", default=OWN, help="the ratios to compare with"
    )
    chosen = options.parse_args(arguments)
    here = facts(CPU, command.as_typed(options, arguments))
    if chosen.record:
        if not chosen.record.parent.is_dir():
            options.error(f"--record {str(chosen.record)!r} is in a folder that does not exist")
        now = _measure_with_bar()
        with writing(chosen.record, remedy="give another file with --record"):
            chosen.record.write_text(json.dumps({"run": here, "ratios": now}, indent=1) + "\n")
        print(f"{len(now)} ratios recorded in {chosen.record}")
        return 0
    record = read_record(chosen.against)
    now = _measure_with_bar()
    for place, own in now.items():
        print(f"{place}: {_text(own)}, recorded {_text(record['ratios'].get(place))}")
    for name in ("cpu", "threads"):
        if here[name] != record["run"][name]:
            print(
                f"recorded with {name} {record['run'][name]}, not {here[name]}: another machine "
                "has other ratios; run with --record FILE here first, then with --against FILE",
                file=sys.stderr,
            )
    failed = failures(record["ratios"], now)
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    print(f"{len(failed)} of {len(now)} ratios failed")
    return 1 if failed else 0


def _measure_with_bar() -> Ratios:
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=PASSES * len(CELLS))
        started: list[str] = []

        def report(line: str) -> None:
            progress.update(task, description=line, completed=len(started))
            started.append(line)

        now = measure(CELLS, CPUClock(), report)
        progress.update(task, completed=len(started))
    return now


def _spread(values: Sequence[float]) -> dict[str, float]:
    tenths = quantiles(values, n=10, method="inclusive")
    spread = {"p10": tenths[0], "median": median(values), "p90": tenths[-1]}
    return {name: float(f"{value:.4g}") for name, value in spread.items()}


def _text(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "never"
    return "{median:.3g} ({p10:.3g} to {p90:.3g})".format(**spread)


if __name__ == "__main__":
    command.run(main)
