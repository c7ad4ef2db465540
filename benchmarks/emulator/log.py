"""What an emulated launch did: its counts, and what was found wrong."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .core import NOTES
from .decode import Program

_SCHEDULERS = 4  # of a processor, an instruction a cycle each
_LOADS, _STORES = ("ld.global", "ld.b"), ("st.global", "st.b")
Finding = dict[str, Any]


@dataclass
class Launch:
    """One launch. Counts are exact: one for each instruction of the program, over all warps."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    program: Program
    hits: np.ndarray  # warps that ran it
    moved: np.ndarray  # bytes of global memory, those that lanes of a warp share counted once
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [found for found in self.findings if found["kind"] not in NOTES]

    @property
    def programs(self) -> int:
        return int(np.prod(self.grid))

    @property
    def warp_instructions(self) -> int:
        return int(self.hits.sum())

    @property
    def bytes_read(self) -> int:
        return self._count(self.moved, *_LOADS)

    @property
    def bytes_written(self) -> int:
        return self._count(self.moved, *_STORES)

    @property
    def barriers(self) -> float:
        """That a warp waits at, on average."""
        return self._count(self.hits, "bar.sync") / (self.programs * -(-self.threads // 32))

    def cycles(self, processors: int = 132) -> float:
        """Issue cycles of the busiest processor: warp instructions over its four schedulers.

        Programs are taken as alike. Waiting, for memory or for one another, is not in it.
        """
        turns = -(-self.programs // processors)
        return self.warp_instructions / self.programs * turns / _SCHEDULERS

    def by_line(self) -> list[tuple[str, int]]:
        """Warp instructions by line of the source, most first."""
        count: Counter[str] = Counter()
        for (file, line), hits in zip(self.program.where, self.hits, strict=True):
            count[f"{Path(file).name}:{line}"] += int(hits)
        return count.most_common()

    def _count(self, what: np.ndarray, *starts: str) -> int:
        plain = [re.sub(r"^@!?%\w+\s+", "", text) for text in self.program.text]
        return int(what[[text.startswith(starts) for text in plain]].sum())


class Log(list[Launch]):
    """The launches of an `emulate()`, in order."""

    def __init__(self, **options: Any):
        super().__init__()
        self.options = options
        self.launched = 0
        self.fresh: dict[int, int] = {}  # address: bytes of memory that came uninitialised
        self.written: dict[int, np.ndarray] = {}  # address: which of its bytes have been since
        self.held: list[Any] = []  # tensors whose addresses these are

    @property
    def errors(self) -> list[Finding]:
        return [found for launch in self for found in launch.errors]


def describe(found: Finding) -> str:
    """A finding in a line."""
    where = f"{found['kernel']} {found.get('at', '?')} [{found.get('text', '')}]"
    if "race" in found["kind"] or "between" in found["kind"]:
        where += f" with {found.get('at2')} [{found.get('text2')}]"
    return (
        f"{found['kind']}: {where}, tensor {found.get('tensor', '-')}, byte {found['offset']}, "
        f"program {found['cta'] - 1}, threads {found['thread']} and {found['thread2']}, "
        f"{found['count']} times"
    )
