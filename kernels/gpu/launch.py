"""From PyTorch tensors to kernel launches: scratch memory, launch parameters, and nothing else.

Nothing here reads device memory, so nothing waits for the device.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import triton

from fused_sampler.contract.draws import NO_DRAWS, Draws
from fused_sampler.contract.mass import BLOCK
from fused_sampler.edits.lists import Entries
from fused_sampler.edits.resolve import RowEdits
from fused_sampler.output import Drawn, RowState
from fused_sampler.params import RowParams

from .arguments import Column, Edits, Filters, Info, Rounds, Settled, Shape, Sparse, Table
from .draw import _draw_kernel
from .edit import _edit_kernel
from .rounds import MASSES, WORDS, _bracket_kernel, _round_kernel
from .summarize import _summarize_kernel
from .write import _write_kernel


class Sizes(NamedTuple):
    """Launch parameters, powers of two. None of them can change a token."""

    rows: int = 32  # blocks a tile, streaming: 2,048 logits, 16 a thread, 128-bit loads
    programs: int = 2048  # streaming programs from which they take more than a tile: 15 a processor
    groups: int = 2048  # of the block table: 4 a thread; one block each up to V = 131,072
    list: int = 2048  # logits in question held at one time: 4 a thread; top-h's hundred at least
    tile: int = 32  # blocks a tile, selecting: 8 logits a thread, beside 16 measures a block
    round_tile: int = 64  # the same where many programs select, and that many a row at most
    splits: int = 16
    stream_threads: int = 128  # small programs, many to a processor
    draw_threads: int = 256  # one program a row, of as many registers as there are
    index_blocks: int = 2048  # that a program tells the entries of
    index_chunk: int = 1024  # ids it looks at in one go


SIZES = Sizes()
# What is not compiled in where no row uses it, and what it is off at.
_OPTIONAL = {
    "top_n_sigma": math.inf,
    "top_h": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": -math.inf,
    "eta_cutoff": -math.inf,
    "top_a": -math.inf,
    "xtc_threshold": math.inf,
}
_SHIFTS = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}  # constant low bits of a key


def sample(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws,
    info: bool,
    edits: RowEdits | None = None,
) -> Drawn:
    """Tokens [B, num_samples]; with `info` all that there is to know.

    Two launches, or five where a row may need many programs to select; one more for bias and
    penalties.
    """
    output, _, _ = _summarize_and_draw(logits, rows, draws, info, _edits(edits, logits))
    return output


def softmax(logits: torch.Tensor, rows: RowParams) -> torch.Tensor:
    """Probabilities of `x / T` in fp32 [B, V]; a greedy row has all on its token."""
    return _write(logits, rows, NO_DRAWS, None, probabilities=True)


def mask_logits(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws = NO_DRAWS,
    edits: RowEdits | None = None,
) -> torch.Tensor:
    """`x / T` in fp32 [B, V], `-inf` where dropped; a greedy row keeps its token's own logit."""
    return _write(logits, rows, draws, edits, probabilities=False)


