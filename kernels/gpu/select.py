"""Step 2, select: the threshold of the filters, exactly (device functions).

Every filter keeps the logits from a threshold up, and each threshold is the largest key at which a
measure of {x >= key} reaches what is needed: the count reaches k (top-k), or the mass reaches
P = max(1, ceil(p * mass(K))) (top-p; contract section 4). Min-p names its threshold itself.

    bracket  low <= threshold < high, from the block table (`table.py`)
    collect  the logits in the bracket into a list in scratch memory (`collect.py`)
    narrow   the bracket where they are too many for it, and collect again (`narrow.py`)
    search   the list by bisection in registers (`search.py`)

Traffic: the blocks that reach `low`, once where the list holds what is in question: with top-k,
64 k / V of the row. However flat or tied the logits, one filter needs at most 12 reads in all;
top-k and top-p together need 21 at worst, where each threshold hides in a crowd of its own.
PyTorch twin: `kept_set` in `fused_sampler.contract.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import BLOCK, LOWEST_FLOAT, key_of, value_of
from .candidates import load_entries, search_by_count
from .collect import collect
from .narrow import narrow
from .search import mass_needed, search_by_mass, settle
from .table import count_bound, load_group_mass, mass_bounds, middle


@triton.jit
def min_p_key(min_p_log2, row_max, c, low, SHIFT: tl.constexpr):
    """The lowest key from `low` up that min-p keeps."""
    high = key_of(row_max, SHIFT)  # is kept: min_p is at most 1
    low -= 1  # stands for a key that is not
    while low + 1 < high:
        mid = middle(low, high)
        if (value_of(mid, SHIFT) - row_max) * c >= min_p_log2:
            high = mid
        else:
            low = mid
    return high


@triton.jit
def select(
    logits_ptr,  # [V] of the row, as all that follows
    maxima_ptr,
    sums_low_ptr,
    sums_high_ptr,
    list_ptr,
    blocks_ptr,
    group_key,  # int32 [GROUPS]
    row_max,
    c,
    top_k,
    top_p,
    min_p_log2,
    vocab_size,
    num_blocks,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    LIST: tl.constexpr,
    TILE: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """The lowest key that the filters keep and how many tokens they keep, for a row with a filter.

    The table then holds the sums of the kept weights of every block that reaches that key.
    """
    has_k = top_k < vocab_size
    has_p = top_p < 1
    end = key_of(row_max, SHIFT) + 1
    low = key_of(tl.minimum(row_max, LOWEST_FLOAT), SHIFT)  # of the lowest finite logit
    floor = low
    if min_p_log2 > -float("inf"):
        floor = min_p_key(min_p_log2, row_max, c, low, SHIFT)
    # As far below the lowest block maximum as that is below the row's: most logits lie above.
    least_max = value_of(tl.min(tl.where(group_key >= low, group_key, end - 1)), SHIFT)
    spread_from = least_max + (least_max - row_max)

    kept = 0
    listed = 0
    sure_count = 0
    sure_mass = tl.zeros([], tl.int64)
    whole = has_k & (has_k == 0)  # False: the list does not hold all that is kept
    # First top-k, by count; then top-p, by mass, or min-p where it is alone.
    for phase in tl.range(2, disable_licm=True):
        by_mass = phase == 1
        reused = whole & by_mass & has_p
        if (has_k & (by_mass == 0)) | (by_mass & (has_p | (has_k == 0))):
            high = end
            needed = top_k.to(tl.int64)
            count = 0  # of the logits in question, as far as it is known
            if by_mass == 0:
                if has_p == 0:
                    low = floor
                bound = count_bound(group_key, low, high, top_k)
                within = tl.sum((group_key >= bound).to(tl.int32)) * PER_GROUP * BLOCK
                count = tl.where((bound == low) & (within > LIST), LIST + 1, 0)
                low = bound
            elif has_p == 0:
                low = floor
                high = floor
            elif reused == 0:
                group_mass = load_group_mass(
                    maxima_ptr,
                    sums_low_ptr,
                    sums_high_ptr,
                    group_key,
                    row_max,
                    low,
                    c,
                    num_blocks,
                    GROUPS,
                    PER_GROUP,
                    SHIFT,
                )
                needed = mass_needed(top_p, tl.sum(group_mass))
                low, high = mass_bounds(
                    group_key,
                    group_mass,
                    tl.maximum(low, floor),
                    high,
                    needed,
                    row_max,
                    c,
                    PER_GROUP,
                    SHIFT,
                )
            if reused == 0:
                by_value = True
                listed = LIST + 1
                while listed > LIST:
                    if low + 1 >= high:  # one key is left: all that reach it are kept
                        high = low
                        count = 0
                    if count <= LIST:
                        listed, sure_count, sure_mass = collect(
                            logits_ptr,
                            maxima_ptr,
                            sums_low_ptr,
                            sums_high_ptr,
                            list_ptr,
                            blocks_ptr,
                            group_key,
                            low,
                            high,
                            row_max,
                            c,
                            vocab_size,
                            num_blocks,
                            GROUPS,
                            PER_GROUP,
                            LIST,
                            TILE,
                            SHIFT,
                        )
                        count = listed
                    else:
                        low, high, count = narrow(
                            logits_ptr,
                            maxima_ptr,
                            blocks_ptr,
                            group_key,
                            low,
                            high,
                            needed,
                            by_mass,
                            by_value,
                            spread_from,
                            row_max,
                            c,
                            vocab_size,
                            num_blocks,
                            GROUPS,
                            PER_GROUP,
                            TILE,
                            SHIFT,
                        )
                        by_value = False
                whole = high == end
            key, offs_n, start, size = load_entries(list_ptr, listed, LIST)
            if by_mass & has_p:
                low = search_by_mass(
                    key, offs_n, start, size, maxima_ptr, sums_low_ptr, sums_high_ptr, low, high,
                    needed, top_p, reused, floor, sure_count, sure_mass, row_max, c, LIST, SHIFT,
                )  # fmt: skip
            elif by_mass == 0:
                low = search_by_count(key, low, high, needed, sure_count)
            if by_mass | (has_p == 0) | (whole == 0):  # else the same list serves top-p
                kept = settle(
                    key, offs_n, start, size, maxima_ptr, sums_low_ptr, sums_high_ptr, low,
                    sure_count, c, LIST, SHIFT,
                )  # fmt: skip
    return low, kept
