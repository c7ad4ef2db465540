"""The machine code that Triton compiles for NVIDIA GPUs, run on a CPU, without a GPU.

    with emulate(arch=90) as log:
        sample(cpu_logits, backend="triton")        # or any kernel, launched as ever
    log[0].cycles(), log[0].by_line()[:10], log.errors

`decode.py` reads the PTX; an instruction that it does not know raises `Unsupported`. `core.cpp`
runs it, 32 lanes at a time: lanes that part go on apart until they meet, and between barriers the
warps take turns at random. `driver.py` stands in Triton's place, `log.py` holds what was counted.

Errors that are found, whatever the order in which warps happened to run: accesses out of bounds,
misaligned or between a tensor's elements; races within a program and between programs; reads of
what nothing has written; warp-wide instructions and barriers that not all lanes reach; deadlocks.

Floating point is IEEE; approximate instructions are exact, or off by `perturb`. Not known are
tensor cores, asynchronous copies, clusters and named barriers. What `ptxas` makes of the code is
not seen, and time is not modelled: instructions are counted exactly, what they wait for is not.
"""

from __future__ import annotations

from .core import missing
from .driver import EmulationError, emulate, without_barrier
from .log import Launch, describe

__all__ = ["EmulationError", "Launch", "describe", "emulate", "missing", "without_barrier"]
