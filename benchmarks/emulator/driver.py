"""Triton's launches, taken over: `with emulate() as log: kernel[grid](cpu_tensors, ...)`.

Triton itself binds the arguments, specializes and compiles, for a GPU that need not be here; a
driver of our own takes what it would load and launch. Not for tensors on a GPU, nor where
TRITON_INTERPRET is set.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from .core import FINDING, KINDS, REGION, library
from .decode import Program, Unsupported
from .log import Finding, Launch, Log, describe

_MAX_SHARED = 232_448  # bytes, of an H100
_WRITTEN_AT = 29  # in a byte's shadow, see `Shadow` in core.cpp
_EMPTY = [
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch.Tensor, "new_empty"),
]
Mutate = Callable[[Program], np.ndarray] | None


class EmulationError(AssertionError):
    """A launch did what it must not do."""


@contextlib.contextmanager
def emulate(
    arch: int = 90,
    seed: int = 0,
    schedule: int = 0,
    races: bool = True,
    diverge: bool = False,
    perturb: float = 0.0,
    strict: bool = True,
    limit: int = 4_000_000_000,
    mutate: Mutate = None,
) -> Iterator[Log]:
    """Triton kernels that are launched within run in the emulator, on CPU tensors.

    Args:
        arch: 80 or 90, for which Triton compiles.
        seed: of the order of warps and programs, and of what registers and memory hold at first.
        schedule: 0 random turns, 1 a warp runs up to its barrier, 2 each instruction another warp.
        races: look for races and for reads of what nothing has written.
        diverge: lanes of a warp that have parted go on in a random order, not the rearmost first.
        perturb: relative error of approximate instructions (hardware has 2**-22).
        strict: raise `EmulationError` at an error; otherwise look into `log.errors`.
        limit: warp instructions of a launch after which it hangs.
        mutate: gives the code that is run instead of `program.code`; see `without_barrier`.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import CompiledKernel
    from triton.runtime import driver, jit

    log = Log(
        seed=seed,
        schedule=schedule,
        races=int(races),
        diverge=int(diverge),
        perturb=perturb,
        strict=strict,
        limit=limit,
        mutate=mutate,
    )
    if arch not in _DRIVERS:
        _DRIVERS[arch] = _Driver(GPUTarget("cuda", arch, 32)), {}
    ours, caches = _DRIVERS[arch]
    ours.log = log
    init = CompiledKernel._init_handles

    def remember(self: Any) -> None:
        ours.ptx[self.src] = self.asm["ptx"]
        init(self)
        self.module = None  # nothing to unload

    def swap(new: dict) -> dict:
        """Kernels compiled for one target do not serve another."""
        kernels = list(jit._triton_jit_function_registry.values())
        old = {kernel: dict(kernel.device_caches) for kernel in kernels}
        for kernel in kernels:
            kernel.device_caches.clear()
            kernel.device_caches.update(new.get(kernel, {}))
        return old

    def poisoned(make: Callable) -> Callable:
        return lambda *args, **named: _poison(log, make(*args, **named))

    made = [(owner, name, getattr(owner, name)) for owner, name in _EMPTY]
    before = driver._active
    for owner, name, make in made:
        setattr(owner, name, poisoned(make))
    driver.set_active(ours)
    CompiledKernel._init_handles = remember
    others = swap(caches)
    try:
        yield log
    finally:
        for owner, name, make in made:
            setattr(owner, name, make)
        caches.update(swap(others))
        CompiledKernel._init_handles = init
        driver._active = before
        ours.log = None


def without_barrier(program: Program, number: int) -> np.ndarray:
    """A program's code without one of its `bar.sync`."""
    code = program.code.copy()
    at = [k for k, text in enumerate(program.text) if text.startswith("bar.sync")][number]
    code["op"][at] = library().emu_op(b"nop")
    return code