def _summarize_and_draw(
    logits: torch.Tensor, rows: RowParams, draws: Draws, info: bool, edits: Edits | None = None
) -> tuple[Drawn, Table, Settled]:
    batch, vocab = logits.shape
    # An edited logit is an fp32 value, but for a mask.
    widened = edits is not None and (edits.bias is not None or edits.counts is not None)
    dtype = torch.float32 if widened else logits.dtype
    num_blocks = triton.cdiv(vocab, BLOCK)
    # Edits take registers: half a tile then has as many as it should.
    tile = SIZES.rows if edits is None else SIZES.rows // 2
    tiles, splits = _split(batch, num_blocks, tile)
    groups = max(16, min(SIZES.groups, triton.next_power_of_2(num_blocks)))
    shape = Shape(
        GROUPS=groups,
        PER_GROUP=triton.cdiv(num_blocks, groups),
        LIST=SIZES.list,
        TILE=SIZES.tile,
        BINS=max(16, min(1024, triton.next_power_of_2(num_blocks) // 4)),
        SHIFT=_SHIFTS[dtype],
    )

    def empty(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return logits.new_empty(shape, dtype=dtype)

    filters = _filters(rows, logits)
    words = functools.partial(empty, torch.int64, batch, num_blocks)
    table = Table(empty(dtype, batch, num_blocks), words())
    if filters.eta_cutoff is not None or filters.typical_p is not None:
        table = table._replace(depths_ptr=words())
    if filters.top_n_sigma is not None:
        table = table._replace(moments_ptr=words(), squares_ptr=words())
    scratch = empty(torch.int32, batch, 2 * SIZES.list + groups)
    rounds = None
    if _wide(rows, vocab, num_blocks):
        rounds = Rounds(
            empty(torch.int32, batch, WORDS.value + 2 * shape.BINS),
            empty(torch.int64, batch, MASSES.value),
        )
    row_max, thresholds, tops = empty(torch.float32, 3, batch)
    whole = filters.typical_p is None and filters.xtc_threshold is None  # up to the maximum
    settled = Settled(row_max, thresholds, None if whole else tops, empty(torch.int64, batch))
    output = Drawn(empty(torch.int64, batch, draws.num_samples))
    taken = None
    if not draws.replacement:
        taken = logits.new_zeros((batch, num_blocks), dtype=torch.int64)
    asked = None
    if info:
        logprobs, raw_logprobs = (empty(torch.float32, *output.tokens.shape) for _ in range(2))
        kept = empty(torch.int64, batch)
        log_mass, raw_log_mass = empty(torch.float64, 2, batch)
        raw, raw_max = Table(table.maxima_ptr, words()), None
        if edits is not None:
            raw = raw._replace(maxima_ptr=torch.empty_like(table.maxima_ptr))
            raw_max = empty(torch.float32, batch)
        highest = row_max if whole else tops
        untouched = row_max if raw_max is None else raw_max
        state = RowState(row_max, thresholds, highest, log_mass, raw_log_mass, untouched)
        output = Drawn(output.tokens, logprobs, raw_logprobs, kept, state)
        finite = empty(torch.int32, batch, splits)
        asked = Info(
            raw, finite, logprobs, raw_logprobs, kept, log_mass, raw_log_mass, raw_max
        )  # fmt: skip

    column = functools.partial(_column, logits=logits, slots=rows.slots)
    temperature, c = column(rows.temperature), column(rows.c)
    filter_c = None if rows.filter_c is rows.c else column(rows.filter_c)
    chance = None if filters.xtc_threshold is None else column(rows.xtc_chance)
    numbers = [_operand(word, logits) for word in (draws.seed, draws.step, draws.stream)]
    stream, select = _options(SIZES.stream_threads, logits), _options(SIZES.draw_threads, logits)
    with torch.cuda.device_of(logits):
        _summarize_kernel[(batch, splits)](
            logits, temperature, c, filter_c, filters, table, asked, edits,
            logits.stride(0), vocab, num_blocks, tiles, ROWS=tile,
            **stream,
        )  # fmt: skip
        if rounds is not None:
            _launch_rounds(
                logits,
                temperature,
                filter_c or c,
                filters,
                table,
                scratch,
                rounds,
                edits,
                num_blocks,
                shape,
                select,
            )
        _draw_kernel[(batch,)](
            logits, temperature, c, filter_c, filters, chance,
            *(values for values, _ in numbers), draws.slots,
            table, scratch, output.tokens, taken, settled, rounds, asked, edits,
            logits.stride(0), *(stride for _, stride in numbers),
            vocab, num_blocks, draws.num_samples, splits, SHAPE=shape,
            **select,
        )  # fmt: skip
    return output, table, settled


def _launch_rounds(
    logits: torch.Tensor,
    temperature: Column,
    c: Column,
    filters: Filters,
    table: Table,
    scratch: torch.Tensor,
    rounds: Rounds,
    edits: Edits | None,
    num_blocks: int,
    shape: Shape,
    options: dict[str, Any],
) -> None:
    """Three launches between both, where many programs a row select."""
    batch, vocab = logits.shape
    _bracket_kernel[(batch,)](
        logits, temperature, c, filters, table, scratch, rounds,
        logits.stride(0), vocab, num_blocks,
        SHAPE=shape, **options,
    )  # fmt: skip
    in_row = triton.cdiv(num_blocks, SIZES.round_tile)
    tiles = triton.cdiv(in_row, SIZES.splits)
    for number in range(2):
        _round_kernel[(batch, triton.cdiv(in_row, tiles))](
            logits, c, table, scratch, rounds, edits, logits.stride(0), vocab, num_blocks, tiles,
            TYPICAL=filters.typical_p is not None, ROUND=number,
            SHAPE=shape._replace(TILE=SIZES.round_tile), **options,
        )  # fmt: skip


def _wide(rows: RowParams, vocab: int, num_blocks: int) -> bool:
    """Whether many programs have to select a row, as far as is known without a look at the device.

    They have not where the list holds the row, nor for a top-k that a quarter of the blocks has.
    """
    if vocab <= SIZES.list:
        return False
    top_k = rows.filters["top_k"]
    shares = rows.filters["top_p"], rows.filters["typical_p"]
    if not all(column.device.type == "cpu" for column in (top_k, *shares)):
        return True
    bounded = (top_k <= num_blocks // 4) | ((top_k >= vocab) & (torch.minimum(*shares) >= 1))
    return not bounded.all().item()


def _edits(edits: RowEdits | None, logits: torch.Tensor) -> Edits | None:
    """As the kernels take them: with the new logits of single tokens, which is one launch."""
    if edits is None:
        return None
    batch, vocab = logits.shape
    num_blocks = triton.cdiv(vocab, BLOCK)

    def listed(entries: Entries | None) -> Sparse | None:
        if entries is None:
            return None
        ids = entries.ids.contiguous()
        new = torch.empty_like(ids, dtype=torch.float32)
        spans = logits.new_empty((batch, num_blocks), dtype=torch.int32)
        return Sparse(ids, new, spans, ids.shape[1])

    bias, counts = listed(edits.bias), listed(edits.counts)
    lists = sum(entries is not None for entries in (bias, counts))
    if lists:
        columns = (edits.repetition, edits.frequency, edits.presence)
        blocks = max(16, min(SIZES.index_blocks, triton.next_power_of_2(num_blocks)))
        grid = batch, triton.cdiv(num_blocks, blocks), lists
        half = 0 if bias is None else 2 ** (bias.stride.bit_length() - 1)
        with torch.cuda.device_of(logits):
            _edit_kernel[grid](
                logits,
                bias, None if edits.bias is None else edits.bias.values.contiguous(),
                counts, None if edits.counts is None else edits.counts.values, edits.dry,
                *(_column(values, logits) for values in columns),
                logits.stride(0), vocab, num_blocks, half,
                BINS=blocks, CHUNK=SIZES.index_chunk,
                **_options(SIZES.draw_threads, logits),
            )  # fmt: skip
    stride = 0 if edits.allowed is None else edits.allowed.stride(0)
    return Edits(edits.allowed, stride, bias, counts)


def _write(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws,
    row_edits: RowEdits | None,
    probabilities: bool,
) -> torch.Tensor:
    """Settle the rows, with a draw nobody looks at, and write them. One launch more."""
    batch, vocab = logits.shape
    whole = logits.new_empty(logits.shape, dtype=torch.float32)
    if batch == 0:
        return whole
    edits = _edits(row_edits, logits)
    output, table, settled = _summarize_and_draw(logits, rows, draws, False, edits)
    column = functools.partial(_column, logits=logits, slots=rows.slots)
    num_blocks = table.maxima_ptr.shape[1]
    tiles, splits = _split(batch, num_blocks, SIZES.rows)
    with torch.cuda.device_of(logits):
        _write_kernel[(batch, splits)](
            logits, column(rows.temperature), column(rows.c),
            table.maxima_ptr, settled, output.tokens, whole, edits,
            logits.stride(0), vocab, num_blocks, tiles,
            ROWS=SIZES.rows, PROBABILITIES=probabilities,
            **_options(SIZES.stream_threads, logits),
        )  # fmt: skip
    return whole


def _split(batch: int, num_blocks: int, tile: int) -> tuple[int, int]:
    """Tiles a program takes of a row, and programs a row."""
    in_row = triton.cdiv(num_blocks, tile)
    tiles = min(max(1, batch * in_row // SIZES.programs), in_row)
    return tiles, triton.cdiv(in_row, tiles)


def _options(threads: int, logits: torch.Tensor) -> dict[str, Any]:
    """Of a launch of programs of so many threads."""
    options = {"num_warps": threads // _warp_size(logits.device), "enable_fp_fusion": False}
    if torch.version.hip is None:  # without it ptxas may take 128 for sm_80, and spill
        options["maxnreg"] = 255
    return options


@functools.cache
def _warp_size(device: torch.device) -> int:
    """Threads a warp: 64 on AMD's CDNA, 32 elsewhere."""
    return torch.cuda.get_device_properties(device).warp_size if device.type == "cuda" else 32


def _operand(values: int | torch.Tensor | None, logits: torch.Tensor) -> tuple[Any, int | None]:
    """A `[B]` tensor beside the logits, and its stride; one number for all rows, and None."""
    if values is None or isinstance(values, int):
        return values, None
    if values.device.type == "cpu" and (values.stride(0) == 0 or len(values) == 1):
        return values[0].item(), None
    values = values.to(logits.device)
    return values, values.stride(0)


def _column(
    values: torch.Tensor, logits: torch.Tensor, slots: torch.Tensor | None = None
) -> Column:
    operand, stride = _operand(values, logits)
    return Column(float(operand), None) if stride is None else Column(operand, stride, slots)


def _filters(rows: RowParams, logits: torch.Tensor) -> Filters:
    """The filters' columns; None for what no row uses, where the kernels can do without."""
    columns: dict[str, Any] = {
        name: _column(values, logits, rows.slots) for name, values in rows.filters.items()
    }
    for name, off in _OPTIONAL.items():
        column = columns[name]
        if column.stride is None and column.values_ptr == off:
            columns[name] = None
    return Filters(**columns)
