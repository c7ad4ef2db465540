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

TARGETS = {  # two thoroughly, the others with a few variants that cover the kernels' branches
    "sm_90": "all",
    "gfx942": "all",
    "sm_80": "few",
    "sm_100": "few",
    "sm_120": "few",
    "gfx90a": "few",
    "gfx1100": "few",
}
# For 512 threads at a time on a processor, as 8 warps twice at 128 registers of 65,536: the draw's
# 512 threads are one program. CDNA has 512 registers a lane and two wavefronts of 64 in each of a
# compute unit's 4 SIMDs; RDNA 3 has 1,536 a lane and eight wavefronts of 32 in each of its 2.
REGISTERS = {"sm": 128, "gfx9": 512 // 2, "gfx11": 1536 // 8}
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


@pytest.mark.parametrize("target", TARGETS)
def test_machine_code(target, tmp_path):
    records = compiled(target, TARGETS[target], tmp_path)
    assert [r for r in records if r["stack"] or r["spills"]] == []

    draws = of(records, "draw")
    limit = next(v for k, v in REGISTERS.items() if target.startswith(k))
    assert [r for r in draws if r["registers"] > limit or r["threads"] > 512] == []
    streaming = of(records, "summarize", "write")
    assert [r for r in streaming if r["registers"] > STREAMING_REGISTERS] == []

    # What is written is not contract arithmetic: IEEE division is made of fused multiply-adds and
    # rounds correctly with them, and probabilities are held to the precision of fp32 only.
    assert [r for r in of(records, "summarize", "draw") if r["fused"]] == []

    # An unaligned vocabulary leaves the last tile alone without. Logits that the draw reads again
    # are 4 a thread. A row of a single block has too few for either.
    assert [r for r in streaming if r["vocab"] > 64 and 128 not in r["widths"]] == []
    aligned = [r for r in streaming if r["vocab"] % 16 == 0]
    assert [r for r in aligned if r["widths"] != [128]] == []
    bits = {"float32": 128, "bfloat16": 64, "float16": 64}
    aligned = [r for r in draws if r["vocab"] % 16 == 0]
    assert [r for r in aligned if bits[r["dtype"]] not in r["widths"]] == []

    # The draw reads back what other threads of its program wrote to global memory. On NVIDIA every
    # barrier orders that; on AMD the fences do that come with those of `debug_barrier`.
    assert [r for r in draws if r["barriers_lost"]] == []
    if target.startswith("gfx"):
        assert [r for r in draws if not 0 < r["debug_barriers"] <= r["fences"]] == []


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_fused_multiply_adds_would_be_seen(target, tmp_path):
    for record in of(compiled(target, "fused", tmp_path), "summarize", "draw"):
        assert record["fused"] > 0, record["kernel"]
