"""Edits: mask, bias and penalties, applied to logits as they are read (contract section 1).

The mask is two words a block. Of the tokens with a bias or a penalty the new logits stand in lists
ordered by id, made by a launch before all others, and an index says where each block's begin: a
tile goes through its blocks' entries in step, the first of each, the second of each, and lets each
lane take what is its own. A token of both lists has both edits in the second.

Launch: grid (B, splits, lists). Traffic: for every 2,048 blocks of a row it reads a list's ids and
writes 4 bytes a block; once it reads an entry's logit and 4 bytes, 8 with DRY, and writes 4. A read
of logits with edits takes 8 bytes a block more for the mask, 4 for each list, and 8 an entry.
Programs share nothing.
PyTorch twin: `edited` in `fused_sampler.edits.apply`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fused_sampler.edits import history

from .arguments import Edits, Sparse, of_row
from .arithmetic import BLOCK, widen

END = tl.constexpr(history.END)
SPAN = tl.constexpr(2 * BLOCK.value)  # a span: where entries begin, times this, and how many


@triton.jit
def bias_of(bias, bias_ptr, ids, half):
    """The bias of some ids in a row's list, by bisection; 0 for one that is not in it."""
    below = tl.zeros_like(ids)  # so many entries
    while half > 0:
        inside = below + half <= bias.stride
        entry = tl.load(bias.ids_ptr + below + half - 1, mask=inside, other=END)
        below = tl.where(entry < ids, below + half, below)
        half = half // 2
    inside = below < bias.stride
    entry = tl.load(bias.ids_ptr + below, mask=inside, other=END)
    return tl.load(bias_ptr + below, mask=inside & (entry == ids), other=0.0)


@triton.jit
def penalized(x, count, dry, repetition, frequency, presence):
    """Logits of tokens that are in the history, and so often in the output."""
    divisor = tl.zeros_like(x) + repetition
    x = tl.where(x < 0, x * repetition, tl.math.div_rn(x, divisor))
    penalty = frequency * count.to(tl.float32) + presence
    x = tl.where(count > 0, x - penalty, x)
    return x if dry is None else x - dry


