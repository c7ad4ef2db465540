"""From PyTorch tensors to kernel launches: scratch memory, launch parameters, and nothing else.

Nothing here reads device memory, so nothing waits for the device.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton

from fused_sampler.contract.draws import Draws
from fused_sampler.contract.mass import BLOCK
from fused_sampler.output import SampleOutput
from fused_sampler.params import RowParams

from .draw import _draw_kernel
from .summarize import _summarize_kernel
from .write import _write_kernel


class Sizes(NamedTuple):
    """Launch parameters, powers of two. None of them can change a token."""

    rows: int = 32  # blocks a tile, streaming: 2,048 logits, 16 a thread, 128-bit loads
    programs: int = 2048  # streaming programs from which they take more than a tile: 15 a processor
    groups: int = 2048  # of the block table: 4 a thread; one block each up to V = 131,072
    list: int = 2048  # logits in question held at one time: 4 a thread
    tile: int = 32  # blocks a tile, selecting: 4 logits a thread, beside 16 measures a block
    stream_threads: int = 128  # small programs, many to a processor
    draw_threads: int = 512  # one program a row: as many as 128 registers for each allow


SIZES = Sizes()
_SHIFTS = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}  # constant low bits of a key


def sample(logits: torch.Tensor, rows: RowParams, draws: Draws, info: bool) -> SampleOutput:
    """Tokens [B, num_samples]; with `info` also log-probabilities and kept counts. Two launches."""
    return _summarize_and_draw(logits, rows, draws, info).output


def softmax(logits: torch.Tensor, rows: RowParams) -> torch.Tensor:
    """Probabilities of `x / T` in fp32 [B, V]; a greedy row has all on its token."""
    return _write(logits, rows, probabilities=True)


def mask_logits(logits: torch.Tensor, rows: RowParams) -> torch.Tensor:
    """`x / T` in fp32 [B, V], `-inf` where dropped; a greedy row keeps its token's own logit."""
    return _write(logits, rows, probabilities=False)


class _Settled(NamedTuple):
    """What the two launches leave."""

    output: SampleOutput
    params: list[Any]  # as the kernels take them
    maxima: torch.Tensor  # [B, N] like logits
    row_max: torch.Tensor  # [B] fp32; NaN for an invalid row
    thresholds: torch.Tensor  # [B] fp32
    masses: torch.Tensor  # [B] int64


