"""Threads that share the rows of a call, and each thread's scratch memory.

Plain Python threads: the kernels run without the interpreter's lock. Numba's own threads stop the
process when two Python threads use them, or after a fork.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

import torch


class _Share:
    """One thread's part of a call. Whoever claims it first decides: a thread, or the caller."""

    def __init__(self, work: Callable[[], None]):
        self.work = work
        self.claim, self.done = threading.Lock(), threading.Lock()
        self.done.acquire()
        self.error: BaseException | None = None

    def run(self) -> None:
        if self.claim.acquire(blocking=False):
            try:
                self.work()
            except BaseException as error:  # for the caller
                self.error = error
            finally:
                self.done.release()

    def finish(self) -> None:
        """Wait for the thread, unless it has not begun: nothing is left to do, then."""
        if not self.claim.acquire(blocking=False):
            self.done.acquire()
            if self.error is not None:
                raise self.error


class _Pool:
    """Threads that wait for shares."""

    def __init__(self) -> None:
        self.shares: queue.SimpleQueue[_Share] = queue.SimpleQueue()
        self.size = 0
        self.growing = threading.Lock()

    def grow(self, size: int) -> None:
        with self.growing:
            for _ in range(self.size, size):
                threading.Thread(target=self._serve, name="fused-sampler", daemon=True).start()
            self.size = max(self.size, size)

    def _serve(self) -> None:
        while True:
            self.shares.get().run()


_pool = _Pool()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def run_shared(work: Callable[[], None], threads: int) -> None:
    """Call `work` in that many threads at once, the caller's among them; return when all have."""
    pool = _pool
    if pool.size < threads - 1:
        pool.grow(threads - 1)
    shares = [_Share(work) for _ in range(threads - 1)]
    for share in shares:
        pool.shares.put(share)
    try:
        work()
    finally:
        for share in shares:
            share.finish()


class _Scratch(threading.local):
    memory = torch.empty(0, dtype=torch.uint8, device="cpu")


_scratch = _Scratch()


def scratch_memory(size: int) -> torch.Tensor:
    """At least `size` bytes that are the thread's own until its next call.

    To be held while they are in use: where the program ends, the thread's own are forgotten.
    """
    if _scratch.memory.numel() < size:
        _scratch.memory = torch.empty(size, dtype=torch.uint8, device="cpu")
    return _scratch.memory
