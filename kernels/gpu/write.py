"""Step 3 of `softmax` and `mask_logits`: write the row that the earlier steps have settled.

    softmax:      out[b, i] = 2**((x[b, i] - m) * c) / (M / 2**40), M the row's integer mass
    mask_logits:  out[b, i] = x[b, i] / T where x[b, i] is between the row's thresholds, else -inf

A greedy row is one-hot, or keeps its one token's undivided logit; an invalid row is NaN throughout.

Launch: grid (B, splits), like `summarize.py`. Traffic: 1 write in fp32; `softmax` 1 read,
`mask_logits` only the blocks that hold something kept. Programs share nothing.
PyTorch twins: `softmax` and `mask_logits` in `fused_sampler.contract.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arguments import of_row
from .arithmetic import BEST_MASS, BLOCK, GREEDY_BELOW, widen
from .edit import edit, edits_of_row


@triton.jit(do_not_specialize=["tiles"])
def _write_kernel(
    logits_ptr,  # [B, V] fp32 | bf16 | fp16
    temperature,  # Column fp32, as is the next
    c,
    maxima_ptr,  # [B, N] like logits
    settled,  # Settled [B]
    tokens_ptr,  # [B] int64: of a greedy row its one token
    output_ptr,  # [B, V] fp32
    edits,  # Edits [B], or None
    logits_stride_b,
    vocab_size,
    num_blocks,
    tiles,  # a program
    ROWS: tl.constexpr,
    PROBABILITIES: tl.constexpr,
):
    pid_b = tl.program_id(0).to(tl.int64)  # int64: B * V overflows int32
    pid_s = tl.program_id(1)
    temperature = of_row(temperature, pid_b, tl.float32)
    c = of_row(c, pid_b, tl.float32)
    row_max = tl.load(settled.row_max_ptr + pid_b)
    threshold = tl.load(settled.thresholds_ptr + pid_b)
    mass = tl.load(settled.masses_ptr + pid_b)
    token = tl.load(tokens_ptr + pid_b).to(tl.int32)
    valid = row_max == row_max
    greedy = (temperature < GREEDY_BELOW) & valid
    token = tl.where(greedy, token, -1)  # the only one that is kept
    divisor = tl.where(greedy, 1.0, temperature)
    threshold = tl.where(valid, threshold, float("nan"))  # nothing reaches that
    top = float("inf")
    if settled.tops_ptr is not None:
        top = tl.load(settled.tops_ptr + pid_b)
    edits = edits_of_row(edits, pid_b, num_blocks)
    dropped = tl.where(valid, -float("inf"), float("nan"))
    for tile in range(pid_s * tiles, (pid_s + 1) * tiles):
        offs_n = tile * ROWS + tl.arange(0, ROWS)
        offs_v = offs_n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        mask_v = offs_v < vocab_size
        if PROBABILITIES:
            x = widen(tl.load(logits_ptr + pid_b * logits_stride_b + offs_v, mask=mask_v))
            out = tl.exp2((x - row_max) * c) * (BEST_MASS / mass.to(tl.float32))
            out = tl.where(greedy, (offs_v == token).to(tl.float32), out)
        else:
            block_max = tl.load(
                maxima_ptr + pid_b * num_blocks + offs_n,
                mask=offs_n < num_blocks,
                other=-float("inf"),
            )
            reach = widen(block_max) >= threshold
            x = tl.load(
                logits_ptr + pid_b * logits_stride_b + offs_v,
                mask=reach[:, None] & mask_v,
                other=-float("inf"),
            ).to(tl.float32)
            if edits is not None:
                x = edit(x, edits, offs_n, reach, vocab_size)
            kept = (x + 0.0 >= threshold) & ((token < 0) | (offs_v == token))
            if settled.tops_ptr is not None:
                kept &= x <= top
            out = tl.where(kept, tl.math.div_rn(x, divisor), dropped)
        tl.store(output_ptr + pid_b * vocab_size + offs_v, out, mask=mask_v)
