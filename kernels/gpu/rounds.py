"""Step 2 with many programs a row, where a bracket may be wide: narrow it and collect.

    bracket  ranks `low <= threshold < high` from the block table, one program a row
    round 0  list the logits of the bracket, and count them in bins
    round 1  where the list was too short: the bins enclose the threshold in a window (`window.py`);
             list its logits, or where they are too many as well count them in bins of its own, and
             sum up all from its lower end up

`select.py` goes on from there. Programs whose row is done, or needs none of this, return at once.
Where all logits of a window are one value, these sums are what is kept, however many they are.

Launch: grid (B,) for the bracket, (B, splits) for the rounds.
Traffic: the table once, and in each round the blocks that reach `low`; 4 bytes a bin and program.
Races: what programs of a row share is added to, by atomics, and integers: any order is the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arguments import (
    Rounds,
    Row,
    filters_of_row,
    is_below,
    is_typical_first,
    of_row,
    seen_with,
    table_of_row,
)
from .arithmetic import BLOCK, GREEDY_BELOW, about_z, key_of, lowest_key, value_of
from .bracket import Bracket, bracket, bracket_near, lowest_kept, lowest_of_sigma
from .collect import Found, append, keep, load_logits
from .depth import whole_row_depth
from .edit import edits_of_row
from .rank import place_of, rank_of, reach_of, shift_of
from .search import inside
from .table import load_block_key, load_group_mass, load_row
from .window import COARSE, UNIT, bin_of, half_width, spread, window

# Places in `words_ptr`: of the bracket and round 0, then of the window and round 1,
LOW, HIGH, LISTED, LEAST, MOST = (tl.constexpr(i) for i in range(5))
A_ROUND = tl.constexpr(5)
# of the row, and from `WORDS` on the bins of round 0 and of round 1.
BY_MASS, HAS_MASSES, FIRST, LAST, COUNT, MAX, MEAN = (tl.constexpr(i) for i in range(10, 17))
WORDS = tl.constexpr(32)
# Places in `masses_ptr`: from `FROM` on those from each 8th of a round's bins up, and a 0.
NEED, MASS, FROM = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
MASSES = tl.constexpr(32)
NOTHING = tl.constexpr(0x7FFFFFFF)  # the `low` of a row that is not searched


@triton.jit
def rounds_of_row(rounds, pid_b, SHAPE: tl.constexpr):
    """What programs share of one row."""
    words_ptr = rounds.words_ptr + pid_b * (WORDS + 2 * SHAPE.BINS)
    return Rounds(words_ptr, rounds.masses_ptr + pid_b * MASSES)


@triton.jit
def _bracket_kernel(
    logits_ptr,  # [B, V] fp32 | bf16 | fp16; read for top-n-sigma before top-p only
    temperature,  # Column fp32, as is the next
    c,
    filters,  # Filters of Columns
    table,  # Table [B, N]
    scratch_ptr,  # [B, 2 * LIST + GROUPS] int32
    rounds,  # Rounds [B]
    logits_stride_b,
    vocab_size,
    num_blocks,
    SHAPE: tl.constexpr,
):
    pid_b = tl.program_id(0).to(tl.int64)  # int64: B * V overflows int32
    greedy = of_row(temperature, pid_b, tl.float32) < GREEDY_BELOW
    c = of_row(c, pid_b, tl.float32)
    filters = filters_of_row(filters, pid_b)
    logits_ptr += pid_b * logits_stride_b
    row = load_row(
        logits_ptr, table, scratch_ptr, c, vocab_size, num_blocks, None, pid_b, SHAPE
    )  # fmt: skip
    rounds = rounds_of_row(rounds, pid_b, SHAPE)
    tl.store(rounds.words_ptr + tl.arange(0, WORDS), tl.zeros([WORDS], tl.int32))
    bins = tl.arange(0, 2 * SHAPE.BINS)
    tl.store(rounds.words_ptr + WORDS + bins, tl.zeros_like(bins))
    tl.store(rounds.masses_ptr + tl.arange(0, MASSES), tl.zeros([MASSES], tl.int64))
    tl.debug_barrier()  # what is not 0 is written after this
    valid = (row.max < float("inf")) & (row.max > -float("inf"))
    searched = (filters.top_k < vocab_size) | (filters.top_p < 1)
    searched |= is_typical_first(filters, vocab_size)
    searched &= is_below(filters.top_h, 1.0) == 0  # what that keeps are a few
    mean = tl.full([], float("nan"), tl.float32)
    if valid & (greedy == 0) & searched:
        if filters.typical_p is None:
            around, first, last = bracket_and_bins(row, filters, SHAPE)
        elif is_typical_first(filters, vocab_size):
            low = lowest_key(SHAPE.SHIFT)
            group_mass = load_group_mass(row, row.table, low, row.c, SHAPE)
            depth = whole_row_depth(row, SHAPE).to(tl.float64)
            mean = (depth / tl.sum(group_mass).to(tl.float64)).to(tl.float32)
            end = key_of(row.max, SHAPE.SHIFT) + 1
            near = seen_with(row, row.c, mean, low)
            around = bracket_near(near, filters.typical_p, group_mass, end, SHAPE)
            whole = Bracket(low, end, around.need, around.by_mass)
            first, last = spread(row, whole, SHAPE)
            first = tl.minimum(place_of(near, first), place_of(near, last))
            first, last = tl.maximum(first, value_of(around.low, 0)), tl.zeros([], tl.float32)
        else:
            around, first, last = bracket_and_bins(row, filters, SHAPE)
        tl.store(rounds.words_ptr + MAX, row.max.to(tl.int32, bitcast=True))
        tl.store(rounds.words_ptr + LOW, around.low)
        tl.store(rounds.words_ptr + HIGH, around.high)
        tl.store(rounds.words_ptr + BY_MASS, around.by_mass.to(tl.int32))
        has_masses = around.by_mass | (filters.top_p < 1)
        tl.store(rounds.words_ptr + HAS_MASSES, has_masses.to(tl.int32))
        tl.store(rounds.words_ptr + FIRST, first.to(tl.int32, bitcast=True))
        tl.store(rounds.words_ptr + LAST, last.to(tl.int32, bitcast=True))
        tl.store(rounds.masses_ptr + NEED, around.need)
        for i in tl.static_range(2):
            tl.store(rounds.words_ptr + i * A_ROUND + LEAST, 0x7FFFFFFF)
            tl.store(rounds.words_ptr + i * A_ROUND + MOST, -0x80000000)
    else:
        tl.store(rounds.words_ptr + LOW, NOTHING)
    tl.store(rounds.words_ptr + MEAN, mean.to(tl.int32, bitcast=True))


@triton.jit
def bracket_and_bins(row, filters, SHAPE: tl.constexpr):
    """The bracket of a row by its logits, and between which values its bins are."""
    low = lowest_of_sigma(row, filters, SHAPE)
    around = bracket(row, filters, low, lowest_kept(row, filters, SHAPE), SHAPE)
    first, last = spread(row, around, SHAPE)
    return around, first, last


@triton.jit(do_not_specialize=["tiles"])
def _round_kernel(
    logits_ptr,  # [B, V] fp32 | bf16 | fp16
    c,  # Column fp32
    table,  # Table [B, N]
    scratch_ptr,  # [B, 2 * LIST + GROUPS] int32
    rounds,  # Rounds [B]
    edits,  # Edits [B], or None
    logits_stride_b,
    vocab_size,
    num_blocks,
    tiles,  # a program
    TYPICAL: tl.constexpr,  # whether a row may be searched by nearness
    ROUND: tl.constexpr,
    SHAPE: tl.constexpr,
):
    pid_b = tl.program_id(0).to(tl.int64)  # int64: B * V overflows int32
    rounds = rounds_of_row(rounds, pid_b, SHAPE)
    list_ptr = scratch_ptr + pid_b * (2 * SHAPE.LIST + SHAPE.GROUPS)
    around = load_bracket(rounds, 0)
    row = Row(
        logits_ptr + pid_b * logits_stride_b,
        table_of_row(table, pid_b * num_blocks),
        list_ptr,
        None,  # no list of blocks
        None,  # no groups
        tl.load(rounds.words_ptr + MAX).to(tl.float32, bitcast=True),
        of_row(c, pid_b, tl.float32),
        vocab_size,
        num_blocks,
        edits_of_row(edits, pid_b, num_blocks),
        load_mean(rounds) if TYPICAL else None,
        lowest_key(SHAPE.SHIFT),
    )
    low, high = around.low, around.high
    wanted = low < NOTHING
    if ROUND == 1:
        wanted &= tl.load(rounds.words_ptr + LISTED) > SHAPE.LIST
    if wanted:
        count = 0
        if ROUND == 1:
            low, high, count = load_window(row, around, rounds, 0, SHAPE)
            if tl.program_id(1) == 0:
                tl.store(rounds.words_ptr + A_ROUND + LOW, low)
                tl.store(rounds.words_ptr + A_ROUND + HIGH, high)
        lists = count <= SHAPE.LIST
        gather(row, low, high, rounds, lists, tiles, ROUND, SHAPE)


@triton.jit
def load_mean(rounds):
    """To what a row's ranks are near; NaN where they are not by nearness."""
    return tl.load(rounds.words_ptr + MEAN).to(tl.float32, bitcast=True)


