"""What the steps share: a row as they see it, and the scratch memory of a thread."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arithmetic import BLOCK
from .compiling import device
from .memory import pointer

_TABLE_BYTES = 4 + 4 + 4 + 8 + 8 + 8 + 8  # a block: maximum, number, top, sure, sum, mass, near
_LIST_BYTES = 8 + 4 + 4 + 4  # a listed logit: measure, key, slot, weight
_SMALL = 4096  # logits that a list always holds


class Filters(NamedTuple):
    """The filters' parameters of a row."""

    top_n_sigma: Any  # fp32; inf is off
    top_h: Any  # fp64; 1 is off
    top_k: Any  # int64; V is off
    top_p: Any  # fp64; 1 is off
    min_p_log2: Any  # fp32; -inf is off, as of all logarithms but the last
    typical_p: Any  # fp64; 1 is off
    epsilon_log2: Any  # fp32
    eta_log2: Any  # fp32
    top_a_log2: Any  # fp32
    xtc_log2: Any  # fp32; inf is off


class Row(NamedTuple):
    """One row of logits and its parameters."""

    logits: Any  # pointer to [V] words
    vocab: int
    num_blocks: int
    maximum: Any  # fp32
    c: Any  # fp32
    filters: Any  # Filters


class Space(NamedTuple):
    """Pointers to scratch memory: a line for each block, each slot, each listed logit."""

    maxima: Any  # int32 [N]: keys of all blocks
    blocks: Any  # int32 [N]: numbers of the blocks in question; a place here is their slot
    tops: Any  # int32 [N]: their maxima
    sure: Any  # uint64 [N]: the sum of the weights that are kept whatever the list says
    taken: Any  # uint64 [N]: a bit for each token drawn; where `sure` was, which no draw needs
    sums: Any  # uint64 [N]: of the kept weights
    mass: Any  # int64 [N]: of the block, or of it and all before
    near: Any  # fp64 [N / 4]: near masses of groups of blocks
    measure: Any  # int64 [capacity]: of a listed logit, to be searched
    keys: Any  # int32 [capacity]
    slots: Any  # int32 [capacity]: of its block
    weights: Any  # int32 [capacity]
    capacity: int


def edited_row_bytes(vocab: int) -> int:
    """Those of a row of edited logits, which stands behind the rest."""
    return 4 * vocab


def list_capacity(vocab: int) -> int:
    """Logits that fit the list: of a wide row a quarter, 6 bytes a logit with the table."""
    return min(vocab, max(_SMALL, vocab // 4))


def space_bytes(vocab: int) -> int:
    """The scratch memory of a thread."""
    size = -(-vocab // BLOCK) * _TABLE_BYTES + 8 + list_capacity(vocab) * _LIST_BYTES
    return -(-size // 64) * 64


@device
def divide_space(address, num_blocks, capacity):
    """The scratch memory at `address`, cut up; what is aligned to 8 bytes comes first."""
    slots = address + 32 * num_blocks
    entries = slots + 8 * capacity
    return Space(
        sure=pointer(address, np.uint64),
        taken=pointer(address, np.uint64),
        sums=pointer(address + 8 * num_blocks, np.uint64),
        mass=pointer(address + 16 * num_blocks, np.int64),
        near=pointer(address + 24 * num_blocks, np.float64),
        measure=pointer(slots, np.int64),
        keys=pointer(entries, np.int32),
        slots=pointer(entries + 4 * capacity, np.int32),
        weights=pointer(entries + 8 * capacity, np.int32),
        maxima=pointer(entries + 12 * capacity, np.int32),
        blocks=pointer(entries + 12 * capacity + 4 * num_blocks, np.int32),
        tops=pointer(entries + 12 * capacity + 8 * num_blocks, np.int32),
        capacity=capacity,
    )


@device
def read_filters(columns, spared):
    """A row's filters from its columns, fp64; without XTC where chance has `spared` the step."""
    return Filters(
        np.float32(columns[0]),
        columns[1],
        np.int64(columns[2]),
        columns[3],
        np.float32(columns[4]),
        columns[5],
        np.float32(columns[6]),
        np.float32(columns[7]),
        np.float32(columns[8]),
        np.float32(np.inf if spared else columns[9]),
    )


@device
def is_cut_first(filters, vocab):
    """Whether a filter before top-p keeps a part of the row."""
    by_value = filters.top_n_sigma < np.inf or filters.top_h < 1
    return filters.top_k < vocab or by_value


@device
def filtered(filters, vocab):
    """Whether a filter is on."""
    f = filters
    by_value = max(f.min_p_log2, f.epsilon_log2, f.eta_log2, f.top_a_log2) > -np.inf
    by_mass = min(f.top_p, f.typical_p) < 1
    return is_cut_first(f, vocab) or by_mass or by_value or f.xtc_log2 < np.inf


@device
def at_scale(row, c):
    """The row with another `c`."""
    return Row(row.logits, row.vocab, row.num_blocks, row.maximum, c, row.filters)