def _summarize_and_draw(
    logits: torch.Tensor, rows: RowParams, draws: Draws, info: bool
) -> _Settled:
    batch, vocab = logits.shape
    num_blocks = triton.cdiv(vocab, BLOCK)
    tiles, splits = _split(batch, num_blocks)
    groups = max(16, min(SIZES.groups, triton.next_power_of_2(num_blocks)))

    def empty(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return logits.new_empty(shape, dtype=dtype)

    table = batch, num_blocks
    maxima = empty(logits.dtype, *table)
    sums = empty(torch.int32, *table), empty(torch.int8, *table)
    raw = (empty(torch.int32, *table), empty(torch.int8, *table)) if info else sums
    scratch = empty(torch.int32, batch, 2 * SIZES.list + groups)
    tokens = empty(torch.int64, batch, draws.num_samples)
    row_max, thresholds = empty(torch.float32, 2, batch)
    masses = empty(torch.int64, batch)
    allowed, logprobs, raw_logprobs, kept = scratch, row_max, row_max, masses  # not written
    if info:
        allowed = empty(torch.int32, batch, splits)
        logprobs, raw_logprobs = (empty(torch.float32, *tokens.shape) for _ in range(2))
        kept = empty(torch.int64, batch)

    params = _operands(rows, logits)
    seed, step = _operand(draws.seed, logits), _operand(draws.step, logits)
    strides = _stride(draws.seed), _stride(draws.step)
    stream = None if draws.stream is None else _operand(draws.stream, logits)
    with torch.cuda.device_of(logits):
        _summarize_kernel[(batch, splits)](
            logits, *params,
            maxima, *sums, *raw, allowed,
            logits.stride(0), vocab, num_blocks, tiles,
            BY_VALUE=_by_value(*params), INFO=info, ROWS=SIZES.rows,
            num_warps=SIZES.stream_threads // _warp_size(logits.device), enable_fp_fusion=False,
        )  # fmt: skip
        _draw_kernel[(batch,)](
            logits, *params, seed, step, stream,
            maxima, *sums, *raw, allowed, scratch,
            tokens, row_max, thresholds, masses, logprobs, raw_logprobs, kept,
            logits.stride(0), *strides, vocab, num_blocks, draws.num_samples, splits,
            BY_VALUE=_by_value(*params, seed, step, stream), INFO=info,
            GROUPS=groups, PER_GROUP=triton.cdiv(num_blocks, groups),
            LIST=SIZES.list, TILE=SIZES.tile, SHIFT=_SHIFTS[logits.dtype],
            num_warps=SIZES.draw_threads // _warp_size(logits.device), enable_fp_fusion=False,
        )  # fmt: skip
    output = SampleOutput(tokens, logprobs, raw_logprobs, kept) if info else SampleOutput(tokens)
    return _Settled(output, params, maxima, row_max, thresholds, masses)


def _write(logits: torch.Tensor, rows: RowParams, probabilities: bool) -> torch.Tensor:
    """Settle the rows, with a draw nobody looks at, and write them. Three launches."""
    batch, vocab = logits.shape
    output = logits.new_empty(logits.shape, dtype=torch.float32)
    if batch == 0:
        return output
    settled = _summarize_and_draw(logits, rows, Draws(0, 0, 0, 1), info=False)
    num_blocks = settled.maxima.shape[1]
    tiles, splits = _split(batch, num_blocks)
    temperature, c, *_ = settled.params
    with torch.cuda.device_of(logits):
        _write_kernel[(batch, splits)](
            logits, temperature, c, *settled[2:], settled.output.tokens, output,
            logits.stride(0), vocab, num_blocks, tiles,
            BY_VALUE=_by_value(temperature, c), ROWS=SIZES.rows, PROBABILITIES=probabilities,
            num_warps=SIZES.stream_threads // _warp_size(logits.device), enable_fp_fusion=False,
        )  # fmt: skip
    return output


def _split(batch: int, num_blocks: int) -> tuple[int, int]:
    """Tiles a program takes of a row, and programs a row."""
    in_row = triton.cdiv(num_blocks, SIZES.rows)
    tiles = min(max(1, batch * in_row // SIZES.programs), in_row)
    return tiles, triton.cdiv(in_row, tiles)


@functools.cache
def _warp_size(device: torch.device) -> int:
    """Threads a warp: 64 on AMD's CDNA, 32 elsewhere."""
    return torch.cuda.get_device_properties(device).warp_size if device.type == "cuda" else 32


def _stride(words: int | torch.Tensor) -> int:
    """0: one word for all rows."""
    return words.stride(0) if isinstance(words, torch.Tensor) else 0


def _operand(values: int | torch.Tensor, logits: torch.Tensor) -> Any:
    """A `[B]` tensor beside the logits; what stands on the CPU for one number, as that number."""
    if isinstance(values, int):
        return values
    if values.device.type == "cpu" and (values.stride(0) == 0 or len(values) == 1):
        return values[0].item()
    return values.to(logits.device)


def _operands(rows: RowParams, logits: torch.Tensor) -> list[Any]:
    """The five parameters; what one tensor element says of all rows is spelt out for each."""
    operands = []
    columns = (rows.filters[name] for name in ("top_k", "top_p", "min_p"))
    for values in (rows.temperature, rows.c, *columns):
        operand = _operand(values, logits)
        if isinstance(operand, torch.Tensor) and not operand.is_contiguous():
            operand = operand.clone(memory_format=torch.contiguous_format)
        operands.append(operand)
    return operands


def _by_value(*operands: Any) -> int:
    """A bit for each of the operands that is a number."""
    return sum(isinstance(value, (int, float)) << bit for bit, value in enumerate(operands))
