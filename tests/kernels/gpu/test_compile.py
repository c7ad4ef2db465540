"""The machine code of every kernel, as the launchers call them, for GPUs that need not be here.

`compile_kernels.py` compiles in a process of its own: in this one, Triton may be interpreting.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TARGETS = ["sm_90", "gfx942"]
OTHERS = ["sm_80", "sm_100", "sm_120", "gfx90a", "gfx1100"]
# Of a thread that selects, one of 256: NVIDIA's processor has 65,536. CDNA could hold two such
# programs, and a thread of RDNA 3 cannot have more.
REGISTERS = 256
STREAMING_REGISTERS = 128  # of the other kernels, on every target

SCRIPT = Path(__file__).parents[2] / "helpers" / "compile_kernels.py"


def compiled(target: str, what: str, cache: Path) -> list[dict[str, Any]]:
    """A record of each kernel and variant; nothing comes from an earlier run."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton")
    from triton import backends

    backend = "nvidia" if target.startswith("sm") else "amd"
    if backend not in backends.backends:
        pytest.skip(f"this Triton has no {backend} backend")
    tools = Path(backends.__file__).parent / "nvidia" / "bin"
    missing = [t for t in ("ptxas", "cuobjdump", "nvdisasm") if not (tools / t).exists()]
    if backend == "nvidia" and missing:
        pytest.skip(f"this Triton comes without {', '.join(missing)}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), target, what],
        env={**environment, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def of(records: list[dict[str, Any]], *kernels: str) -> list[dict[str, Any]]:
    found = [r for r in records if r["kernel"].strip("_").removesuffix("_kernel") in kernels]
    assert found, f"{kernels} not among the kernels that were compiled"
    return found


@pytest.mark.parametrize(
    "target", [*TARGETS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_machine_code(target, tmp_path):
    records = compiled(target, "all", tmp_path)
    assert [r for r in records if r["stack"] or r["spills"]] == []

    draws = of(records, "draw")
    selecting = of(records, "draw", "bracket", "round")
    assert [r for r in selecting if r["registers"] > REGISTERS or r["threads"] > 256] == []
    streaming = of(records, "summarize", "write")
    assert [r for r in streaming if r["registers"] > STREAMING_REGISTERS] == []

    # What is written is not contract arithmetic: IEEE division is made of fused multiply-adds and
    # rounds correctly with them, and probabilities are held to the precision of fp32 only.
    assert [r for r in [*selecting, *of(records, "summarize")] if r["fused"]] == []

    # An unaligned vocabulary leaves the last tile alone without, a single block is too few.
    assert [r for r in streaming if r["vocab"] > 64 and 128 not in r["widths"]] == []
    aligned = [r for r in streaming if r["vocab"] % 16 == 0]
    assert [r for r in aligned if r["widths"] != [128]] == []
    aligned = [r for r in [*draws, *of(records, "round")] if r["vocab"] % 16 == 0]
    assert [r for r in aligned if 128 not in r["widths"]] == []

    # The draw reads back what other threads of its program wrote to global memory, and the bracket
    # writes twice. On NVIDIA every barrier orders that; on AMD the fences do that come with those
    # of `debug_barrier`, of which LLVM may join those of two branches.
    ordered = [*draws, *of(records, "bracket")]
    for record in ordered:
        elsewhere = {"_bracket_kernel"} if record in draws else {"settle", "trim"}
        if not record["every"]:  # top-n-sigma and typical are not compiled in
            elsewhere |= {"trim"} if record in draws else {"list_blocks", "collect"}
        if record["replacement"]:
            elsewhere |= {"take_token"}
        assert set(record["barriers_lost"]) == elsewhere
    if target.startswith("gfx"):
        assert all(0 < r["debug_barriers"] <= r["fences"] + 2 for r in ordered)
        assert all(r["fences"] > 0 for r in ordered)


@pytest.mark.parametrize("target", TARGETS)
def test_fused_multiply_adds_would_be_seen(target, tmp_path):
    records = compiled(target, "fused", tmp_path)
    for record in of(records, "summarize", "bracket", "round", "draw"):
        assert record["fused"] > 0, record["kernel"]
