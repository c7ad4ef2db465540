"""The steps of one row after another, as one compiled function for each dtype of the logits."""

from __future__ import annotations

import numpy as np

from fused_sampler.params import GREEDY_BELOW

from .arithmetic import (
    BLOCK,
    FORBIDDEN,
    INFINITE_KEY,
    LN_2,
    LOG2_E,
    LOWEST_KEY,
    key_of,
    log2_mass,
    scale_sum,
    value_of,
    widen,
)
from .compiling import SOURCES, device, entry
from .distinct import best_distinct, draw_distinct
from .draw import (
    accumulate,
    best_kept,
    draw_token,
    first_best,
    log_probability,
    random_bits,
)
from .edit import seen_row
from .memory import pointer, take_next
from .near import LEAST_C, UNSURE, draw_near, near_sums
from .scan import lowest_key_from
from .select import select, sum_kept
from .space import Row, at_scale, divide_space, filtered, is_cut_first, read_filters
from .summarize import fill_sums, summarize
from .write import write_kept, write_probabilities

_GREEDY_BELOW = np.float32(GREEDY_BELOW)
TOKENS, PROBABILITIES, MASKED = 0, 1, 2  # purposes
_FEW_DRAWS = 4  # a row, for which near masses are tried


VALUE, ROW_NUMBER = -1, -2  # in place of a stride


@device
def own_word(word, stride, b):
    """A row's seed, step or stream."""
    if stride == VALUE:
        return word
    if stride == ROW_NUMBER:
        return b
    return pointer(word, np.int64)[stride * b]


@device
def take_all(row, space, with_sums):
    """Every block is in question, as for a row without filters; the row's mass."""
    if not with_sums:
        fill_sums(row.logits, row.vocab, row.c, space.maxima, space.sums, 0, row.num_blocks)
    for n in range(row.num_blocks):
        space.blocks[n] = n
        space.tops[n] = space.maxima[n]
    return accumulate(row, space, row.num_blocks)


@device
def is_flat(row, space):
    """Whether half of the blocks hold a token a quarter as probable as the best, or more."""
    key, count = lowest_key_from(row, np.float32(-2.0)), 0
    for n in range(row.num_blocks):
        count += space.maxima[n] >= key
    return 2 * count > row.num_blocks


@device
def count_allowed(row):
    """How many logits are not -inf."""
    allowed = np.int64(0)
    for i in range(row.vocab):
        allowed += 1 if key_of(row.logits[i]) > FORBIDDEN else 0
    return allowed


@device
def raw_mass(words, row, space, edits):
    """The mass at temperature 1 of the logits before edits, and the largest of those; or NaN."""
    maximum = row.maximum
    if edits is None:
        fill_sums(words, row.vocab, LOG2_E, space.maxima, space.sums, 0, row.num_blocks)
    else:
        best = summarize(words, row.vocab, LOG2_E, space.maxima, space.sums, True)
        maximum = value_of(best) if best < INFINITE_KEY else np.float32(np.nan)
    total = np.int64(0)
    if maximum == maximum:
        for n in range(row.num_blocks):
            total += np.int64(scale_sum(space.sums[n], space.maxima[n], maximum, LOG2_E))
    return total, maximum


@device
def write_logprobs(
    row,
    words,
    raw_maximum,
    valid,
    greedy,
    temperature,
    total,
    raw_total,
    drawn,
    size,
    logprobs,
    raw,
):
    """Log-probabilities of the drawn tokens among the kept ones, and of `words`, the raw row.

    Returns the natural logarithms of both masses.
    """
    log_mass, raw_log_mass = log2_mass(total) * LN_2, log2_mass(raw_total) * LN_2
    for i in range(size):
        logprobs[i], raw[i] = np.float32(np.nan), np.float32(np.nan)
        if valid and drawn[i] >= 0:
            x = widen(row.logits[drawn[i]])
            own = log_probability(x, row.maximum, temperature, log_mass)
            if greedy:
                own = np.float32(0.0) if drawn[i] == drawn[0] else np.float32(-np.inf)
            logprobs[i] = own
            raw_x = widen(words[drawn[i]])
            raw[i] = log_probability(raw_x, raw_maximum, np.float32(1.0), raw_log_mass)
    return log_mass, raw_log_mass


