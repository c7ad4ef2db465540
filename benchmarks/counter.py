"""Bytes of global memory that kernels read and write, counted in Triton's interpreter.

An active lane of a load or store counts with its element's size, each time it is executed; lanes
that a mask switches off count nothing. The interpreter knows no cache: a second load of the same
address counts again, as it may have to be read again on a device.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from unittest import mock

import torch
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder


class Moved(NamedTuple):
    """What a launch moved, in bytes."""

    kernel: str
    read: int
    read_of_logits: int
    written: int


@dataclass
class Traffic:
    """What the launches inside `count_traffic` moved, in bytes."""

    logits: torch.Tensor
    read: int = 0
    read_of_logits: int = 0
    written: int = 0
    by_launch: list[Moved] = field(default_factory=list)

    @property
    def launches(self) -> Counter[str]:
        """How many, by kernel."""
        return Counter(moved.kernel for moved in self.by_launch)

    @property
    def reads(self) -> float:
        """In planes: reading every logit once, in its own dtype."""
        return self.read / self.logits.nbytes

    @property
    def reads_of_logits(self) -> float:
        """In planes; the rest of `reads` are scratch memory and parameters."""
        return self.read_of_logits / self.logits.nbytes

    @property
    def writes(self) -> float:
        """In planes of fp32, whatever the logits' dtype."""
        return self.written / (4 * self.logits.numel())

    def count_read(self, ptrs, active) -> None:
        size = _element_size(ptrs)
        self.read += size * int(active.sum())
        start = self.logits.data_ptr()
        inside = (ptrs.data >= start) & (ptrs.data < start + self.logits.nbytes)
        self.read_of_logits += size * int((inside & active).sum())

    def count_write(self, ptrs, active) -> None:
        self.written += _element_size(ptrs) * int(active.sum())


@contextlib.contextmanager
def count_traffic(logits: torch.Tensor) -> Iterator[Traffic]:
    """Count what every kernel launched inside the block reads and writes."""
    assert logits.is_contiguous()  # reads of them are told by their addresses
    traffic = Traffic(logits)
    builder = InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    exchange, modify = builder.create_atomic_cas, builder.create_atomic_rmw
    run = InterpretedFunction.run

    # The methods behind all loads and stores; what follows the mask depends on Triton's version.
    def counted_load(self, ptrs, mask, *rest, **options):
        traffic.count_read(ptrs, mask.data)
        return load(self, ptrs, mask, *rest, **options)

    def counted_store(self, ptrs, value, mask, *rest, **options):
        traffic.count_write(ptrs, mask.data)
        return store(self, ptrs, value, mask, *rest, **options)

    def counted_exchange(self, ptrs, *rest):
        everywhere = ptrs.data == ptrs.data
        traffic.count_read(ptrs, everywhere)
        traffic.count_write(ptrs, everywhere)
        return exchange(self, ptrs, *rest)

    def counted_modify(self, operation, ptrs, value, mask, *rest):
        traffic.count_read(ptrs, mask.data)
        traffic.count_write(ptrs, mask.data)
        return modify(self, operation, ptrs, value, mask, *rest)

    def counted_run(self, *args, warmup, **options):
        before = traffic.read, traffic.read_of_logits, traffic.written
        result = run(self, *args, warmup=warmup, **options)
        after = traffic.read, traffic.read_of_logits, traffic.written
        if not warmup:
            moved = (b - a for a, b in zip(before, after, strict=True))
            traffic.by_launch.append(Moved(self.fn.__name__, *moved))
        return result

    with (
        mock.patch.object(builder, "create_masked_load", counted_load),
        mock.patch.object(builder, "create_masked_store", counted_store),
        mock.patch.object(builder, "create_atomic_cas", counted_exchange),
        mock.patch.object(builder, "create_atomic_rmw", counted_modify),
        mock.patch.object(InterpretedFunction, "run", counted_run),
    ):
        yield traffic


def _element_size(ptrs) -> int:
    return max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
