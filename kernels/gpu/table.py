"""The block table, looked at through groups of consecutive blocks (device functions).

At most `GROUPS` groups fit registers; up to V = 131,072 a group is one block. A group's key is that
of its largest logit.

Traffic: the maxima once, 4 (or 2) bytes a block, and 8 more for each look at the masses; nothing is
written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arguments import Row, table_of_row
from .arithmetic import block_scale, key_of, scale_sums, value_of, widen


@triton.jit
def load_block_key(table, offs_n, num_blocks, SHIFT: tl.constexpr):
    """The keys of block maxima, int32; that of -inf beyond the last."""
    block_max = tl.load(table.maxima_ptr + offs_n, mask=offs_n < num_blocks, other=-float("inf"))
    return key_of(widen(block_max), SHIFT)


@triton.jit
def load_group_key(table, num_blocks, SHAPE: tl.constexpr):
    """The key of the largest logit of each group, int32 [GROUPS]."""
    group_key = key_of(tl.full([SHAPE.GROUPS], -float("inf"), tl.float32), SHAPE.SHIFT)
    for j in range(SHAPE.PER_GROUP):
        offs_n = tl.arange(0, SHAPE.GROUPS) * SHAPE.PER_GROUP + j
        group_key = tl.maximum(group_key, load_block_key(table, offs_n, num_blocks, SHAPE.SHIFT))
    return group_key


@triton.jit
def load_row(
    logits_ptr,
    table,
    scratch_ptr,
    c,
    vocab_size,
    num_blocks,
    edits,
    pid_b,
    SHAPE: tl.constexpr,
):
    """A row whose logits begin at `logits_ptr`, of its own `edits`; the others are the batch's."""
    table = table_of_row(table, pid_b * num_blocks)
    list_ptr = scratch_ptr + pid_b * (2 * SHAPE.LIST + SHAPE.GROUPS)
    group_key = load_group_key(table, num_blocks, SHAPE)
    row_max = value_of(tl.max(group_key, axis=0), SHAPE.SHIFT)
    blocks_ptr = list_ptr + 2 * SHAPE.LIST
    return Row(
        logits_ptr,
        table,
        list_ptr,
        blocks_ptr,
        group_key,
        row_max,
        c,
        vocab_size,
        num_blocks,
        edits,
    )


@triton.jit
def block_of_group(row, j, SHAPE: tl.constexpr):
    """Number and key of block `j` of each group, without a load where a group is one block."""
    offs_n = tl.arange(0, SHAPE.GROUPS) * SHAPE.PER_GROUP + j
    block_key = row.group_key
    if SHAPE.PER_GROUP > 1:
        block_key = load_block_key(row.table, offs_n, row.num_blocks, SHAPE.SHIFT)
    return offs_n, block_key


@triton.jit
def load_group_mass(row, table, threshold, c, SHAPE: tl.constexpr):
    """The mass of each group, int64 [GROUPS], from the sums in `table`, made at the scale `c`.

    Blocks that do not reach the key `threshold` have no mass.
    """
    mass = tl.full([SHAPE.GROUPS], 0, tl.int64)
    for j in range(SHAPE.PER_GROUP):
        offs_n, block_key = block_of_group(row, j, SHAPE)
        mask_n = (offs_n < row.num_blocks) & (block_key >= threshold)
        sums = tl.load(table.sums_ptr + offs_n, mask=mask_n, other=0)
        mantissa, shift = block_scale(value_of(block_key, SHAPE.SHIFT), row.max, c)
        mass += scale_sums(sums, mantissa, shift)
    return mass
