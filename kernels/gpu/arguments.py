"""What kernels and device functions take, in groups: NamedTuples, which Triton passes on by field.

Triton compiles an integer inside a tuple in where it is 1, and whether it is a multiple of 16,
whatever `do_not_specialize` says. So integers that may be others at the next call (a seed, a step)
are arguments of their own, and `top_k` is passed as a float.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Column(NamedTuple):
    """A parameter: one value a row, or one number for all rows."""

    values_ptr: Any  # [B] tensor, or a float
    stride: Any  # of the tensor; None: a float
    slots_ptr: Any = None  # [B] int32: the tensor is a table [S] of such lines


class Filters(NamedTuple):
    """The filters' parameters: columns in the kernels, numbers of one row in `select.py`.

    What most batches do without is None there: off in all rows, and not compiled in.
    """

    top_n_sigma: Any  # fp32 n; inf is off
    top_h: Any  # fp64 (widened fp32); 1 is off
    top_k: Any  # int64 in [1, V]; V is off
    top_p: Any  # fp64 (widened fp32) in [0, 1]; 1 is off
    min_p: Any  # fp32 log2(min_p); -inf is off
    typical_p: Any  # fp64 (widened fp32); 1 is off
    epsilon_cutoff: Any  # fp32 log2(epsilon); -inf is off
    eta_cutoff: Any  # fp32 log2(eta); -inf is off
    top_a: Any  # fp32 log2(a); -inf is off
    xtc_threshold: Any  # fp32 log2(t); inf is off


class Table(NamedTuple):
    """The block table: one line for each block of 64 logits, [B, N], or [N] of one row."""

    maxima_ptr: Any  # like logits
    sums_ptr: Any  # int64: of the weights that count
    depths_ptr: Any = None  # int64, `depth.py`, and `spread.py`; None where no row needs them
    moments_ptr: Any = None
    squares_ptr: Any = None


class Sparse(NamedTuple):
    """New logits of some tokens, ordered by id: [B, n], or [n] of one row."""

    ids_ptr: Any  # int32; `END` behind the last
    logits_ptr: Any  # fp32
    spans_ptr: Any  # [B, N] int32: where each block's begin, and how many they are
    stride: Any  # n


class Edits(NamedTuple):
    """What changes logits as they are read: of a batch, or of one row."""

    allowed_ptr: Any  # [B, ceil(V / 32)] int32: a bit a token, or None
    allowed_stride: Any
    bias: Any  # Sparse of tokens with a bias, or None
    counts: Any  # Sparse of tokens of prompt and output, or None


class Info(NamedTuple):
    """What is written only where log-probabilities and counts are asked for."""

    raw: Any  # Table [B, N] at temperature 1; its maxima are those of `table`, but for edits
    finite_ptr: Any  # [B, splits] int32: how many logits are finite
    logprobs_ptr: Any  # [B, num_samples] fp32
    raw_logprobs_ptr: Any  # [B, num_samples] fp32
    kept_ptr: Any  # [B] int64
    log_masses_ptr: Any  # [B] fp64: natural logarithms, of the kept tokens
    raw_log_masses_ptr: Any  # [B] fp64: of all at temperature 1
    raw_max_ptr: Any  # [B] fp32: the largest logit before edits; None where there are none


class Rounds(NamedTuple):
    """What the programs of a row that many select tell one another; `rounds.py` has the places."""

    words_ptr: Any  # [B, WORDS + 2 * BINS] int32
    masses_ptr: Any  # [B, MASSES] int64


class Settled(NamedTuple):
    """What `write.py` needs to know of each row."""

    row_max_ptr: Any  # [B] fp32; NaN for an invalid row
    thresholds_ptr: Any  # [B] fp32: the lowest logit that is kept
    tops_ptr: Any  # [B] fp32: the highest; None: in all rows the maximum
    masses_ptr: Any  # [B] int64: of the kept tokens


class Row(NamedTuple):
    """One row, as the steps of `select.py` see it."""

    logits_ptr: Any  # [V]
    table: Any  # Table [N]
    list_ptr: Any  # [2 * LIST] int32: scratch memory, as is the next
    blocks_ptr: Any  # [GROUPS] int32
    group_key: Any  # int32 [GROUPS]: of the largest logit of each group; None in `rounds.py`
    max: Any  # fp32: the largest logit
    c: Any  # fp32: log2(e) / T
    vocab_size: Any
    num_blocks: Any
    edits: Any = None  # Edits, or None
    mean: Any = None  # fp32: ranks are by nearness to this -z; None: by the logit
    floor: Any = None  # the lowest key that then counts


class Shape(NamedTuple):
    """Compile-time sizes of the draw, powers of two but for `PER_GROUP`.

    Tensors of these shapes are made by `tl.full`: Triton 3.4 does not take them in `tl.zeros`.
    """

    GROUPS: int  # groups of blocks that the table is looked at through
    PER_GROUP: int  # blocks a group
    LIST: int  # logits in question held at one time
    TILE: int  # blocks a tile
    BINS: int  # of a bracket
    SHIFT: int  # low bits of a key that the logits' dtype leaves constant


@triton.jit
def of_row(column, pid_b, dtype: tl.constexpr):
    """A row's value of a parameter, from a Column."""
    if column.stride is None:
        return tl.full([], column.values_ptr, dtype)
    elif column.slots_ptr is None:
        return tl.load(column.values_ptr + pid_b * column.stride).to(dtype)
    else:
        line = tl.load(column.slots_ptr + pid_b).to(tl.int64)
        return tl.load(column.values_ptr + line * column.stride).to(dtype)