def _poison(log: Log, tensor: torch.Tensor) -> torch.Tensor:
    """Fill a tensor with -1, a NaN; reading it before a kernel writes it is a finding."""
    raw = tensor.untyped_storage()
    ctypes.memset(raw.data_ptr(), 0xFF, raw.nbytes())
    log.fresh[raw.data_ptr()] = raw.nbytes()
    log.held.append(tensor)
    return tensor


class _Driver:
    """What Triton asks of a driver, for a GPU that is not here."""

    def __init__(self, target: Any):
        self.target = target
        self.log: Any = None  # of the `emulate()` that is active
        self.ptx: dict[Any, str] = {}  # of compiled kernels, by their source
        self.programs: dict[str, Program] = {}
        properties = {
            "max_shared_mem": _MAX_SHARED,
            "multiprocessor_count": 132,
            "max_num_regs": 65536,
            "warpSize": 32,
            "sm_clock_rate": 1,
            "mem_clock_rate": 1,
            "mem_bus_width": 1,
        }
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: properties,
            load_binary=lambda name, binary, shared, device: (0, 0, 0, 0, 1024),
            unload_module=lambda module: None,
        )

    def launcher_cls(self, src: Any, metadata: Any) -> Callable:
        return lambda *args: self.launch(src, metadata, *args)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_capability(self, *_: Any) -> tuple[int, int]:
        return divmod(self.target.arch, 10)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def launch(self, src: Any, metadata: Any, gx: int, gy: int, gz: int, *rest: Any) -> None:
        args = rest[6:]  # after stream, function, metadata and hooks
        log, options = self.log, self.log.options
        ptx = self.ptx[src]
        if ptx not in self.programs:
            self.programs[ptx] = Program(ptx)
        program = self.programs[ptx]
        if metadata.global_scratch_size or metadata.profile_scratch_size:
            raise Unsupported("scratch memory")
        passed = list(_flat(src.signature, args))
        regions, owners, held = self._regions(passed, log)
        params = _pack(program, passed)
        code = options["mutate"](program) if options["mutate"] else program.code
        counts = [np.zeros(len(code), np.uint64) for _ in range(5)]
        found, number = np.zeros(512, FINDING), ctypes.c_uint32()
        log.launched += 1
        words = (gx, gy, gz, program.threads, metadata.shared, program.local_size)
        library().emu_run(
            _address(code), ctypes.c_uint32(len(code)),
            _address(program.init), ctypes.c_uint32(program.size),
            ctypes.c_uint32(program.const_off), (ctypes.c_char * len(params)).from_buffer(params),
            *map(ctypes.c_uint32, words),
            _address(regions), ctypes.c_uint32(len(regions)),
            ctypes.c_uint64(options["seed"] * 1000003 + log.launched),
            ctypes.c_uint32(options["schedule"]), ctypes.c_uint32(options["races"]),
            ctypes.c_uint32(1), ctypes.c_uint32(options["diverge"]),
            ctypes.c_double(options["perturb"]), ctypes.c_uint64(options["limit"]),
            *map(_address, counts),
            _address(found), ctypes.c_uint32(len(found)), ctypes.byref(number),
        )  # fmt: skip
        if options["races"]:
            self._remember_writes(log, regions, held)
        findings = [_finding(record, program, owners) for record in found[: number.value]]
        hits, *_, moved = counts  # lanes, what they ask for, and sectors between
        grid = gx, gy, gz
        launch = Launch(program.name, grid, program.threads, program, hits, moved, findings)
        log.append(launch)
        if launch.errors and options["strict"]:
            raise EmulationError("\n".join(describe(found) for found in launch.errors[:8]))

    def _regions(
        self, passed: list[tuple[str, str, Any]], log: Log
    ) -> tuple[np.ndarray, list[str], list[tuple[np.ndarray, np.ndarray]]]:
        """Memory that the kernel may touch: its storages, their names, and the state of each byte.

        A byte's state: 1 is an element of a tensor, 2 has not been written; and what the race
        check keeps of it.
        """
        storages: dict[int, tuple[int, list[tuple[str, torch.Tensor]]]] = {}
        for name, _, arg in passed:
            if isinstance(arg, torch.Tensor) and arg.untyped_storage().nbytes():
                raw = arg.untyped_storage()
                storages.setdefault(raw.data_ptr(), (raw.nbytes(), []))[1].append((name, arg))
        regions, names, held = np.zeros(len(storages), REGION), [], []
        races = log.options["races"]
        for number, (base, (size, views)) in enumerate(sorted(storages.items())):
            state = np.zeros(size, np.uint8)
            for _, tensor in views:
                _mark_elements(tensor, state, base)
            if base in log.fresh:
                state |= np.where(log.written.get(base, np.zeros(size, bool)), 0, 2).astype("u1")
            shadow = np.zeros(size * library().emu_shadow_size() if races else 1, np.uint8)
            where = shadow.ctypes.data if races else 0
            regions[number] = (base, size, state.ctypes.data, where, number, 0)
            names.append(", ".join(name for name, _ in views))
            held.append((state, shadow))
        return regions, names, held

    @staticmethod
    def _remember_writes(log: Log, regions: np.ndarray, held: list) -> None:
        """What has been written is written for the launches to come."""
        for region, (_, shadow) in zip(regions, held, strict=True):
            base, size = int(region["base"]), int(region["size"])
            if base in log.fresh:
                done = shadow.reshape(size, -1)[:, _WRITTEN_AT] != 0
                log.written[base] = done | log.written.get(base, np.zeros(size, bool))


