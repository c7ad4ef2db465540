"""Step 2, select and draw: from the block table to the tokens, one program a row.

    M = mass of the kept tokens,  r = floor(U * M / 2**64),  U = 64 bits of Philox-4x32-10
    token = first id whose prefix of masses, in vocabulary order, passes r (contract sections 5, 6)

A prefix sum over the table's masses finds the block; its 64 logits are read again, and a cumulative
sum among them finds the token. A greedy row is the same draw with r = 0 among its maxima.

Launch: grid (B,), the last. Traffic: the block table once, what `select.py` reads of a row with
filters, 64 logits a draw. `scratch_ptr` is scratch memory: `[B, 2 * LIST + GROUPS]` int32.
Races: programs work on rows of their own; within one, `select` ends with a barrier before its sums
are read back here.
PyTorch twin: `sample` in `fused_sampler.contract.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arguments import Column, Table, filtered, filters_of_row, of_row, seen_with
from .arithmetic import (
    BLOCK,
    GREEDY_BELOW,
    LN_2,
    LOG2_E,
    block_scale,
    key_of,
    log2_mass,
    lowest_key,
    scale_sums,
    token_weights,
    value_of,
    widen,
)
from .collect import collect, first_with, highest_between, load_block, trim
from .distinct import best_left, group_key_of, take_token
from .edit import edits_of_row
from .rounds import rounds_of_row
from .search import inside
from .select import select
from .table import load_block_key, load_group_mass, load_row


@triton.jit
def random_bits(seed, step, stream, draw):
    """`U`, uint64, and the word after it: key = seed, counter = (step, stream, draw)."""
    high, low, third, _ = tl.philox(
        seed,
        step.to(tl.uint32),
        (step >> 32).to(tl.uint32),
        stream.to(tl.uint32),
        (tl.zeros([], tl.int32) + draw).to(tl.uint32),
    )
    return (high.to(tl.uint64) << 32) | low.to(tl.uint64), third.to(tl.uint32)


@triton.jit
def block_of(row, group, left, threshold, greedy, SHAPE: tl.constexpr):
    """The block of a group in which a prefix of masses passes `left`, and what is left in it."""
    block = group * SHAPE.PER_GROUP
    if SHAPE.PER_GROUP > 1:
        found = block < 0
        for j in range(SHAPE.PER_GROUP):
            n = group * SHAPE.PER_GROUP + j
            block_key = load_block_key(row.table, n, row.num_blocks, SHAPE.SHIFT)
            reach = block_key >= threshold
            # A greedy row has no sums.
            mask = (n < row.num_blocks) & reach & (greedy == 0)
            sums = tl.load(row.table.sums_ptr + n, mask=mask, other=0)
            mantissa, shift = block_scale(value_of(block_key, SHAPE.SHIFT), row.max, row.c)
            mass = scale_sums(sums, mantissa, shift)
            if greedy:
                mass = reach.to(tl.int64)
            passes = (found == 0) & (mass > left)
            block = tl.where(passes, n, block)
            found = found | passes
            left = tl.where(found, left, left - mass)
    return block, left


@triton.jit
def token_of(row, block, left, threshold, end, SHIFT: tl.constexpr):
    """The id at which the masses inside a block pass `left`, and its logit."""
    lanes = tl.arange(0, BLOCK)
    x = load_block(row, block)
    block_max = tl.max(x, axis=0)
    mantissa, shift = block_scale(block_max, row.max, row.c)
    key = key_of(x, SHIFT)
    kept = key >= threshold if end is None else inside(key, threshold, end)
    weights = tl.where(kept, token_weights(x, block_max, row.c), 0)
    upto = scale_sums(tl.cumsum(weights.to(tl.int64), 0), mantissa, shift)
    lane = tl.sum((upto <= left).to(tl.int32))
    return block * BLOCK + lane, tl.sum(tl.where(lanes == lane, x, 0.0))


@triton.jit(do_not_specialize=["seed_ptr", "step_ptr", "stream_ptr", "num_samples", "splits"])
def _draw_kernel(
    logits_ptr,  # [B, V] fp32 | bf16 | fp16
    temperature,  # Column fp32, as are the next two
    c,
    filter_c,  # or None: that of the draw
    filters,  # Filters of Columns
    xtc_chance,  # Column fp32, or None
    seed_ptr,  # [B] int64, or one number, as are the next two
    step_ptr,
    stream_ptr,  # or None: the row's own number
    slots_ptr,  # [B] int32: seed and step are tables of such lines; or None
    table,  # Table [B, N]
    scratch_ptr,  # [B, 2 * LIST + GROUPS] int32
    tokens_ptr,  # [B, num_samples] int64
    taken_ptr,  # [B, N] int64, zeros: a bit for each token that is drawn; None: with replacement
    settled,  # Settled [B]
    rounds,  # Rounds [B], or None
    info,  # Info, or None
    edits,  # Edits [B], or None
    logits_stride_b,
    seed_stride,  # None: a number
    step_stride,
    stream_stride,
    vocab_size,
    num_blocks,
    num_samples,
    splits,
    SHAPE: tl.constexpr,
):
    pid_b = tl.program_id(0).to(tl.int64)  # int64: B * V overflows int32
    temperature = of_row(temperature, pid_b, tl.float32)
    c = of_row(c, pid_b, tl.float32)
    filters = filters_of_row(filters, pid_b)
    greedy = temperature < GREEDY_BELOW
    c = tl.where(greedy, LOG2_E, c)  # any: only the maximum is kept, of weight 2**30
    logits_ptr += pid_b * logits_stride_b
    edits = edits_of_row(edits, pid_b, num_blocks)
    row = load_row(
        logits_ptr, table, scratch_ptr, c, vocab_size, num_blocks, edits, pid_b, SHAPE
    )  # fmt: skip
    if rounds is not None:
        rounds = rounds_of_row(rounds, pid_b, SHAPE)
    seed = of_row(Column(seed_ptr, seed_stride, slots_ptr), pid_b, tl.int64)
    step = of_row(Column(step_ptr, step_stride, slots_ptr), pid_b, tl.int64)
    step += tl.zeros([], tl.int64)  # Triton's interpreter has numbers from 2**31 on in 32 bits
    stream = pid_b
    if stream_ptr is not None:
        stream = of_row(Column(stream_ptr, stream_stride, None), pid_b, tl.int64)
    valid = (row.max < float("inf")) & (row.max > -float("inf"))
    # Nothing reaches the threshold of an invalid row: its sums may not be there.
    threshold = tl.where(valid, lowest_key(SHAPE.SHIFT), 0x7FFFFFFF)
    kept = 0
    end = None  # all reach up to the maximum
    if settled.tops_ptr is not None:
        end = key_of(row.max, SHAPE.SHIFT) + 1
    if greedy:
        threshold = key_of(row.max, SHAPE.SHIFT)
        kept = 1
        group_mass = (row.group_key >= threshold).to(tl.int64)
    elif valid & filtered(filters, vocab_size):
        seen = row
        if filter_c is not None:
            seen = seen_with(row, of_row(filter_c, pid_b, tl.float32), None, None)
        xtc = filters.xtc_threshold
        if xtc is not None:
            _, third = random_bits(seed, step, stream, 0)
            chance = of_row(xtc_chance, pid_b, tl.float32).to(tl.float64)
            xtc = tl.where(third.to(tl.float64) < chance, xtc, float("inf"))
        selected = select(seen, filters, xtc, rounds, SHAPE)
        threshold, kept, group_mass = selected.low, selected.count, selected.group_mass
        if settled.tops_ptr is not None:
            end = selected.high
        if filter_c is not None:
            collect(row, threshold, threshold, SHAPE)
            if settled.tops_ptr is not None:
                trim(row, selected.high, key_of(row.max, SHAPE.SHIFT) + 1, SHAPE)
            group_mass = load_group_mass(row, row.table, threshold, row.c, SHAPE)
    else:
        group_mass = load_group_mass(row, row.table, threshold, row.c, SHAPE)
    if info is not None:
        if kept <= 0:  # all that are allowed, but so many
            for s in range(splits):
                kept += tl.load(info.finite_ptr + pid_b * splits + s)
    mass = tl.sum(group_mass)
    upto = tl.cumsum(group_mass, 0)
    groups = tl.arange(0, SHAPE.GROUPS)
    tl.store(settled.row_max_ptr + pid_b, tl.where(valid, row.max, float("nan")))
    tl.store(settled.thresholds_ptr + pid_b, value_of(threshold, SHAPE.SHIFT))
    tl.store(settled.masses_ptr + pid_b, mass)
    if settled.tops_ptr is not None:
        tl.store(settled.tops_ptr + pid_b, value_of(end - 1, SHAPE.SHIFT))  # type: ignore
    if info is not None:
        raw = row
        if edits is None:
            raw_table = Table(row.table.maxima_ptr, info.raw.sums_ptr + pid_b * num_blocks)
        else:
            raw = load_row(
                logits_ptr, info.raw, scratch_ptr, c, vocab_size, num_blocks, None, pid_b, SHAPE
            )  # fmt: skip
            raw_table = raw.table
        lowest = lowest_key(SHAPE.SHIFT)
        raw_mass = tl.sum(load_group_mass(raw, raw_table, lowest, LOG2_E, SHAPE))
        raw_max = raw.max
        if edits is not None:  # what is banned may be no number
            raw_max = tl.where(valid & (raw_max < float("inf")), raw_max, float("nan"))
            tl.store(info.raw_max_ptr + pid_b, raw_max)
        log_mass, log_raw_mass = log2_mass(mass) * LN_2, log2_mass(raw_mass) * LN_2
        tl.store(info.kept_ptr + pid_b, tl.where(valid, kept, 0).to(tl.int64))
        tl.store(info.log_masses_ptr + pid_b, log_mass)
        tl.store(info.raw_log_masses_ptr + pid_b, log_raw_mass)

    # Without the row's best token the others may have no mass at a temperature the filters ignored.
    may_vanish: tl.constexpr = (
        (filter_c is not None) and (settled.tops_ptr is not None) and (taken_ptr is None)
    )
    if may_vanish:
        vanished = valid & (mass == 0)
        best_token, best_x = 0, row.max
        if vanished:
            best_key = highest_between(row, threshold, end, SHAPE)
            best_token = first_with(row, best_key, SHAPE)
            best_x = value_of(best_key, SHAPE.SHIFT)

    given = valid  # whether there is a token to draw
    group_key = row.group_key
    if taken_ptr is not None:
        taken_ptr += pid_b * num_blocks
    for draw in range(num_samples):
        bits, _ = random_bits(seed, step, stream, draw)
        left = tl.umulhi(bits, mass.to(tl.uint64)).to(tl.int64)
        left = tl.where(greedy, 0, left)
        if taken_ptr is not None:
            given = valid & (mass > 0)
            if greedy:
                threshold, group_mass = best_left(group_key, groups, SHAPE)
                upto = tl.cumsum(group_mass, 0)
                given = valid & (threshold >= lowest_key(SHAPE.SHIFT))
        group = tl.sum((upto <= left).to(tl.int32))
        left -= tl.sum(tl.where(groups < group, group_mass, 0))
        block, left = block_of(row, group, left, threshold, greedy, SHAPE)
        if taken_ptr is None:
            token, x = token_of(row, block, left, threshold, end, SHAPE.SHIFT)
        else:
            token, x, lost = take_token(
                row, taken_ptr, block, left, threshold, end, greedy, given, SHAPE.SHIFT
            )
            if greedy:
                key = group_key_of(row, group, SHAPE)
                group_key = tl.where(groups == group, key, group_key)
            else:
                group_mass -= tl.where(groups == group, lost, 0)
                upto -= tl.where(groups >= group, lost, 0)
                mass -= lost
        if may_vanish:
            token = tl.where(vanished, best_token, token)
            x = tl.where(vanished, best_x, x)
        place = pid_b * num_samples + draw
        tl.store(tokens_ptr + place, tl.where(given, token, -1).to(tl.int64))
        if info is not None:
            below_max = x.to(tl.float64) - row.max.to(tl.float64)
            logprob = (below_max / temperature.to(tl.float64) - log_mass).to(tl.float32)
            logprob = tl.where(greedy, 0.0, logprob)
            if taken_ptr is not None:  # none but its best token is kept
                logprob = tl.where(greedy & (draw > 0), -float("inf"), logprob)
            if edits is not None:
                raw_x = widen(tl.load(logits_ptr + token, mask=given, other=0.0)).to(tl.float64)
                below_max = raw_x - raw_max.to(tl.float64)  # type: ignore
            raw_logprob = (below_max - log_raw_mass).to(tl.float32)
            tl.store(info.logprobs_ptr + place, tl.where(given, logprob, float("nan")))
            tl.store(info.raw_logprobs_ptr + place, tl.where(given, raw_logprob, float("nan")))