def _compile(sources):
    def sample_rows(
        kind,  # a word of the logits: its type is their dtype
        logits,  # address of [B, V], as are all below of what they say; 0 where not wanted
        stride_bytes,
        batch,
        vocab,
        table,  # fp64 [B, parameters]
        table_stride,
        slots,  # int32 [B]: lines of the tables of parameters, seeds and steps; 0: the row's own
        seed,  # int64: the value where the stride is negative, else an address
        seed_stride,
        step,
        step_stride,
        stream,
        stream_stride,
        edits,  # int64: the table of `edit.py`; None: there are none
        num_samples,
        replacement,  # bool
        purpose,
        tokens,  # int64 [B, num_samples]
        logprobs,  # fp32 [B, num_samples]; with it the next four
        raw_logprobs,  # fp32 [B, num_samples]
        kept_counts,  # int64 [B]
        bounds,  # fp32 [4, B]: the largest logit, the lowest and the highest kept, the largest raw
        log_masses,  # fp64 [2, B]: of the kept tokens, and of all at temperature 1
        output,  # fp32 [B, V], unless the purpose is tokens
        capacity,
        row_at,  # where in the scratch memory an edited row stands
        scratch,
        counter,  # int64: the next row, for all threads of the call; 0: there is one
    ):
        sources  # noqa: B018 - a free variable is part of the key of the cache
        num_blocks = (vocab + BLOCK - 1) // BLOCK
        space = divide_space(scratch, num_blocks, capacity)
        next_row = pointer(counter, np.int64)
        done = np.int64(0)
        while True:
            b = take_next(next_row) if counter != 0 else done
            done += 1
            if b >= batch:
                break
            line = np.int64(pointer(slots, np.int32)[b]) if slots != 0 else b
            params = pointer(table + 8 * table_stride * line, np.float64)
            temperature, c = np.float32(params[0]), np.float32(params[1])
            filter_c, chance = np.float32(params[2]), params[3]
            raw_words = pointer(logits + stride_bytes * b, kind)
            words = seen_row(raw_words, vocab, edits, b, scratch + row_at)
            greedy = temperature < _GREEDY_BELOW
            own_seed = own_word(seed, seed_stride, line)
            own_step = own_word(step, step_stride, line)
            own_stream = own_word(stream, stream_stride, b)
            spared = False
            if chance > 0:
                spared = np.float64(random_bits(own_seed, own_step, own_stream, 0)[1]) >= chance
            columns = pointer(table + 8 * (table_stride * line + 4), np.float64)
            filters = read_filters(columns, spared)
            has_filter = filtered(filters, vocab)
            # Near masses tell nearly every draw; any of many draws may need the exact ones.
            only_tokens = purpose == TOKENS and logprobs == 0
            few_draws = only_tokens and num_samples <= _FEW_DRAWS and replacement
            try_near = few_draws and not has_filter and c >= LEAST_C
            # The mass of the whole row is needed by top-p as the first filter, and by the draw.
            first_is_p = filters.top_p < 1 and not is_cut_first(filters, vocab)
            with_sums = (not greedy) and (first_is_p or not has_filter) and not try_near
            seen_c = filter_c if has_filter else c
            best = summarize(words, vocab, seen_c, space.maxima, space.sums, with_sums)
            row = Row(words, vocab, num_blocks, value_of(best), seen_c, filters)
            valid = FORBIDDEN < best < INFINITE_KEY
            low, high = np.int64(LOWEST_KEY), np.int64(INFINITE_KEY)
            kept, blocks, total = 0, 0, 0
            token, near_mass = np.int64(-1), 0.0
            if valid and greedy:
                token, kept = first_best(row, space, best), 1
            elif valid and has_filter:
                low, high, blocks, kept = select(row, space)
                if seen_c != c:
                    row = at_scale(row, c)
                    blocks, kept = sum_kept(row, space, low, high)
                total = accumulate(row, space, blocks)
                if total == 0 and purpose == TOKENS:
                    token = best_kept(row, space, low, high)
            elif valid and try_near and not is_flat(row, space):
                near_mass = near_sums(row, space)
            elif valid:
                blocks, total = num_blocks, take_all(row, space, with_sums)

            written = pointer(output + 4 * vocab * b, np.float32)
            if purpose == PROBABILITIES:
                write_probabilities(row, written, valid, token, total)
            elif purpose == MASKED:
                write_kept(row, written, valid, token, low, high, temperature)
            else:
                drawn = pointer(tokens + 8 * num_samples * b, np.int64)
                if replacement or not valid:
                    for draw in range(num_samples):
                        if valid and (total > 0 or near_mass > 0.0):
                            bits, _ = random_bits(own_seed, own_step, own_stream, draw)
                            if near_mass > 0.0:
                                token = draw_near(row, space, near_mass, bits)
                                if token == UNSURE:
                                    near_mass = 0.0
                                    blocks, total = num_blocks, take_all(row, space, False)
                            if near_mass == 0.0:
                                token = draw_token(row, space, blocks, low, high, total, bits)
                        drawn[draw] = token
                elif greedy:
                    best_distinct(row, space, drawn, num_samples)
                else:
                    own_words = own_seed, own_step, own_stream
                    part = blocks, low, high, total
                    draw_distinct(row, space, part, own_words, drawn, num_samples)
                if logprobs != 0:
                    if valid and not has_filter and not greedy:
                        kept = count_allowed(row)
                    pointer(kept_counts, np.int64)[b] = kept
                    raw_total, raw_maximum = np.int64(0), np.float32(np.nan)
                    if valid:
                        raw_total, raw_maximum = raw_mass(raw_words, row, space, edits)
                    log_mass, raw_log_mass = write_logprobs(
                        row,
                        raw_words,
                        raw_maximum,
                        valid,
                        greedy,
                        temperature,
                        total,
                        raw_total,
                        drawn,
                        num_samples,
                        pointer(logprobs + 4 * num_samples * b, np.float32),
                        pointer(raw_logprobs + 4 * num_samples * b, np.float32),
                    )
                    own_bounds = pointer(bounds, np.float32)
                    own_bounds[b] = row.maximum if valid else np.float32(np.nan)
                    own_bounds[batch + b] = value_of(np.int32(low))
                    own_bounds[2 * batch + b] = value_of(np.int32(high - 1))
                    own_bounds[3 * batch + b] = raw_maximum
                    own_masses = pointer(log_masses, np.float64)
                    own_masses[b], own_masses[batch + b] = log_mass, raw_log_mass

    return sample_rows


sample_rows = entry(_compile(SOURCES))
