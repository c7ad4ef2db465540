"""Compile the kernels as the launchers call them and print, in JSON, what the machine code holds.

    python compile_kernels.py TARGET (all | fused)

TARGET: sm_90, gfx942, ...; no GPU is needed. all: every variant. fused: one call, with fused
multiply-add on, which it must not be.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from fused_sampler import Edits, History
from fused_sampler.contract.draws import resolve_draws
from fused_sampler.edits.resolve import RowEdits, resolve_edits
from fused_sampler.kernels.gpu import launch
from fused_sampler.params import resolve_rows
from fused_sampler.slots import Slots

MORE = {  # parameters that are not compiled in where no row uses them
    "temperature_last": True,
    "top_n_sigma": 2.0,
    "top_h": 0.9,
    "typical_p": 0.9,
    "epsilon_cutoff": 3e-4,
    "eta_cutoff": 3e-4,
    "top_a": 0.2,
    "xtc_probability": 0.5,
}


class Case(NamedTuple):
    """A call of a launcher."""

    call: str = "sample"
    dtype: torch.dtype = torch.float32
    vocab: int = 128_256  # 2,004 blocks: one a group
    info: bool = False
    per_row: bool = False  # parameters and seeds are [B] tensors, not numbers
    every: bool = False  # every filter, those too that are not compiled in where no row uses them
    top_k: int = 50  # 0, with the top-p that all have: many programs select
    stride: int = 0  # of a row; 0: the vocabulary
    batch: int = 4
    slots: bool = False  # these are tables
    edited: bool = False  # with a mask, bias, penalties and DRY
    replacement: bool = True
    only: str = ""  # the one kernel of interest


BF16, FP16 = torch.bfloat16, torch.float16
FUSED = [Case(info=True, per_row=True, top_k=0)]
WRITES = [
    Case("softmax", only="_write_kernel"),
    Case("mask_logits", BF16, per_row=True, only="_write_kernel"),
]
EVERY = Case(info=True, per_row=True, every=True, top_k=0)
EDITED = Case(info=True, edited=True)
WIDE = Case(dtype=BF16, vocab=262_144)  # two blocks a group
ALL = [
    *FUSED,
    WIDE,
    WIDE._replace(replacement=False, only="_draw_kernel"),
    *WRITES,
    EVERY,
    EDITED,
    WIDE._replace(per_row=True, slots=True, edited=True, top_k=0),
    Case("mask_logits", BF16, edited=True, only="_write_kernel"),
    Case(dtype=FP16, info=True),
    Case(dtype=FP16, vocab=50, per_row=True),  # a single block
    Case(dtype=BF16, vocab=262_144, info=True, per_row=True, top_k=0),
    Case(vocab=128_255, stride=128_256, only="_summarize_kernel"),
    Case(dtype=BF16, vocab=128_255, stride=128_256, only="_summarize_kernel"),
    *(case._replace(dtype=FP16) for case in WRITES),
]
# Logits beyond what AMD's buffer loads can address
LARGE = Case(batch=2**31 // 4 // 128_256 + 1, top_k=0)

FUSED_MULTIPLY_ADD = re.compile(
    r"\b(?:FFMA|v_(?:dual_|pk_)?(?:fma|mad|mac)[a-z_]*f32)\S* [^,]+, ([^,]+), ([^,;\n]+)"
)
# With such a factor the instruction rounds once, as a move, an addition or a conversion does: ptxas
# moves so in divisions of fp64, LLVM widens fp16 and adds 0 so.
NO_FACTOR = {"RZ", "0", "1", "1.0"}


def launches(case: Case, target: GPUTarget) -> list[tuple[JITFunction, dict[str, Any]]]:
    """Kernels and their arguments by name, as a launcher passes them; nothing runs."""
    found = []

    class Recorder:
        def __init__(self, kernel: JITFunction) -> None:
            self.kernel = kernel

        def __getitem__(self, grid):
            return self.record

        def record(self, *args, **named) -> None:
            named.update(zip(self.kernel.arg_names, args, strict=False))
            found.append((self.kernel, named))

    logits = torch.empty(case.batch, case.stride or case.vocab, dtype=case.dtype)  # never touched
    logits = logits[:, : case.vocab]
    params = {"temperature": 0.8, "top_k": min(case.top_k, case.vocab), "top_p": 0.9, "min_p": 0.1}
    seed = 2**62
    if case.every:
        params |= MORE
    if case.per_row:
        params = {name: torch.tensor([value] * case.batch) for name, value in params.items()}
        seed = torch.tensor([seed] * case.batch)
    lines = None
    if case.slots:
        lines = Slots(torch.zeros(case.batch, dtype=torch.int32), case.batch)
    rows = resolve_rows(logits, slots=lines, **params)
    more = {"replacement": case.replacement, "slots": lines}
    draws = resolve_draws(seed, 3, 2, None, case.batch, logits.device, **more)
    edits = edits_of(logits, case) if case.edited else None
    replaced = {n: Recorder(k) for n, k in vars(launch).items() if isinstance(k, JITFunction)}
    with mock.patch.multiple(launch, **replaced, _warp_size=lambda device: target.warp_size):
        if case.call == "sample":
            launch.sample(logits, rows, draws, case.info, edits)
        elif edits is not None:
            launch.mask_logits(logits, rows, draws, edits)
        else:
            getattr(launch, case.call)(logits, rows)
    return [(k, values) for k, values in found if case.only in k.__name__]


def edits_of(logits: torch.Tensor, case: Case) -> RowEdits | None:
    """All that there are."""
    batch, vocab = logits.shape
    numbers = {"repetition_penalty": 1.1, "frequency_penalty": 0.5, "dry_multiplier": 0.8}
    if case.per_row:
        numbers = {name: torch.tensor([value] * batch) for name, value in numbers.items()}
    allowed = torch.zeros(batch, -(-vocab // 32), dtype=torch.int32)
    history = History(torch.zeros(batch, 100, dtype=torch.int32))
    given = Edits(allowed=allowed, logit_bias={7: 1.0}, history=history, **numbers)
    return resolve_edits(given, logits, step=0, validate=False)


def specialized(kernel: JITFunction, values: dict[str, Any], target: GPUTarget) -> ASTSource:
    """The source with types, constants and attributes as `kernel[grid](...)` would give it."""
    signature, constants, attributes = {}, {}, {}

    def describe(path: tuple[int, ...], value: Any, kind: Any, specialize: bool) -> None:
        if isinstance(kind, tuple):  # a NamedTuple: Triton specializes what is in it, come what may
            for i, pair in enumerate(zip(value, kind, strict=True)):
                describe((*path, i), *pair, True)
        elif kind == "constexpr":  # None, and an integer 1, too
            constants[path] = value
        elif specialize and not isinstance(value, float):
            tensor = isinstance(value, torch.Tensor)
            attributes[path] = []
            if (value.data_ptr() if tensor else value) % 16 == 0:
                attributes[path].append(["tt.divisibility", 16])
            if target.backend == "hip" and tensor and value.untyped_storage().nbytes() < 2**31:
                attributes[path].append(["tt.pointer_range", 32])

    for i, parameter in enumerate(kernel.params):
        value, specialize = values[parameter.name], not parameter.do_not_specialize
        kind = "constexpr" if parameter.is_constexpr else mangle_type(value, specialize)
        signature[parameter.name] = kind
        describe((i,), value, kind, specialize)
    return ASTSource(kernel, signature, constants, attributes)


def source_lines(pattern: str) -> set[tuple[str, int]]:
    """File and number of the kernels' lines at which a pattern begins."""
    found = set()
    for file in Path(launch.__file__).parent.glob("*.py"):
        text = file.read_text()
        starts = (match.start() for match in re.finditer(pattern, text))
        found |= {(str(file), text.count("\n", 0, start) + 1) for start in starts}
    return found