@triton.jit
def list_logits(
    row_ptr,
    entries,  # Sparse of the row: to be filled, but for the ids
    bias,  # Sparse of the row whose bias counts as well, and `bias_ptr` [n]; or None
    bias_ptr,
    counts_ptr,  # [n] int32; None: the list is that of the bias
    dry_ptr,  # [n] fp32, or None
    penalties,  # of the row: repetition, frequency, presence
    vocab_size,
    num_blocks,
    half,
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Write the new logits of a list, and the spans of `BINS` blocks."""
    first = tl.program_id(1) * BINS
    in_block = tl.full([BINS], 0, tl.int32)
    before = tl.full([CHUNK], 0, tl.int32)
    start = 0
    more = True
    while more:
        at = start + tl.arange(0, CHUNK)
        ids = tl.load(entries.ids_ptr + at, mask=at < entries.stride, other=END)
        if (start // CHUNK) % tl.num_programs(1) == tl.program_id(1):
            mask = ids < vocab_size
            x = widen(tl.load(row_ptr + ids, mask=mask, other=0.0))
            if counts_ptr is None:
                x += tl.load(bias_ptr + at, mask=mask, other=0.0)
            else:
                if bias is not None:
                    x += bias_of(bias, bias_ptr, ids, half)
                count = tl.load(counts_ptr + at, mask=mask, other=0)
                dry = None
                if dry_ptr is not None:
                    dry = tl.load(dry_ptr + at, mask=mask, other=0.0)
                x = penalized(x, count, dry, penalties[0], penalties[1], penalties[2])
            tl.store(entries.logits_ptr + at, x, mask=mask)
        block = (ids // BLOCK) - first
        before += (block < 0).to(tl.int32)
        in_block += tl.histogram(tl.maximum(block, 0), BINS, (block >= 0) & (block < BINS))
        start += CHUNK
        more = (tl.max(ids) < END) & (start < entries.stride)
    starts = tl.cumsum(in_block, 0) - in_block + tl.sum(before)
    offs_n = first + tl.arange(0, BINS)
    tl.store(entries.spans_ptr + offs_n, starts * SPAN + in_block, mask=offs_n < num_blocks)


@triton.jit(do_not_specialize=["half"])
def _edit_kernel(
    logits_ptr,  # [B, V] fp32 | bf16 | fp16
    bias,  # Sparse [B] without logits and spans, and `bias_ptr` [B, n] fp32; or None
    bias_ptr,
    counts,  # the same, with `counts_ptr` [B, n] int32
    counts_ptr,
    dry_ptr,  # [B, n] fp32, or None
    repetition,  # Column fp32, as are the next two
    frequency,
    presence,
    logits_stride_b,
    vocab_size,
    num_blocks,
    half,  # the largest power of two that is no more than the bias's n
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    pid_b = tl.program_id(0).to(tl.int64)  # int64: B * V overflows int32
    row_ptr = logits_ptr + pid_b * logits_stride_b
    own_bias = sparse_of_row(bias, pid_b, num_blocks)
    if bias is not None:
        bias_ptr += pid_b * bias.stride
    is_last = tl.program_id(2) == tl.num_programs(2) - 1
    if counts is None:
        list_logits(
            row_ptr, own_bias, None, bias_ptr, None, None, None,
            vocab_size, num_blocks, half, BINS, CHUNK,
        )  # fmt: skip
    elif is_last:
        if dry_ptr is not None:
            dry_ptr += pid_b * counts.stride
        penalties = (
            of_row(repetition, pid_b, tl.float32),
            of_row(frequency, pid_b, tl.float32),
            of_row(presence, pid_b, tl.float32),
        )
        list_logits(
            row_ptr, sparse_of_row(counts, pid_b, num_blocks), own_bias, bias_ptr,
            counts_ptr + pid_b * counts.stride, dry_ptr, penalties,
            vocab_size, num_blocks, half, BINS, CHUNK,
        )  # fmt: skip
    elif bias is not None:
        list_logits(
            row_ptr, own_bias, None, bias_ptr, None, None, None,
            vocab_size, num_blocks, half, BINS, CHUNK,
        )  # fmt: skip


@triton.jit
def sparse_of_row(entries, pid_b, num_blocks):
    """A row's list, if there is one."""
    if entries is None:
        return None
    else:
        first = pid_b * entries.stride
        return Sparse(
            entries.ids_ptr + first,
            entries.logits_ptr + first,
            entries.spans_ptr + pid_b * num_blocks,
            entries.stride,
        )


@triton.jit
def edits_of_row(edits, pid_b, num_blocks):
    """A row's edits, if there are any."""
    if edits is None:
        return None
    else:
        allowed_ptr = edits.allowed_ptr
        if allowed_ptr is not None:
            allowed_ptr += pid_b * edits.allowed_stride
        return Edits(
            allowed_ptr,
            edits.allowed_stride,
            sparse_of_row(edits.bias, pid_b, num_blocks),
            sparse_of_row(edits.counts, pid_b, num_blocks),
        )


@triton.jit
def replaced(x, entries, offs_n, mask_n):
    """Logits [ROWS, 64] of blocks with the new ones of a list."""
    lanes = tl.arange(0, BLOCK)[None, :]
    span = tl.load(entries.spans_ptr + offs_n, mask=mask_n, other=0)
    first, count = span // SPAN, span % SPAN
    for i in range(0, tl.max(count, axis=0)):
        has = i < count
        lane = tl.load(entries.ids_ptr + first + i, mask=has, other=0) & (BLOCK - 1)
        new = tl.load(entries.logits_ptr + first + i, mask=has, other=0.0)
        x = tl.where(lanes == tl.where(has, lane, -1)[:, None], new[:, None], x)
    return x


@triton.jit
def edit(x, edits, offs_n, mask_n, vocab_size):
    """Logits fp32 [ROWS, 64] of these blocks, with the row's edits."""
    if edits.bias is not None:
        x = replaced(x, edits.bias, offs_n, mask_n)
    if edits.counts is not None:
        x = replaced(x, edits.counts, offs_n, mask_n)
    if edits.allowed_ptr is not None:
        lanes = tl.arange(0, BLOCK)[None, :]
        second = offs_n * 2 + 1
        has_second = mask_n & (second * 32 < vocab_size)
        low = tl.load(edits.allowed_ptr + second - 1, mask=mask_n, other=0)
        high = tl.load(edits.allowed_ptr + second, mask=has_second, other=0)
        bits = tl.where(lanes < 32, low[:, None], high[:, None]) >> (lanes & 31)
        x = tl.where((bits & 1) > 0, x, -float("inf"))
    return x
