"""Calls the public functions with arguments of all kinds, for a set time: `make fuzz`.

    python tests/long/fuzz.py [--seconds N] [--seed N] [--rounds N]

Hypothesis makes the calls (`calls.py`), right ones and any, and what `properties.py` says has to
hold for each. Rounds of them follow one another, each with a seed of its own; some of a round are
made by the GPU kernels too, in Triton's interpreter. The first that fails is made as small as it
can be, shown, and ends the run; the seed of its round repeats it:

    python tests/long/fuzz.py --seed SEED --rounds 1
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported

import calls
import properties
from hypothesis import HealthCheck, given, seed, settings
from rich.progress import Progress

from fused_sampler.benchmarks.interpreter import quicken

ON_CPU, EVERYWHERE = ("torch", "cpu"), ("torch", "cpu", "triton")
KINDS = {  # of calls, and the backends that make them: how many in a round
    ("right", ON_CPU): 200,
    ("any", ON_CPU): 200,
    ("right", EVERYWHERE): 10,
}


def strategy(kind: str):
    """Right calls, or any."""
    return calls.right_calls() if kind == "right" else calls.any_calls(properties.NAMES)


def play(number: int, until: float, seen: Counter[str]) -> None:
    """One round. Raises what Hypothesis raises of a call for which something does not hold."""
    for (kind, backends), size in KINDS.items():
        how = settings(
            max_examples=size,
            deadline=None,
            database=None,  # the seed repeats it
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(how(given(strategy(kind))(_checked(backends, until, seen))))()


def _checked(
    backends: tuple[str, ...], until: float, seen: Counter[str]
) -> Callable[[calls.Call], None]:
    """What is done with each call, while there is time."""

    def holds(call: calls.Call) -> None:
        if time.monotonic() < until:
            seen[properties.check(call, backends)] += 1
            seen["by the GPU kernels"] += "triton" in backends

    return holds


def fuzz(first: int, seconds: float, rounds: int | None = None) -> Counter[str]:
    """Play rounds until the time is over, or so many; how many calls were what."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    start, number = time.monotonic(), first
    with Progress(transient=True) as progress:
        task = progress.add_task("Calling", total=seconds)
        while time.monotonic() < until and (rounds is None or number < first + rounds):
            try:
                play(number, until, seen)
            except BaseException:
                print(f"seed {number} repeats this", file=sys.stderr)
                raise
            number += 1
            progress.update(task, completed=time.monotonic() - start)
    seen["rounds"] = number - first
    return seen


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--rounds", type=int, help="at most so many")
    asked = options.parse_args()
    quicken()
    # Of NumPy, on NaN and infinities.
    warnings.filterwarnings("ignore", "", RuntimeWarning, "triton.runtime.interpreter")
    start = time.monotonic()
    seen = fuzz(asked.seed, asked.seconds, asked.rounds)
    print(
        f"{seen['served'] + seen['refused']:,} calls of {len(properties.CALLS)} functions in "
        f"{time.monotonic() - start:.0f} s, {seen['rounds']} rounds from seed {asked.seed} on: "
        f"{seen['served']:,} served, {seen['refused']:,} refused, "
        f"{seen['by the GPU kernels']:,} of them by the GPU kernels too; none failed"
    )


if __name__ == "__main__":
    main()