LOADS = source_lines(r"tl\.load\(")
LOADS_OF_LOGITS = source_lines(r"tl\.load\(\s*(?:logits|row)_ptr")
BARRIERS = source_lines(r"tl\.debug_barrier\(\)")


def function_at(file: str, number: int) -> str:
    """The kernels' function that a line belongs to."""
    before = "".join(Path(file).read_text().splitlines(keepends=True)[:number])
    return re.findall(r"^def (\w+)", before, re.MULTILINE)[-1]


def loads_logits(file: str, number: int) -> bool:
    """Whether a load that is said to come from this line is one of logits.

    On NVIDIA a load is several lines of inline assembly, which count as lines of the source.
    """
    starts = [(other, start) for other, start in LOADS if other == file and start <= number]
    return max(starts, default=None) in LOADS_OF_LOGITS


def located(code: str) -> Iterator[tuple[str, int, str]]:
    """Lines of disassembly with the file and line of the source that they come from."""
    files, file, number = {}, "", 0
    for line in code.splitlines():
        if place := re.match(r'\s*//## File "(.+?)", line (\d+)', line):  # nvdisasm
            file, number = place[1], int(place[2])
        elif place := re.match(r'\s*\.file\s+(\d+) "(.+?)" "(.+?)"', line):  # LLVM
            files[place[1]] = str(Path(place[2], place[3]))
        elif place := re.match(r"\s*\.loc\s+(\d+) (\d+)", line):
            file, number = files.get(place[1], ""), int(place[2])
        else:
            yield file, number, line


