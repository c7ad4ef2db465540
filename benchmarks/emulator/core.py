"""The core that runs instructions, built from `core.cpp`; the records it shares with Python."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ...models.embedded import cache_dir

_SOURCE = Path(__file__).with_name("core.cpp")
_FLAGS = [
    *("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"),
    *("-ffp-contract=off", "-fno-strict-aliasing"),
]

INSTRUCTION = np.dtype(
    [
        ("op", "u4"),
        ("pred", "i4"),
        ("pneg", "u4"),
        ("d", "u4", 4),
        ("s", "u4", 4),
        *((name, "u4") for name in ("dw", "sw", "n", "es", "sx", "tgt", "flags")),
        ("imm", "i8"),
    ],
    align=True,
)
REGION = np.dtype(
    [
        *((name, "u8") for name in ("base", "size", "allowed", "sh")),
        *((name, "u4") for name in ("id", "tracked")),
    ],
    align=True,
)
FINDING = np.dtype(
    [
        *((name, "u4") for name in ("kind", "pc", "pc2", "cta", "thread", "thread2", "region")),
        *((name, "u8") for name in ("offset", "count")),
    ],
    align=True,
)
KINDS = (  # of findings, in the core's order
    "",
    "out of bounds",
    "misaligned",
    "shared race",
    "global race",
    "race of programs",
    "uninitialised shared read",
    "uninitialised global read",
    "access between a tensor's elements",
    "barrier at several places",
    "deadlock",
    "hang",
    "warp operation without all lanes",
    "shared memory out of bounds",
    "between lanes of a warp, shared",
    "between lanes of a warp, global",
    "race writing the same value",
    "two lanes store different values",
    "trap",
)
# Fine on hardware that keeps a warp together, or where the value read is not used: no errors.
NOTES = {
    "between lanes of a warp, shared",
    "between lanes of a warp, global",
    "uninitialised shared read",
    "race writing the same value",
}


def missing() -> str | None:
    """Why the core cannot be built here, with the remedy; None if it can."""
    if shutil.which("g++") is None:
        return "the emulator's core is compiled by g++, which is not on the PATH; install g++."
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """The core; compiled once on a machine, in some 20 seconds. Raises RuntimeError."""
    reason = missing()
    if reason:
        raise RuntimeError(reason)
    # The name says for what it was compiled: the source, the flags and the processor.
    machine = subprocess.run(["g++", "-march=native", "-Q", "--help=target"], capture_output=True)
    key = _SOURCE.read_bytes() + machine.stdout + " ".join(_FLAGS).encode()
    folder = cache_dir() / "emulator"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp())
    built = folder / f"{hashlib.sha256(key).hexdigest()[:16]}.so"
    if not built.exists():
        part = built.with_suffix(f".{os.getpid()}.so")
        subprocess.run(["g++", *_FLAGS, str(_SOURCE), "-o", str(part)], check=True)
        part.replace(built)
    core = ctypes.CDLL(str(built))
    core.emu_sig.restype = ctypes.c_char_p
    core.emu_run.restype = ctypes.c_uint64
    if core.emu_ins_size() != INSTRUCTION.itemsize:
        raise RuntimeError("core.cpp and core.py disagree about an instruction's layout.")
    return core