@triton.jit
def load_bracket(rounds, i):
    """The bracket of a row, or the window of round 1."""
    return Bracket(
        tl.load(rounds.words_ptr + i * A_ROUND + LOW),
        tl.load(rounds.words_ptr + i * A_ROUND + HIGH),
        tl.load(rounds.masses_ptr + NEED),
        tl.load(rounds.words_ptr + BY_MASS) > 0,
    )


@triton.jit
def load_bins(row, rounds, low, high, ROUND: tl.constexpr, SHAPE: tl.constexpr):
    """Where the first bin of a round begins, and half of a bin's width."""
    shift = shift_of(row, SHAPE.SHIFT)
    first, last = value_of(low, shift), value_of(high - 1, shift)
    if ROUND == 0:
        first = tl.load(rounds.words_ptr + FIRST).to(tl.float32, bitcast=True)
        last = tl.load(rounds.words_ptr + LAST).to(tl.float32, bitcast=True)
    return first, half_width(row, first, last, SHAPE)


@triton.jit
def load_counts(rounds, ROUND: tl.constexpr, SHAPE: tl.constexpr):
    """How many logits a round has counted in each bin, int32 [BINS]."""
    bins = tl.arange(0, SHAPE.BINS)
    return tl.load(rounds.words_ptr + WORDS + ROUND * SHAPE.BINS + bins)


