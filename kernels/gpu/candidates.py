"""The list of logits in question, in scratch memory, and what is asked of it (device functions).

An entry is a key, and a word with the number of its block, its rank among the block's entries, and
how many these are. A block's entries lie side by side.

Traffic: 8 bytes an entry, written once and read once for each search.
Races: threads of one program read what others of it wrote; who writes puts barriers around.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .table import middle


@triton.jit
def pack(block, rank, size):
    """One word of 16, 6 and 6 bits; sizes are 1 to 64."""
    return (block << 12) | (rank << 6) | (size - 1)


@triton.jit
def unpack(word):
    return word >> 12, (word >> 6) & 63, (word & 63) + 1


@triton.jit
def load_entries(list_ptr, listed, LIST: tl.constexpr):
    """Keys, block numbers, first entry and number of entries of the same block; int32 [LIST].

    The number is 0 beyond the list.
    """
    entry = tl.arange(0, LIST)
    mask = entry < listed
    key = tl.load(list_ptr + entry, mask=mask, other=-0x80000000)
    offs_n, rank, size = unpack(tl.load(list_ptr + LIST + entry, mask=mask, other=0))
    return key, offs_n, entry - rank, tl.where(mask, size, 0)


@triton.jit
def search_by_count(key, low, high, needed, sure_count):
    """The largest key in [low, high) that `needed` logits reach, else `low`."""
    while low + 1 < high:
        mid = middle(low, high)
        count = sure_count + tl.sum((key >= mid).to(tl.int32))
        low = tl.where(count >= needed, mid, low)
        high = tl.where(count <= needed, mid, high)  # equal: no logit is left in between
    return low
