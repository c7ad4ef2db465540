"""Run kernels in the emulator and print what came of it, in JSON: python emulate_kernels.py WHAT

A process of its own, because the tests' own lets Triton interpret.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from fused_sampler import kernels, mask_logits, sample
from fused_sampler.benchmarks.cycles import count
from fused_sampler.benchmarks.emulator import emulate, without_barrier
from fused_sampler.params import RECORDS

kernels.unavailable = lambda *_: None  # the emulator takes tensors on the CPU


@triton.jit
def scan(x_ptr, out_ptr, n, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(out_ptr + i, tl.cumsum(x, 0) + tl.max(x, 0), mask=i < n)


@triton.jit
def exchange(x_ptr, out_ptr, SIZE: tl.constexpr):
    """Every thread reads what another warp has written."""
    i = tl.arange(0, SIZE)
    tl.store(out_ptr + i, tl.load(x_ptr + i))
    tl.debug_barrier()
    tl.store(out_ptr + SIZE + i, tl.load(out_ptr + SIZE - 1 - i))


@triton.jit
def collide(out_ptr):
    tl.store(out_ptr, tl.program_id(0))


def findings() -> dict[str, Any]:
    """What is right, and for each kernel that is not the kinds of error that are found."""
    found: dict[str, Any] = {}

    def kinds(name: str, launch, **options: Any) -> None:
        with emulate(strict=False, **options) as log:
            launch()
        found[name] = sorted({error["kind"] for error in log.errors})

    x = torch.randn(256)
    out = torch.zeros(512)
    with emulate() as log:
        scan[(1,)](x, out, 200, SIZE=256, num_warps=4)
    exact = x[:200].cumsum(0) + x[:200].max()
    found["close"] = torch.allclose(out[:200], exact, atol=1e-4)  # another order of summation
    found["untouched"] = bool((out[200:] == 0).all())
    found["bytes"] = [log[0].bytes_read, log[0].bytes_written]
    found["launch"] = [log[0].programs, log[0].barriers >= 1, log[0].cycles() > 0]

    kinds("right", lambda: exchange[(1,)](x, out, SIZE=256, num_warps=4))
    found["reversed"] = torch.equal(out[256:], x.flip(0))
    kinds(
        "no barrier",
        lambda: exchange[(1,)](x, out, SIZE=256, num_warps=4),
        mutate=lambda program: without_barrier(program, 0),
    )
    kinds("beyond", lambda: scan[(1,)](x, out[:100].clone(), 200, SIZE=256, num_warps=4))
    wide = torch.zeros(4, 100)[:, :64]
    kinds("gap", lambda: scan[(1,)](wide[0], wide, 70, SIZE=128, num_warps=4))
    kinds("unwritten", lambda: scan[(1,)](torch.empty(256), out, 200, SIZE=256, num_warps=4))
    kinds("programs", lambda: collide[(4,)](torch.zeros(1, dtype=torch.int32), num_warps=1))
    return found


PARAMS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"top_k": 1},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 700, "temperature": 1.2},
    {"top_p": 0.9},
    {"top_p": 0.97, "min_p": 0.001, "temperature": 1.4},
    {"min_p": 0.05},
    {"epsilon_cutoff": 1e-3},
    {"eta_cutoff": 1e-3},
    {"top_n_sigma": 2.0, "temperature": 1.2},
    {"top_n_sigma": 2.5, "top_p": 0.95, "top_a": 0.1},
    {"top_k": 3000, "top_p": 0.99, "min_p": 0.01, "epsilon_cutoff": 1e-4},
    {"top_h": 0.6},
    {"top_h": 0.9, "top_p": 0.9, "typical_p": 0.8},
    {"typical_p": 0.9},
    {"typical_p": 0.3, "temperature": 1.5, "top_a": 1e-4, "xtc_probability": 1.0},
    {"temperature": 2.0, "temperature_last": True, "top_p": 0.9},
    {"xtc_probability": 0.5, "xtc_threshold": 1e-3, "mirostat_mu": 9.0},
    {
        "temperature": torch.tensor([0.7, 0.0, 1.4, 1.0]),
        "top_k": torch.tensor([50, 0, 3000, 5]),
        "top_p": torch.tensor([0.9, 1.0, 0.95, 0.8]),
        "min_p": torch.tensor([0.0, 0.05, 0.1, 0.0]),
        "eta_cutoff": torch.tensor([0.02, 0.0, 0.0, 0.1]),
    },
]


def rows(vocab: int, seed: int) -> torch.Tensor:
    """Four rows: random, tied, flat and one with a NaN."""
    x = torch.randn(4, vocab, generator=torch.Generator().manual_seed(seed)) * 3
    x[1] = x[1].round()
    x[2] = x[2] * 0.01
    x[3, vocab // 2] = torch.nan
    return x


def edits_of(vocab: int, seed: int) -> dict[str, Any]:
    """Some for four rows: a mask, bias, penalties, tokens close together and far apart."""
    generator = torch.Generator().manual_seed(seed)
    near, far = (torch.randint(-1, size, (4, 600), generator=generator) for size in (99, vocab))
    return {
        "allowed": torch.rand(4, vocab, generator=generator) < 0.9,
        "logit_bias": {token: token / 7 - 3 for token in range(seed, vocab, 97)},
        "prompt_ids": torch.cat((near, far), dim=1),
        "output_ids": far[:, ::2],
        "repetition_penalty": by_row(1.2),
        "frequency_penalty": by_row(0.4),
        "presence_penalty": by_row(-0.3),
        "dry_multiplier": by_row(0.8),
        "dry_allowed_length": 1,
    }


def differences(
    arch: int,
    vocab: int,
    dtype: torch.dtype,
    names: Collection[str],
    write: bool,
    edited: bool = False,
) -> Iterator[str]:
    """Calls whose results are not the textbook's, and errors that the emulator found.

    Every parameter that has a name here is a tensor, so that the kernels are compiled once for all.
    """
    for number, params in enumerate(p for p in PARAMS if p.keys() <= set(names)):
        x = rows(vocab, number).to(dtype)
        edits = edits_of(vocab, number) if edited else {}
        columns = {name: by_row(params.get(name, RECORDS[name].off)) for name in names}
        call = dict(columns, seed=number, step=3, num_samples=2, return_info=True, validate=False)
        call |= edits
        options = dict(arch=arch, seed=number, schedule=number % 3, diverge=number % 2 == 1)
        with emulate(strict=False, perturb=2.0**-22, **options) as log:
            ours = sample(x, backend="triton", **call)
        textbook = sample(x, backend="torch", **call)
        pairs = list(zip(ours[:4], textbook[:4], strict=True))
        apart = dict(call, num_samples=3, replacement=False)
        with emulate(strict=False, perturb=2.0**-22, **options) as others:
            ours = sample(x, backend="triton", **apart)
        log.extend(others)
        textbook = sample(x, backend="torch", **apart)
        pairs.extend(zip(ours[:4], textbook[:4], strict=True))
        if write:  # of the rows that are valid
            valid = {name: column[:3] for name, column in columns.items()}
            valid |= {"seed": number, "step": 3}
            valid |= {
                name: value[:3] if isinstance(value, torch.Tensor) else value
                for name, value in edits.items()
            }
            with emulate(strict=False, **options) as written:
                masked = mask_logits(x[:3], backend="triton", **valid)
            pairs.append((masked, mask_logits(x[:3], backend="torch", **valid)))
            log.extend(written)
        what = f"sm_{arch} V={vocab} {dtype} {params}"
        if not all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in pairs):
            yield f"{what}: differs"
        yield from (f"{what}: {error['kind']} at {error.get('at')}" for error in log.errors)


def by_row(value: float | torch.Tensor) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.full((4,), value)


def barriers() -> dict[str, int]:
    """How many barriers top-k and top-p reach, and how many of a few are missed when they go."""
    x = rows(40_000, 1)[:1]
    with emulate() as log:
        sample(x, seed=0, top_k=50, top_p=0.9, backend="triton")
    program = log[1].program
    bars = [k for k, text in enumerate(program.text) if text.startswith("bar.sync")]
    reached = [number for number, k in enumerate(bars) if log[1].hits[k]]
    noticed = 0
    for number in reached[:: max(1, len(reached) // 12)]:

        def mutate(code, number=number):
            return without_barrier(code, number) if code.name == program.name else code.code

        with emulate(strict=False, mutate=mutate, limit=3_000_000) as log:
            sample(x, seed=0, top_k=50, top_p=0.9, backend="triton", validate=False)
        noticed += bool(log.errors)
    return {"reached": len(reached), "noticed": noticed}


COMMON = ("temperature", "top_k", "top_p", "min_p")
CALLS = {
    "fp32": (90, 5003, torch.float32, RECORDS, True),
    "bf16": (90, 140_000, torch.bfloat16, RECORDS, False),  # two blocks a group
    "fp16": (80, 65, torch.float16, COMMON, False),
    "edits": (90, 5003, torch.bfloat16, COMMON, True, True),
}


def main(what: str) -> Any:
    if what == "findings":
        return findings()
    if what == "barriers":
        return barriers()
    if what == "cycles":
        cells = [("greedy", "random"), ("temperature 0.8", "real"), ("top-p 0.9", "real")]
        return [count(*cell)[0] for cell in cells]
    return list(differences(*CALLS[what]))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
