"""Step 1, summarize: one read of the logits, one line of a table for each block of 64.

    maxima[b, n]  = max x[b, i] over the block's ids i; +inf where a NaN or +inf is among them
    sums[b, n]    = sum floor(2**((x[b, i] - maxima[b, n]) * c) * 2**30)
    depths, moments, squares: where a filter needs them (`depth.py`, `spread.py`)
    raw[b, n]     = the same at temperature 1, for log-probabilities under the raw distribution
    allowed[b, s] = how many of the split's logits are not -inf

Launch: grid (B, splits); a program takes a run of tiles of `[ROWS, 64]` logits of one row.
Traffic: 1 plane read; 4 (or 2) + 8 bytes a block written, 0.047 of an fp32 plane. No sums where
nothing of the row's whole mass is needed (top-k, min-p alone, greedy): 9 instructions a logit
instead of 40. Programs share nothing: each writes its own part of the table and reads none of it.
PyTorch twin: `BlockTable` in `fused_sampler.contract.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arguments import filtered, filters_of_row, is_below, is_cut_first, of_row, wants_depth
from .arithmetic import BLOCK, GREEDY_BELOW, LOG2_E, token_weights, widen
from .depth import block_depth
from .edit import edit, edits_of_row
from .spread import block_moments


@triton.jit
def load_tile(row_ptr, offs, vocab_size, inside):
    """Logits [ROWS, 64] as fp32, -inf beyond the vocabulary; `inside`: the tile ends before it.

    Without a mask the loads are 128 bits wide whatever the vocabulary is a multiple of.
    """
    if inside:
        x = tl.load(row_ptr + offs)
    else:
        x = tl.load(row_ptr + offs, mask=offs < vocab_size, other=-float("inf"))
    return widen(x)


@triton.jit(do_not_specialize=["tiles"])
def _summarize_kernel(
    logits_ptr,  # [B, V] fp32 | bf16 | fp16
    temperature,  # Column fp32, as are the next two
    c,
    filter_c,  # or None: that of the draw
    filters,  # Filters of Columns
    table,  # Table [B, N]
    info,  # Info, or None
    edits,  # Edits [B], or None
    logits_stride_b,
    vocab_size,
    num_blocks,
    tiles,  # a program
    ROWS: tl.constexpr,
):
    pid_b = tl.program_id(0).to(tl.int64)  # int64: B * V overflows int32
    pid_s = tl.program_id(1)
    greedy = of_row(temperature, pid_b, tl.float32) < GREEDY_BELOW
    c = of_row(c, pid_b, tl.float32)
    filters = filters_of_row(filters, pid_b)
    if filter_c is not None:
        c = tl.where(filtered(filters, vocab_size), of_row(filter_c, pid_b, tl.float32), c)
    # Needed are the masses of all blocks for top-p, and for the draw where no filter is on.
    whole_mass = (filters.top_p < 1) | (filters.min_p == -float("inf"))
    whole_mass &= (is_cut_first(filters, vocab_size) | greedy) == 0
    whole_depth = whole_mass & wants_depth(filters, vocab_size)
    spreads = is_below(filters.top_n_sigma, float("inf"))

    edits = edits_of_row(edits, pid_b, num_blocks)
    row_ptr = logits_ptr + pid_b * logits_stride_b
    first = pid_b * num_blocks
    finite = tl.zeros([ROWS], tl.int32)
    for tile in range(pid_s * tiles, (pid_s + 1) * tiles):
        offs_n = tile * ROWS + tl.arange(0, ROWS)
        mask_n = offs_n < num_blocks
        offs_v = offs_n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        x = load_tile(row_ptr, offs_v, vocab_size, (tile + 1) * ROWS * BLOCK <= vocab_size)
        raw_x = x
        if edits is not None:
            x = edit(x, edits, offs_n, mask_n, vocab_size)
        x = tl.where(x < float("inf"), x, float("inf"))  # a NaN too
        block_max = tl.max(x, axis=1)
        maxima_ptr = table.maxima_ptr + first + offs_n
        tl.store(maxima_ptr, block_max.to(maxima_ptr.dtype.element_ty), mask_n)
        if whole_mass:
            weights = token_weights(x, block_max[:, None], c)
            sums = tl.sum(weights.to(tl.int64), axis=1)
            tl.store(table.sums_ptr + first + offs_n, sums, mask=mask_n)
            if table.depths_ptr is not None:
                if whole_depth:
                    depths = block_depth(x, block_max, weights, c)
                    tl.store(table.depths_ptr + first + offs_n, depths, mask=mask_n)
        if table.moments_ptr is not None:
            if spreads:
                moments, squares = block_moments(x, block_max)
                tl.store(table.moments_ptr + first + offs_n, moments, mask=mask_n)
                tl.store(table.squares_ptr + first + offs_n, squares, mask=mask_n)
        if info is not None:
            raw_max = block_max
            if edits is None:
                raw_x = x
            else:
                raw_x = tl.where(raw_x < float("inf"), raw_x, float("inf"))
                raw_max = tl.max(raw_x, axis=1)
                raw_maxima_ptr = info.raw.maxima_ptr + first + offs_n
                tl.store(raw_maxima_ptr, raw_max.to(raw_maxima_ptr.dtype.element_ty), mask_n)
            sums = tl.sum(token_weights(raw_x, raw_max[:, None], LOG2_E).to(tl.int64), axis=1)
            tl.store(info.raw.sums_ptr + first + offs_n, sums, mask=mask_n)
            finite += tl.sum((x > -float("inf")).to(tl.int32), axis=1)
    if info is not None:
        tl.store(info.finite_ptr + pid_b * tl.num_programs(1) + pid_s, tl.sum(finite))
