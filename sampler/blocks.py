"""The logits of a batch in blocks of 64: maxima, integer weights and sums, scales, gathered blocks.

Fast twins of `reference.BlockTable`. What touches every logit works in place, on a few rows at a
time, so that its buffers stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .contract.mass import BLOCK, EXP2_COEFFICIENTS, LOWEST

CHUNK = 2**18  # logits worked on at a time: three fp32 buffers of half this size fit one L2 cache

# Constants as tensors: in a small operation a Python number costs twice as much.
_COEFFICIENTS = torch.tensor(EXP2_COEFFICIENTS).unbind()
# At 2**-49 of the best every weight and every scaled sum is 0 already: no z needs to go lower.
_LOWEST_POWER = torch.tensor(-49.0)
# Adding 1.5 * 2**23 to a small z leaves rint(z) in the low bits of the sum; 30 more, being even,
# does not change how a half rounds, and makes the exponent bits those of 2**(rint(z) + 30).
_ROUNDER = torch.tensor(1.5 * 2**23 + 30)
_ROUNDER_44 = torch.tensor(1.5 * 2**23 + 44)
_EXPONENT_BITS = torch.tensor(23, dtype=torch.int32)
_MANTISSA_UNIT = torch.tensor(2.0**24)
_WEIGHT_BITS = torch.tensor(20)  # what a shift by 14 - exponent leaves of it is 6 + exponent


def row_chunks(batch: int, width: int) -> Iterator[slice]:
    """Slices of the batch that hold about `CHUNK` elements of rows `width` wide."""
    rows = max(1, CHUNK // max(1, width))
    for start in range(0, batch, rows):
        yield slice(start, min(batch, start + rows))


def split_blocks(logits: torch.Tensor) -> list[tuple[slice, torch.Tensor]]:
    """The blocks as views with their place in a table [B, N]: whole ones and a short last one.

    [B, V // 64, 64] and [B, 1, V % 64]; neither is ever empty.
    """
    count, rest = divmod(logits.shape[-1], BLOCK)
    parts = []
    if count:
        whole = logits[:, : count * BLOCK] if rest else logits
        parts.append((slice(0, count), whole.view(logits.shape[0], count, BLOCK)))
    if rest:
        parts.append((slice(count, count + 1), logits[:, None, count * BLOCK :]))
    return parts


def block_maxima(logits: torch.Tensor) -> torch.Tensor:
    """Maximum of every block, fp32 [B, N]; NaN where a block holds one."""
    maxima = [part.amax(-1) for _, part in split_blocks(logits)]
    return (maxima[0] if len(maxima) == 1 else torch.cat(maxima, -1)).float()


def index_of(rows: Sequence[int], device: torch.device) -> slice | torch.Tensor:
    """An index of these rows, ascending: a slice, which copies nothing, of neighbours."""
    if rows[-1] - rows[0] < len(rows):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)


def take(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """These rows, ascending, of logits [B, V]: a view where they are neighbours."""
    return logits[index_of(rows, logits.device)]


def block_sums(
    logits: torch.Tensor, rows: Sequence[int], maxima: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Sum of the weights of every block, int64 [R, N], for these rows of logits [B, V].

    `maxima` [R, N] and `c` [R] are theirs.
    """
    sums = torch.empty(maxima.shape, dtype=torch.int64, device=c.device)
    buffers: tuple[torch.Tensor, ...] = ()
    for chunk, z in _powers(logits, rows, maxima, c):
        if not buffers:
            buffers = (
                torch.empty_like(z),
                torch.empty_like(z),
                torch.empty_like(z, dtype=sums.dtype),
            )
        t, p, wide = (buffer[: len(z)] for buffer in buffers)
        _exp2(z, t, p)
        exponent = t.view(torch.int32).bitwise_left_shift_(_EXPONENT_BITS)
        power = p.view(torch.int32).add_(exponent).view(torch.float32)  # p * 2**(n + 30)
        weights = exponent.copy_(power)  # rounds down
        # Widened first: PyTorch sums int32 into int64 several times slower.
        torch.sum(wide.copy_(weights), -1, out=sums[chunk])
    return sums


def near_sums(
    logits: torch.Tensor, rows: Sequence[int], maxima: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """`block_sums` in floating point, 1 for a block's best token: fp32 [R, N], a third of the time.

    Wrong by at most 17 units of 2**-24: PyTorch's `exp2` and the weights' polynomial are at most 6
    apart where `exp2` errs by no more than two units in the last place; adding 64 in fp32, by
    halves and the last 8 in any order, errs by 3 + 7; rounding weights down, by 1.
    """
    sums = torch.empty(maxima.shape, dtype=torch.float32, device=c.device)
    for chunk, z in _powers(logits, rows, maxima, c):
        z.exp2_()
        for half in (32, 16, 8):
            z[..., :half].add_(z[..., half : 2 * half])
        torch.sum(z[..., :8], -1, out=sums[chunk])
    return sums


def _powers(
    logits: torch.Tensor, rows: Sequence[int], maxima: torch.Tensor, c: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """`z`, the power of two of every weight, fp32 [r, N, 64], and its place among the rows.

    A few rows at a time; each overwrites the one before.
    """
    count, vocab = maxima.shape[-1], logits.shape[-1]
    floor = maxima.clamp(min=LOWEST)
    buffer = torch.empty(
        min(len(rows), max(1, CHUNK // vocab)), count, BLOCK, dtype=torch.float32, device=c.device
    )
    for chunk in row_chunks(len(rows), vocab):
        part = take(logits, rows[chunk])
        z = buffer[: len(part)]
        z[:, -1, (vocab - 1) % BLOCK + 1 :] = -torch.inf  # past the end of the vocabulary
        for columns, x in split_blocks(part):
            torch.sub(x, floor[chunk, columns, None], out=z[:, columns, : x.shape[-1]])
        yield chunk, z.mul_(c[chunk, None, None]).clamp_(min=_LOWEST_POWER)


class Scale(NamedTuple):
    """Block scales in integers, for blocks [B, n]: `scale(sums)` turns sums into mass."""

    mantissa: torch.Tensor  # int64, units of 2**-24
    shift: torch.Tensor  # int64, 14 - exponent

    @classmethod
    def of(cls, maxima: torch.Tensor, row_max: torch.Tensor, c: torch.Tensor) -> Scale:
        """Scales of blocks with these maxima [B, n] in rows with these maxima [B]."""
        return cls(*_exp2_integers((maxima - row_max[:, None]).mul_(c[:, None])))

    def __call__(self, sums: torch.Tensor | int) -> torch.Tensor:
        return (sums * self.mantissa) >> self.shift

    def gather(self, index: torch.Tensor) -> Scale:
        return Scale(self.mantissa.gather(-1, index), self.shift.gather(-1, index))


def weights_and_scale(
    x: torch.Tensor, block_max: torch.Tensor, row_max: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, Scale]:
    """Weights (int64) of tokens x [R, n], and the scales of the blocks they stand in.

    `block_max` [R, n] of those blocks, `row_max` [R], `c` [R].
    """
    z = torch.stack((x - block_max, block_max - row_max[:, None])).mul_(c[:, None])
    mantissas, shifts = _exp2_integers(z)
    weights = (mantissas[0] << _WEIGHT_BITS) >> shifts[0]  # mantissa * 2**(6 + exponent)
    return weights, Scale(mantissas[1], shifts[1])


def _exp2_integers(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mantissa and `14 - exponent` of `2**z`, int64; z is spent. NaN (`-inf - -inf`) gives 0."""
    torch.fmax(z, _LOWEST_POWER, out=z)
    t, p = torch.empty_like(z), torch.empty_like(z)
    _exp2(z, t, p)
    return p.mul_(_MANTISSA_UNIT).long(), torch.sub(_ROUNDER_44, t, out=t).long()


def _exp2(z: torch.Tensor, t: torch.Tensor, p: torch.Tensor) -> None:
    """`2**z = p * 2**n` for z >= -49, as `mass.exp2_parts`; `t = n + _ROUNDER`; z is spent."""
    torch.add(z, _ROUNDER, out=t)
    torch.sub(t, _ROUNDER, out=p)
    z.sub_(p)  # f = z - rint(z)
    torch.mul(z, _COEFFICIENTS[-1], out=p)
    for coefficient in _COEFFICIENTS[-2:0:-1]:
        p.add_(coefficient).mul_(z)
    p.add_(_COEFFICIENTS[0])


def gather_blocks(logits: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Blocks of logits [B, V], fp32 [..., 64]; `-inf` past the end of V.

    `place` [...] counts the blocks through all rows.
    """
    count, rest = divmod(logits.shape[-1], BLOCK)
    if rest == 0 and logits.is_contiguous():  # several times faster than an index of two tensors
        x = logits.view(-1, BLOCK).index_select(0, place.view(-1))
        return x.view(*place.shape, BLOCK).float()
    blocks_a_row = count + bool(rest)
    row = place // blocks_a_row
    blocks = place - row * blocks_a_row
    if count:
        (_, whole), *_ = split_blocks(logits)
        x = whole[row, blocks.clamp(max=count - 1) if rest else blocks].float()
    else:
        x = logits.new_empty(*blocks.shape, BLOCK, dtype=torch.float32)
    if rest:
        short = blocks == count
        last = logits[row[short], count * BLOCK :].float()
        x[short] = F.pad(last, (0, BLOCK - rest), value=-torch.inf)
    return x
