"""What a call needs besides time: memory beyond its input, and launches."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or each profile prints two lines


class Counts(NamedTuple):
    extra_bytes: int  # most memory that was in use at one time, beyond what was before
    launches: int  # CPU: dispatched operations; GPU: kernels


def count(call: Callable[[], object], device: torch.device) -> Counts:
    """Of one call, by PyTorch's own books: what other libraries allocate or run is not in them."""
    return _count_on_gpu(call, device) if device.type == "cuda" else _count_on_cpu(call)


def _count_on_cpu(call: Callable[[], object]) -> Counts:
    with (
        _Dispatches() as dispatches,
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof,
    ):
        call()
    results = prof.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [event for event in results if event.name() == "[memory]"]
    used = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        used += event.nbytes()
        most = max(most, used)
    return Counts(most, dispatches.number)


class _Dispatches(TorchDispatchMode):
    """Counts the operations that reach a device's code."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def _count_on_gpu(call: Callable[[], object], device: torch.device) -> Counts:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as prof:
        call()
        torch.cuda.synchronize(device)
    extra = torch.cuda.max_memory_allocated(device) - before
    return Counts(extra, kernels_among(prof.events()))


def kernels_among(events: Any) -> int:
    """How many events ran on the GPU, copies and fills by the driver aside."""
    on_gpu = (event.name for event in events if event.device_type == DeviceType.CUDA)
    return sum(not name.startswith(("Memcpy", "Memset")) for name in on_gpu)
