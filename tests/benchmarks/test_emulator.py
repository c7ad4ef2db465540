"""The kernels' machine code, run instruction by instruction, and the emulator that runs it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fused_sampler.benchmarks.cycles import COUNTED, LOGITS, cycle_table, read_cycles
from fused_sampler.benchmarks.emulator import missing

SCRIPT = Path(__file__).parents[1] / "helpers" / "emulate_kernels.py"


def emulated(what):
    """What `emulate_kernels.py` prints, from a process where Triton compiles."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton")
    if reason := missing():
        pytest.skip(reason)
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, SCRIPT, what], capture_output=True, text=True, env=clean, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_what_is_wrong_is_found_and_what_is_right_is_not():
    found = emulated("findings")
    assert found == {
        "close": True,
        "untouched": True,
        "bytes": [800, 800],
        "launch": [1, True, True],
        "right": [],
        "reversed": True,
        "no barrier": ["global race"],
        "beyond": ["out of bounds"],
        "gap": ["access between a tensor's elements"],
        "unwritten": ["uninitialised global read"],
        "programs": ["race of programs"],
    }


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "edits"])
def test_machine_code_equals_the_textbook(dtype):
    assert emulated(dtype) == []


def test_missing_barriers_are_noticed():
    barriers = emulated("barriers")
    assert barriers["reached"] > 50
    assert barriers["noticed"] >= 3


def test_stored_cycles_are_those_of_the_kernels():
    stored = {(row["case"], row["logits"]): row for row in read_cycles()}
    assert stored.keys() == {(case, kind) for case in COUNTED for kind in LOGITS}
    for row in emulated("cycles"):
        known = stored[row["case"], row["logits"]]
        # Another version of Triton compiles otherwise; more than this has to be counted again.
        assert row["cycles"] == pytest.approx(known["cycles"], rel=0.1), row
        assert row["barriers"] == pytest.approx(known["barriers"], rel=0.1), row
        assert [launch[0] for launch in row["by_launch"]] == [n for n, _, _ in known["by_launch"]]


def test_table_of_cycles():
    lines = cycle_table(read_cycles()).splitlines()
    assert len(lines) == 2 + len(COUNTED)
    assert all(re.fullmatch(r"\| \S.* \|( [\d.,]+ \([\d,]+\) \|){3}", line) for line in lines[2:])
