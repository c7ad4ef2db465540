"""Step 2, select and draw: from the block table to the tokens, one program a row.

    M = mass of the kept tokens,  r = floor(U * M / 2**64),  U = 64 bits of Philox-4x32-10
    token = first id whose prefix of masses, in vocabulary order, passes r (contract sections 5, 6)

A prefix sum over the table's masses finds the block; its 64 logits are read again, and a cumulative
sum among them finds the token. A greedy row is the same draw with r = 0 among its maxima.

Launch: grid (B,). Traffic: the block table once, what `select.py` reads of a filtered row, 64
logits a draw. `list_ptr` is scratch memory: `[B, 2 * LIST + GROUPS]` int32.
Races: programs work on rows of their own; within one, `select` ends with a barrier before its sums
are read back here.
PyTorch twin: `sample` in `fused_sampler.contract.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    BEST_MASS,
    BLOCK,
    GREEDY_BELOW,
    LOG2_E,
    LOWEST_FLOAT,
    block_scale,
    key_of,
    load_sums,
    of_row,
    scale_sums,
    token_weights,
    value_of,
    widen,
)
from .select import select
from .table import load_block_key, load_group_key, load_group_mass


@triton.jit
def random_bits(seed, step, stream, draw):
    """`U`, uint64: key = seed, counter = (step low, step high, stream, draw)."""
    high, low, _, _ = tl.philox(
        seed,
        step.to(tl.uint32),
        (step >> 32).to(tl.uint32),
        stream.to(tl.uint32),
        (tl.zeros([], tl.int32) + draw).to(tl.uint32),
    )
    return (high.to(tl.uint64) << 32) | low.to(tl.uint64)


@triton.jit
def log_probability(below_max, mass):
    """Of a token this far below the row's maximum, fp64; `mass` in units of the best token's."""
    return (below_max - tl.log(mass.to(tl.float64) * (1.0 / BEST_MASS))).to(tl.float32)


@triton.jit
def block_of(
    maxima_ptr,
    sums_low_ptr,
    sums_high_ptr,
    group,
    left,
    row_max,
    threshold,
    greedy,
    c,
    num_blocks,
    PER_GROUP: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """The block of a group in which a prefix of masses passes `left`, and what is left in it."""
    block = group * PER_GROUP
    if PER_GROUP > 1:
        found = block < 0
        for j in range(PER_GROUP):
            n = group * PER_GROUP + j
            block_key = load_block_key(maxima_ptr, n, num_blocks, SHIFT)
            reach = block_key >= threshold
            sums = load_sums(sums_low_ptr, sums_high_ptr, n, (n < num_blocks) & reach)
            mantissa, shift = block_scale(value_of(block_key, SHIFT), row_max, c)
            mass = scale_sums(sums, mantissa, shift)
            if greedy:
                mass = reach.to(tl.int64)
            passes = (found == 0) & (mass > left)
            block = tl.where(passes, n, block)
            found = found | passes
            left = tl.where(found, left, left - mass)
    return block, left


@triton.jit
def token_of(
    logits_ptr,
    block,
    left,
    row_max,
    threshold,
    c,
    vocab_size,
    BLOCK: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """The id at which the masses inside a block pass `left`, and its logit."""
    lanes = tl.arange(0, BLOCK)
    offs_v = block * BLOCK + lanes
    x = widen(tl.load(logits_ptr + offs_v, mask=offs_v < vocab_size, other=-float("inf")))
    block_max = tl.max(x, axis=0)
    mantissa, shift = block_scale(block_max, row_max, c)
    kept = tl.where(key_of(x, SHIFT) >= threshold, token_weights(x, block_max, c), 0)
    upto = scale_sums(tl.cumsum(kept.to(tl.int64), 0), mantissa, shift)
    lane = tl.sum((upto <= left).to(tl.int32))
    return block * BLOCK + lane, tl.sum(tl.where(lanes == lane, x, 0.0))


@triton.jit(
    do_not_specialize=["top_k_ptr", "seed_ptr", "step_ptr", "stream_ptr", "num_samples", "splits"]
)
def _draw_kernel(
    logits_ptr,  # [B, V] fp32 | bf16 | fp16
    temperature_ptr,  # [B] fp32, or one number; so are the next four
    c_ptr,  # fp32
    top_k_ptr,  # int64
    top_p_ptr,  # fp64
    min_p_log2_ptr,  # fp32
    seed_ptr,  # [B] int64, or one number
    step_ptr,  # [B] int64, or one number
    stream_ptr,  # [B] int64, one number, or None: the row's own number
    maxima_ptr,  # [B, N] like logits
    sums_low_ptr,  # [B, N] int32
    sums_high_ptr,  # [B, N] int8
    raw_low_ptr,  # [B, N] int32
    raw_high_ptr,  # [B, N] int8
    allowed_ptr,  # [B, splits] int32
    list_ptr,  # [B, 2 * LIST + GROUPS] int32
    tokens_ptr,  # [B, num_samples] int64
    row_max_ptr,  # [B] fp32; NaN for an invalid row
    thresholds_ptr,  # [B] fp32: the lowest logit that is kept
    masses_ptr,  # [B] int64: of the kept tokens
    logprobs_ptr,  # [B, num_samples] fp32
    raw_logprobs_ptr,  # [B, num_samples] fp32
    kept_ptr,  # [B] int64
    logits_stride_b,
    seed_stride,
    step_stride,
    vocab_size,
    num_blocks,
    num_samples,
    splits,
    BY_VALUE: tl.constexpr,  # a bit for each of the eight
    INFO: tl.constexpr,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    LIST: tl.constexpr,
    TILE: tl.constexpr,
    SHIFT: tl.constexpr,
):
    pid_b = tl.program_id(0).to(tl.int64)  # int64: B * V overflows int32
    greedy = of_row(temperature_ptr, pid_b, 1, BY_VALUE & 1, tl.float32) < GREEDY_BELOW
    c = of_row(c_ptr, pid_b, 1, BY_VALUE & 2, tl.float32)
    top_k = of_row(top_k_ptr, pid_b, 1, BY_VALUE & 4, tl.int32)
    top_p = of_row(top_p_ptr, pid_b, 1, BY_VALUE & 8, tl.float32)
    min_p_log2 = of_row(min_p_log2_ptr, pid_b, 1, BY_VALUE & 16, tl.float32)
    logits_ptr += pid_b * logits_stride_b
    maxima_ptr += pid_b * num_blocks
    sums_low_ptr += pid_b * num_blocks
    sums_high_ptr += pid_b * num_blocks
    list_ptr += pid_b * (2 * LIST + GROUPS)

    group_key = load_group_key(maxima_ptr, num_blocks, GROUPS, PER_GROUP, SHIFT)
    row_max = value_of(tl.max(group_key, axis=0), SHIFT)
    valid = (row_max < float("inf")) & (row_max > -float("inf"))
    c = tl.where(greedy, LOG2_E, c)  # any: only the maximum is kept, of weight 2**30
    threshold = key_of(tl.minimum(row_max, LOWEST_FLOAT), SHIFT)  # of the lowest finite logit
    kept = 0
    filtered = (top_k < vocab_size) | (top_p < 1) | (min_p_log2 > -float("inf"))
    if greedy:
        threshold = key_of(row_max, SHIFT)
        kept = 1
    elif valid & filtered:
        threshold, kept = select(
            logits_ptr,
            maxima_ptr,
            sums_low_ptr,
            sums_high_ptr,
            list_ptr,
            list_ptr + 2 * LIST,
            group_key,
            row_max,
            c,
            top_k,
            top_p,
            min_p_log2,
            vocab_size,
            num_blocks,
            GROUPS,
            PER_GROUP,
            LIST,
            TILE,
            SHIFT,
        )
    elif INFO:
        for s in range(splits):
            kept += tl.load(allowed_ptr + pid_b * splits + s)

    reach = (group_key >= threshold).to(tl.int64)
    if greedy:
        group_mass = reach
    else:
        group_mass = load_group_mass(
            maxima_ptr,
            sums_low_ptr,
            sums_high_ptr,
            group_key,
            row_max,
            threshold,
            c,
            num_blocks,
            GROUPS,
            PER_GROUP,
            SHIFT,
        )
    mass = tl.sum(group_mass)
    upto = tl.cumsum(group_mass, 0)
    groups = tl.arange(0, GROUPS)
    tl.store(row_max_ptr + pid_b, tl.where(valid, row_max, float("nan")))
    tl.store(thresholds_ptr + pid_b, value_of(threshold, SHIFT))
    tl.store(masses_ptr + pid_b, mass)
    seed = of_row(seed_ptr, pid_b, seed_stride, BY_VALUE & 32, tl.int64)
    step = of_row(step_ptr, pid_b, step_stride, BY_VALUE & 64, tl.int64)
    stream = pid_b
    if stream_ptr is not None:
        stream = of_row(stream_ptr, pid_b, 1, BY_VALUE & 128, tl.int64)
    if INFO:
        raw = load_group_mass(
            maxima_ptr,
            raw_low_ptr + pid_b * num_blocks,
            raw_high_ptr + pid_b * num_blocks,
            group_key,
            row_max,
            key_of(tl.minimum(row_max, LOWEST_FLOAT), SHIFT),
            LOG2_E,
            num_blocks,
            GROUPS,
            PER_GROUP,
            SHIFT,
        )
        raw_mass = tl.sum(raw)
        tl.store(kept_ptr + pid_b, tl.where(valid, kept, 0).to(tl.int64))

    for draw in range(num_samples):
        bits = random_bits(seed, step, stream, draw)
        left = tl.umulhi(bits, mass.to(tl.uint64)).to(tl.int64)
        left = tl.where(greedy, 0, left)
        group = tl.sum((upto <= left).to(tl.int32))
        left -= tl.sum(tl.where(groups < group, group_mass, 0))
        block, left = block_of(
            maxima_ptr,
            sums_low_ptr,
            sums_high_ptr,
            group,
            left,
            row_max,
            threshold,
            greedy,
            c,
            num_blocks,
            PER_GROUP,
            SHIFT,
        )
        token, x = token_of(
            logits_ptr, block, left, row_max, threshold, c, vocab_size, BLOCK, SHIFT
        )
        place = pid_b * num_samples + draw
        tl.store(tokens_ptr + place, tl.where(valid, token, -1).to(tl.int64))
        if INFO:
            temperature = of_row(temperature_ptr, pid_b, 1, BY_VALUE & 1, tl.float32)
            below_max = x.to(tl.float64) - row_max.to(tl.float64)
            logprob = log_probability(below_max / temperature.to(tl.float64), mass)
            logprob = tl.where(greedy, 0.0, logprob)
            raw_logprob = log_probability(below_max, raw_mass)
            tl.store(logprobs_ptr + place, tl.where(valid, logprob, float("nan")))
            tl.store(raw_logprobs_ptr + place, tl.where(valid, raw_logprob, float("nan")))
