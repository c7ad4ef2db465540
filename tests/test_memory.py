"""A call needs at most one more copy of the logits, however many tokens the filters keep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CASES = {
    "temperature": "sample(x, 0.8)",
    "top-k": "sample(x, top_k=50)",
    "top-p": "sample(x, top_p=0.9)",
    "most of the row": "sample(x, 1.4, top_p=0.9999)",
    "all equal": "sample(torch.full_like(x, 0.25), top_p=0.9)",
    "every parameter per row": (
        "sample(x, torch.linspace(0, 2, B), torch.arange(B) * 90 % 3000, torch.linspace(0.5, 2, B))"
    ),
}
SCRIPT = """
import resource, torch
from fused_sampler import sample
torch.set_num_threads(1)
B = 64
x = torch.randn(B, 65_536) * 3
sample(x[:1], top_p=0.9)
equal = x.nbytes if "full_like" in {call!r} else 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{call}
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - equal
print(grown / x.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux reports it")
@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_peak_memory(call):
    # glibc would keep freed blocks; with this threshold it gives them back at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", SCRIPT.format(call=call)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(result.stdout) <= 1.0