@triton.jit
def load_window(row, around, rounds, ROUND: tl.constexpr, SHAPE: tl.constexpr):
    """The window inside of a bracket that the bins of a round give, and about the count in it."""
    first, width = load_bins(row, rounds, around.low, around.high, ROUND, SHAPE)
    in_bin = load_counts(rounds, ROUND, SHAPE)
    from_ptr = rounds.masses_ptr + FROM + ROUND * (COARSE + 1)
    coarse = tl.load(from_ptr + 1 + tl.arange(0, COARSE))
    above = tl.zeros([], tl.int64)
    if ROUND == 1:  # all that was summed up lies in the window or above
        above = tl.load(rounds.words_ptr + COUNT).to(tl.int64) - tl.sum(in_bin)
        if around.by_mass:
            above = tl.load(rounds.masses_ptr + MASS) - (tl.load(from_ptr) << (40 - UNIT))
    low, high, count = window(row, around, in_bin, coarse, above, first, width, SHAPE)
    low = tl.maximum(low, tl.load(rounds.words_ptr + ROUND * A_ROUND + LEAST))
    high = tl.minimum(high, tl.load(rounds.words_ptr + ROUND * A_ROUND + MOST) + 1)
    high = tl.where(low + 1 >= high, low, high)  # one key is left: all that reach it are kept
    return low, high, count