@triton.jit
def of_row_or_none(column, pid_b):
    """A row's value, fp32, from a Column, if there is one."""
    if column is None:
        return None
    else:
        return of_row(column, pid_b, tl.float32)


@triton.jit
def filters_of_row(filters, pid_b):
    """A row's filters."""
    return Filters(
        of_row_or_none(filters.top_n_sigma, pid_b),
        of_row_or_none(filters.top_h, pid_b),
        of_row(filters.top_k, pid_b, tl.int32),
        of_row(filters.top_p, pid_b, tl.float32),
        of_row(filters.min_p, pid_b, tl.float32),
        of_row_or_none(filters.typical_p, pid_b),
        of_row_or_none(filters.epsilon_cutoff, pid_b),
        of_row_or_none(filters.eta_cutoff, pid_b),
        of_row_or_none(filters.top_a, pid_b),
        of_row_or_none(filters.xtc_threshold, pid_b),
    )


@triton.jit
def is_below(value, off):
    """Whether a filter is on that is so below its off value; what is None is off."""
    if value is None:
        return tl.full([], False, tl.int1)
    else:
        return value < off


@triton.jit
def is_above(value, off):
    """The same above it."""
    if value is None:
        return tl.full([], False, tl.int1)
    else:
        return value > off


@triton.jit
def is_cut_first(filters, vocab_size):
    """Whether a filter before top-p keeps a part of the row, whose masses `summarize` leaves."""
    cut = is_below(filters.top_n_sigma, float("inf")) | is_below(filters.top_h, 1.0)
    return (filters.top_k < vocab_size) | cut


@triton.jit
def is_typical_first(filters, vocab_size):
    """Whether typical sees the whole row."""
    cut = is_cut_first(filters, vocab_size) | (filters.top_p < 1)
    return is_below(filters.typical_p, 1.0) & ((cut | (filters.min_p > -float("inf"))) == 0)


@triton.jit
def wants_depth(filters, vocab_size):
    """Whether the depth of the whole row is asked for."""
    cut = is_cut_first(filters, vocab_size) | (filters.top_p < 1)
    cut |= (filters.min_p > -float("inf")) | is_above(filters.epsilon_cutoff, -float("inf"))
    eta = is_above(filters.eta_cutoff, -float("inf")) & (cut == 0)
    return eta | is_typical_first(filters, vocab_size)


@triton.jit
def asks_for_best(filters):
    """Whether a filter after typical compares with the best token that is left."""
    asks = is_above(filters.epsilon_cutoff, -float("inf"))
    asks |= is_above(filters.eta_cutoff, -float("inf")) | is_above(filters.top_a, -float("inf"))
    return asks | is_below(filters.xtc_threshold, float("inf"))


@triton.jit
def filtered(filters, vocab_size):
    """Whether a row has a filter that is on."""
    on = is_cut_first(filters, vocab_size) | (filters.top_p < 1)
    on |= (filters.min_p > -float("inf")) | is_below(filters.typical_p, 1.0)
    on |= is_above(filters.epsilon_cutoff, -float("inf"))
    on |= is_above(filters.eta_cutoff, -float("inf")) | is_above(filters.top_a, -float("inf"))
    return on | is_below(filters.xtc_threshold, float("inf"))


@triton.jit
def offset_or_none(ptr, offset):
    if ptr is None:
        return None
    else:
        return ptr + offset


@triton.jit
def table_of_row(table, first):
    """The lines from `first` on."""
    return Table(
        table.maxima_ptr + first,
        table.sums_ptr + first,
        offset_or_none(table.depths_ptr, first),
        offset_or_none(table.moments_ptr, first),
        offset_or_none(table.squares_ptr, first),
    )


@triton.jit
def seen_with(row, c, mean, floor):
    """The row with another `c`, or with ranks by nearness to `mean` from the key `floor` up."""
    return Row(
        row.logits_ptr,
        row.table,
        row.list_ptr,
        row.blocks_ptr,
        row.group_key,
        row.max,
        c,
        row.vocab_size,
        row.num_blocks,
        row.edits,
        mean,
        floor,
    )