def of_any_target(code: str) -> dict[str, Any]:
    """Fused multiply-adds, widths in bits of the loads of logits, and barriers that are missing."""
    factors = ({f.strip(" -|") for f in both} for both in FUSED_MULTIPLY_ADD.findall(code))
    widths, barriers = set(), set()
    for file, number, line in located(code):
        load = re.search(r"\b(?:LDG\.|(?:global|buffer|flat)_load_)\S+", line)
        if load and loads_logits(file, number):
            wide = re.search(r"(?:x|b|\.)(2|4|64|128)\b", load[0])
            widths.add({"2": 64, "4": 128}.get(wide[1]) or int(wide[1]) if wide else 32)
        elif re.search(r"\bBAR\.SYNC|\bs_barrier", line):
            barriers.add((file, number))
    return {
        "fused": sum(not both & NO_FACTOR for both in factors),
        "widths": sorted(widths),
        "barriers_lost": sorted({function_at(*place) for place in BARRIERS - barriers}),
    }


def nvidia_code(asm: dict[str, Any]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(asm["cubin"])

        def output(tool: str, flag: str) -> str:
            command = [tool, flag, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = dict(re.findall(r"(\w+):(\d+)", output(knobs.nvidia.cuobjdump.path, "-res-usage")))
        code = output(knobs.nvidia.nvdisasm.path, "-g")
    spills = len(re.findall(r"\b(?:STL|LDL)\b", code))
    # LLVM may reserve two bytes for a vector of booleans and then do without.
    touched = spills or "[%SP" in asm["ptx"]
    return {
        "registers": int(usage["REG"]),
        "stack": int(usage["STACK"]) + int(usage["LOCAL"]) if touched else 0,
        "spills": spills,
        **of_any_target(code),
    }


def amd_code(asm: dict[str, Any]) -> dict[str, Any]:
    code = asm["amdgcn"]

    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s*(\d+)", code)[1])

    spills = field("vgpr_spill_count")  # scalar registers spill to vector ones, not to memory,
    touched = spills or "alloca" in asm["llir"]  # but LLVM then reserves what it would have taken
    return {
        "registers": field("vgpr_count"),  # on CDNA, accumulation registers too
        "stack": field("private_segment_fixed_size") if touched else 0,
        "spills": spills,
        # `debug_barrier` orders global memory; a reduction's barriers need not, and have an `mmra`.
        "debug_barriers": len(re.findall(r"ttg\.barrier all|gpu\.barrier", asm["ttgir"])),
        "fences": len(re.findall(r"fence [^\n]*release(?![^\n]*mmra)", asm["llir"])),
        **of_any_target(code),
    }


def machine_code(case: Case, target: GPUTarget, fuse: bool) -> Iterator[dict[str, Any]]:
    """A record for each kernel that a call launches."""
    for kernel, values in launches(case, target):
        options = {k: v for k, v in values.items() if k not in kernel.arg_names}
        options["enable_fp_fusion"] |= fuse
        asm = triton.compile(specialized(kernel, values, target), target, options).asm
        yield {
            "kernel": kernel.__name__,
            **case._asdict(),
            "dtype": str(case.dtype).split(".")[1],
            "threads": options["num_warps"] * target.warp_size,
            **(nvidia_code(asm) if target.backend == "cuda" else amd_code(asm)),
        }


if __name__ == "__main__":
    name, what = sys.argv[1:]
    if name.startswith("sm_"):
        target = GPUTarget("cuda", int(name[3:]), 32)
    else:
        target = GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)
    cases = {"all": ALL, "fused": FUSED}[what]
    if what == "all" and target.backend == "hip":
        cases = [*cases, LARGE]
    print(json.dumps([r for case in cases for r in machine_code(case, target, what == "fused")]))
