"""A call needs at most one more copy of the logits, however many tokens the filters keep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = {
    "temperature": "sample(x, 0.8)",
    "log-probabilities": "sample(x, 0.8, return_info=True)",
    "top-k": "sample(x, top_k=50)",
    "top-p": "sample(x, top_p=0.9)",
    "most of the row": "sample(x, 1.4, top_p=0.9999)",
    "all equal": "sample(x.fill_(0.25), top_p=0.9)",
    "all equal, top-k": "sample(x.fill_(0.25), top_k=50)",
    "light where sampled": "x *= 0.01; x[:, ::62] = -20; sample(x, top_p=0.9)",
    "one row with most of the tokens": "x *= 10; x[0] = 0.25; sample(x, min_p=0.5)",
    "every parameter per row": (
        "sample(x, torch.linspace(0, 2, B), top_k=torch.arange(B) * 90 % 3000, "
        "top_p=torch.linspace(0.5, 2, B))"
    ),
}
SCRIPT = """
import pathlib, torch
from fused_sampler import sample
torch.set_num_threads(1)
status, B = pathlib.Path("/proc/self/status"), 64
def kilobytes(name):
    return int(status.read_text().split(name + ":")[1].split()[0])
x = torch.randn(B, 128_256).mul_(3)
sample(x[:1], top_p=0.9)
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = kilobytes("VmRSS")
CALL
print((kilobytes("VmHWM") - before) * 1024 / x.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's peak memory")
@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_peak_memory(call):
    # glibc would keep freed blocks; with this threshold it gives them back at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", SCRIPT.replace("CALL", call)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(result.stdout) <= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scratch_memory_of_a_thread(dtype):
    """At most 4 copies of a row; for small vocabularies 96 KiB: a list always holds 4,096."""
    pytest.importorskip("numba", reason="needs the `cpu` extra")
    from fused_sampler.kernels.cpu.space import space_bytes

    for vocab in (1, 63, 65, 1000, 4097, 12_000, 32_000, 49_152, 128_256, 151_936, 2**20, 2**22):
        assert space_bytes(vocab) <= max(4 * vocab * dtype.itemsize, 96 * 2**10)