_DRIVERS: dict[int, tuple[_Driver, dict]] = {}  # and what each kernel's own cache holds for it


def _flat(signature: Any, args: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Name, kind and value of each argument that the machine code takes; tuples field by field."""
    kinds = signature.values() if isinstance(signature, dict) else signature
    names = signature if isinstance(signature, dict) else getattr(args, "_fields", range(len(args)))
    for name, kind, arg in zip(names, kinds, args, strict=True):
        if isinstance(kind, tuple):
            yield from _flat(kind, arg, f"{prefix}{name}.")
        elif kind != "constexpr":
            yield f"{prefix}{name}", kind, arg


def _pack(program: Program, passed: list[tuple[str, str, Any]]) -> bytearray:
    """The arguments as the machine code finds them; two addresses behind them are not used."""
    params = bytearray(max(1, program.param_size))
    for (_, at, size), (_, kind, arg) in zip(program.params, passed, strict=False):
        value = arg.data_ptr() if isinstance(arg, torch.Tensor) else arg
        if kind in ("fp32", "fp64"):
            data = struct.pack("<f" if kind == "fp32" else "<d", value)
        elif kind in ("fp16", "bf16"):
            raise Unsupported(f"an argument of {kind}")
        else:
            data = (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        params[at : at + size] = data
    return params


def _mark_elements(tensor: torch.Tensor, state: np.ndarray, base: int) -> None:
    """Mark the bytes of a tensor's elements in its storage."""
    if tensor.numel() == 0:
        return
    size = tensor.element_size()
    strides = [stride * size for stride in tensor.stride()]
    first = state[tensor.data_ptr() - base :]
    np.lib.stride_tricks.as_strided(first, (*tensor.shape, size), (*strides, 1))[...] |= 1


def _finding(record: np.void, program: Program, names: list[str]) -> Finding:
    found: Finding = {name: int(record[name]) for name in FINDING.names or ()}
    found["kind"], found["kernel"] = KINDS[found["kind"]], program.name
    for pc, at, text in (("pc", "at", "text"), ("pc2", "at2", "text2")):
        if found[pc] < len(program.code):
            file, line = program.where[found[pc]]
            found[at], found[text] = f"{Path(file).name}:{line}", program.text[found[pc]]
    if found["region"] < len(names) and "global" in found.get("text", ""):
        found["tensor"] = names[found["region"]]
    return found


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