@triton.jit
def gather(
    row, low, high, rounds, lists, tiles, ROUND: tl.constexpr, SHAPE: tl.constexpr
):  # fmt: skip
    """For a program's tiles: `lists` what ranks in [low, high), counts that in bins, and sums up.

    Round 0 may do both and sums up nothing, round 1 does either and sums up all from `low` on.
    """
    start = low if ROUND == 1 else high
    bins_wanted = (lists == 0) | (ROUND == 0)
    mass = tl.full([SHAPE.TILE], 0, tl.int64)
    count = tl.full([SHAPE.TILE], 0, tl.int32)
    least = tl.full([SHAPE.TILE], 0x7FFFFFFF, tl.int32)
    most = tl.full([SHAPE.TILE], -0x80000000, tl.int32)
    in_bin = tl.full([SHAPE.BINS], 0, tl.int32)
    coarse = tl.full([SHAPE.TILE, BLOCK], 0, tl.float32)
    at_round = rounds.words_ptr + ROUND * A_ROUND
    first, width = load_bins(row, rounds, low, high, ROUND, SHAPE)
    has_masses = tl.load(rounds.words_ptr + HAS_MASSES) > 0
    for tile in range(tl.program_id(1) * tiles, (tl.program_id(1) + 1) * tiles):
        offs_n = tile * SHAPE.TILE + tl.arange(0, SHAPE.TILE)
        block_key = load_block_key(row.table, offs_n, row.num_blocks, SHAPE.SHIFT)
        reach = (block_key >= reach_of(row, low, SHAPE.SHIFT)) & (offs_n < row.num_blocks)
        if tl.max(reach.to(tl.int32)) > 0:
            x = load_logits(row, offs_n, reach)
            key = key_of(x, SHAPE.SHIFT)
            rank = rank_of(row, x, key)
            more_mass, more = keep(row, offs_n, reach, x, rank, start, SHAPE.SHIFT)
            mass += more_mass
            count += more
            found = inside(rank, low, high)
            least = tl.minimum(least, tl.min(tl.where(found, rank, 0x7FFFFFFF), axis=1))
            most = tl.maximum(most, tl.max(tl.where(found, rank, -0x80000000), axis=1))
            in_block = tl.sum(found.to(tl.int32), axis=1)
            in_tile = tl.sum(in_block)
            if in_tile > 0:
                listed = tl.atomic_add(at_round + LISTED, in_tile, sem="relaxed")
                if lists:
                    append(row, offs_n, key, found, in_block, listed, SHAPE)
                if bins_wanted:
                    bins = bin_of(row, x, first, width, SHAPE)
                    if has_masses:
                        coarse += coarse_masses(row, x, bins, found, SHAPE)
                    bins = tl.reshape(tl.where(found, bins, -1), [SHAPE.TILE * BLOCK])
                    in_bin += tl.histogram(bins, SHAPE.BINS, bins >= 0)
    tl.atomic_min(at_round + LEAST, tl.min(least), sem="relaxed")
    tl.atomic_max(at_round + MOST, tl.max(most), sem="relaxed")
    if ROUND == 1:
        tl.atomic_add(rounds.words_ptr + COUNT, tl.sum(count), sem="relaxed")
        tl.atomic_add(rounds.masses_ptr + MASS, tl.sum(mass), sem="relaxed")
    if bins_wanted:
        bins_ptr = rounds.words_ptr + WORDS + ROUND * SHAPE.BINS + tl.arange(0, SHAPE.BINS)
        tl.atomic_add(bins_ptr, in_bin, mask=in_bin > 0, sem="relaxed")
        p = tl.sum(coarse, axis=0)  # [64], of which COARSE are used
        # By way of int32: fp32 to int64 is expanded into fused multiply-adds on AMD.
        whole = p.to(tl.int32)
        rest = ((p - whole.to(tl.float32)) * 2.0**UNIT).to(tl.int32)
        p = (whole.to(tl.int64) << UNIT) + rest
        from_ptr = rounds.masses_ptr + FROM + ROUND * (COARSE + 1) + tl.arange(0, BLOCK)
        tl.atomic_add(from_ptr, p, mask=p > 0, sem="relaxed")


@triton.jit
def coarse_masses(row, x, bins, found, SHAPE: tl.constexpr):
    """Of each block of a tile the masses that `window` asks for, fp32 [TILE, 64].

    It has the shape of the tile, and so its layout: another would be made in shared memory.
    """
    z = about_z(x, row.max, row.c)
    p = tl.where(found, tl.exp2(tl.maximum(z, -126.0)), 0.0)
    column = tl.arange(0, BLOCK)[None, :]
    coarse = tl.zeros_like(p)
    for i in tl.static_range(COARSE):
        above = tl.sum(tl.where(bins >= i * (SHAPE.BINS // COARSE), p, 0.0), axis=1)
        coarse += tl.where(column == i, above[:, None], 0.0)
    return coarse


@triton.jit
def load_found(row, rounds, SHAPE: tl.constexpr):
    """The bracket that the rounds have left, and what is listed and summed up of it."""
    narrowed = tl.load(rounds.words_ptr + LISTED) > SHAPE.LIST
    around = load_bracket(rounds, narrowed.to(tl.int32))
    low, high = around.low, around.high
    start = tl.where(narrowed, low, high)
    at_round = rounds.words_ptr + narrowed.to(tl.int32) * A_ROUND
    listed = tl.load(at_round + LISTED)
    least = tl.load(at_round + LEAST)
    if listed > SHAPE.LIST:
        if least == tl.load(at_round + MOST):  # all are kept, and summed up already
            low = least
            high = least
            listed = 0
        elif tl.max(load_counts(rounds, 1, SHAPE)) > 0:
            low, high, _ = load_window(row, around, rounds, 1, SHAPE)
        # else they were to be listed, and are a few more than the bins of round 0 had told.
    count = tl.load(rounds.words_ptr + COUNT)
    mass = tl.load(rounds.masses_ptr + MASS)
    return Bracket(low, high, around.need, around.by_mass), Found(listed, start, count, mass)
