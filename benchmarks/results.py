"""What is written down: a row for each implementation in each cell, and where it was measured."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..dispatch import choose_backend
from ..views.environment import installed

FLOOR = "floor"  # one read of the logits; a row of its own in every cell
PACKAGES = (
    "fused-sampler",
    "torch",
    "triton",
    "numba",
    "transformers",
    "xllamacpp",
    "flashinfer",
    "vllm",
)


@dataclass(frozen=True)
class Row:
    """One implementation in one cell; None where something was not measured."""

    logits: str
    case: str
    vocab: int
    batch: int
    dtype: str
    name: str
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    calls: int = 0  # that were timed
    ratio: float | None = None  # its median over ours: how many times faster ours is
    floor_ratio: float | None = None  # its median over that of one read of the logits
    gb_per_s: float | None = None  # bytes of the logits over its median
    extra_bytes: int | None = None  # most memory in use beyond the logits, by PyTorch's books
    launches: int | None = None  # CPU: dispatched operations, GPU: kernels
    differing_tokens: int | None = None  # from the contract's kept set, in the checked rows
    beyond_ties: int | None = None  # of these, not tied with the boundary
    kept_tokens: int | None = None  # by the contract, in the checked rows
    note: str = ""  # why it was not timed


def facts(device: torch.device, command: str) -> dict[str, Any]:
    """The machine and what is installed on it."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "commit": _commit(),
        "device": device.type,
        "backend": choose_backend("auto", device),  # as ours takes it
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: found for package in PACKAGES if (found := installed(package))},
    }


def group_by(rows: Iterable[Row], *names: str) -> dict[tuple, list[Row]]:
    """The rows by the values of these fields, in the order of their first."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return groups


def write_results(folder: Path, run: dict[str, Any], rows: list[Row]) -> list[Path]:
    """`results.csv`, a line for each row, and `results.json` with the facts of the run as well."""
    table, everything = folder / "results.csv", folder / "results.json"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    content = {"run": run, "rows": [asdict(row) for row in rows]}
    everything.write_text(json.dumps(content, indent=1) + "\n")
    return [table, everything]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _commit() -> str | None:
    """Of the checkout that this file belongs to, "+ changes" where it is not clean."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not installed in another's folder
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return git("rev-parse", "--short=12", "HEAD") + (" + changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
