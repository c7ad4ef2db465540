"""Step 1, summarize: one read of the logits, one line of a table for each block of 64.

    maxima[b, n]  = max x[b, i] over the block's ids i; +inf where a NaN or +inf is among them
    sums[b, n]    = sum floor(2**((x[b, i] - maxima[b, n]) * c) * 2**30)
    raw[b, n]     = the same at temperature 1, for log-probabilities under the raw distribution
    allowed[b, s] = how many of the split's logits are not -inf

Launch: grid (B, splits); a program takes a run of tiles of `[ROWS, 64]` logits of one row.
Traffic: 1 plane read; 4 (or 2) + 5 bytes a block written, 0.035 of an fp32 plane. No sums where
nothing of the row's whole mass is needed (top-k, min-p alone, greedy): 9 instructions a logit
instead of 40. Programs share nothing: each writes its own part of the table and reads none of it.
PyTorch twin: `BlockTable` in `fused_sampler.contract.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import BLOCK, GREEDY_BELOW, LOG2_E, of_row, store_sums, token_weights, widen


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


@triton.jit(do_not_specialize=["top_k_ptr", "tiles"])
def _summarize_kernel(
    logits_ptr,  # [B, V] fp32 | bf16 | fp16
    temperature_ptr,  # [B] fp32, or one number; so are the next four
    c_ptr,  # fp32
    top_k_ptr,  # int64
    top_p_ptr,  # fp64
    min_p_log2_ptr,  # fp32
    maxima_ptr,  # [B, N] like logits
    sums_low_ptr,  # [B, N] int32
    sums_high_ptr,  # [B, N] int8
    raw_low_ptr,  # [B, N] int32
    raw_high_ptr,  # [B, N] int8
    allowed_ptr,  # [B, splits] int32
    logits_stride_b,
    vocab_size,
    num_blocks,
    tiles,  # a program
    BY_VALUE: tl.constexpr,  # a bit for each of the five
    INFO: tl.constexpr,
    ROWS: tl.constexpr,
):
    pid_b = tl.program_id(0).to(tl.int64)  # int64: B * V overflows int32
    pid_s = tl.program_id(1)
    greedy = of_row(temperature_ptr, pid_b, 1, BY_VALUE & 1, tl.float32) < GREEDY_BELOW
    c = of_row(c_ptr, pid_b, 1, BY_VALUE & 2, tl.float32)
    top_k = of_row(top_k_ptr, pid_b, 1, BY_VALUE & 4, tl.int32)
    top_p = of_row(top_p_ptr, pid_b, 1, BY_VALUE & 8, tl.float32)
    min_p_log2 = of_row(min_p_log2_ptr, pid_b, 1, BY_VALUE & 16, tl.float32)
    # Needed are the masses of all blocks for top-p, and for the draw where no filter is on.
    whole_mass = (
        (greedy == 0) & (top_k >= vocab_size) & ((top_p < 1) | (min_p_log2 == -float("inf")))
    )

    row_ptr = logits_ptr + pid_b * logits_stride_b
    table = pid_b * num_blocks
    allowed = tl.zeros([ROWS], tl.int32)
    for tile in range(pid_s * tiles, (pid_s + 1) * tiles):
        offs_n = tile * ROWS + tl.arange(0, ROWS)
        mask_n = offs_n < num_blocks
        offs_v = offs_n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        x = load_tile(row_ptr, offs_v, vocab_size, (tile + 1) * ROWS * BLOCK <= vocab_size)
        x = tl.where(x < float("inf"), x, float("inf"))  # a NaN too
        block_max = tl.max(x, axis=1)
        tl.store(maxima_ptr + table + offs_n, block_max.to(maxima_ptr.dtype.element_ty), mask_n)
        if whole_mass:
            sums = tl.sum(token_weights(x, block_max[:, None], c).to(tl.int64), axis=1)
            store_sums(sums_low_ptr, sums_high_ptr, table + offs_n, sums, mask_n)
        if INFO:
            sums = tl.sum(token_weights(x, block_max[:, None], LOG2_E).to(tl.int64), axis=1)
            store_sums(raw_low_ptr, raw_high_ptr, table + offs_n, sums, mask_n)
            allowed += tl.sum((x > -float("inf")).to(tl.int32), axis=1)
    if INFO:
        tl.store(allowed_ptr + pid_b * tl.num_programs(1) + pid_s, tl.sum(allowed))
