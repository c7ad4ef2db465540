"""The logits of a batch in blocks of 64: maxima, integer weights and sums, scales, gathered blocks.

Fast twins of `reference.BlockTable`. What touches every logit works in place, on a few rows at a
time, so that its buffers stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .mass import BLOCK, EXP2_COEFFICIENTS, LOWEST

CHUNK = 2**18  # logits worked on at a time: three fp32 buffers of half this size fit one L2 cache

# Constants as tensors: in a small operation a Python number costs twice as much.
_COEFFICIENTS = torch.tensor(EXP2_COEFFICIENTS).unbind()
_LOWEST = torch.tensor(LOWEST)
# From 2**-49 of the best down every weight and every scaled sum is 0; no power needs to go lower.
_LOWEST_POWER = torch.tensor(-49.0)
# Adding 1.5 * 2**23 to a small z leaves rint(z) in the low bits of the sum; 30 more, being even,
# does not change how a half rounds, and makes the exponent bits those of 2**(rint(z) + 30).
_ROUNDER = torch.tensor(1.5 * 2**23 + 30)
_ROUNDER_44 = torch.tensor(1.5 * 2**23 + 44)
_EXPONENT_BITS = torch.tensor(23, dtype=torch.int32)
_MANTISSA_UNIT = torch.tensor(2.0**24)


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
        parts.append((slice(0, count), whole.view(len(logits), count, BLOCK)))
    if rest:
        parts.append((slice(count, count + 1), logits[:, None, count * BLOCK :]))
    return parts


def block_maxima(logits: torch.Tensor) -> torch.Tensor:
    """Maximum of every block, fp32 [B, N]; NaN where a block holds one."""
    maxima = [part.amax(-1) for _, part in split_blocks(logits)]
    return (maxima[0] if len(maxima) == 1 else torch.cat(maxima, -1)).float()


def block_sums(logits: torch.Tensor, maxima: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Sum of the weights of every block, int64 [B, N]."""
    sums = torch.empty(maxima.shape, dtype=torch.int64, device=logits.device)
    floor = maxima.clamp(min=_LOWEST)
    scratch = torch.empty(3 * min(max(CHUNK, logits.shape[-1]), logits.numel()), device=c.device)
    for columns, part in split_blocks(logits):
        for rows in row_chunks(len(part), part[0].numel()):
            x = part[rows]
            z, t, p = scratch[: 3 * x.numel()].view(3, *x.shape)
            torch.sub(x, floor[rows, columns, None], out=z)
            z.mul_(c[rows, None, None])
            _exp2(z, t, p)
            torch.sum(_as_weights(t, p), -1, out=sums[rows, columns])
    return sums


class Scale(NamedTuple):
    """Block scales in integers, for blocks [B, n]: `scale(sums)` turns sums into mass."""

    mantissa: torch.Tensor  # int64
    shift: torch.Tensor  # int64

    @classmethod
    def of(cls, maxima: torch.Tensor, row_max: torch.Tensor, c: torch.Tensor) -> Scale:
        """Scales of blocks with these maxima [B, n] in rows with these maxima [B]."""
        z = (maxima - row_max[:, None]) * c[:, None]
        t, p = torch.empty_like(z), torch.empty_like(z)
        _exp2(z, t, p)
        return cls._from(t, p)

    @classmethod
    def _from(cls, t: torch.Tensor, p: torch.Tensor) -> Scale:
        return cls((p * _MANTISSA_UNIT).long(), (_ROUNDER_44 - t).long())  # 14 - rint(z)

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
    z, t, p = torch.empty((3, 2, *x.shape), device=x.device).unbind()
    torch.sub(x, block_max.clamp(min=_LOWEST), out=z[0])
    torch.sub(block_max, row_max[:, None], out=z[1])
    z.mul_(c[:, None])
    _exp2(z, t, p)
    scale = Scale._from(t[1], p[1])
    return _as_weights(t[0], p[0]).long(), scale


def _exp2(z: torch.Tensor, t: torch.Tensor, p: torch.Tensor) -> None:
    """`mass.exp2_parts` in place: `2**z = p * 2**n` bit for bit, `t = n + _ROUNDER`; z is spent."""
    z.clamp_(min=_LOWEST_POWER)
    torch.add(z, _ROUNDER, out=t)
    torch.sub(t, _ROUNDER, out=p)
    z.sub_(p)  # f = z - rint(z)
    torch.mul(z, _COEFFICIENTS[-1], out=p)
    for coefficient in _COEFFICIENTS[-2:0:-1]:
        p.add_(coefficient).mul_(z)
    p.add_(_COEFFICIENTS[0])


def _as_weights(t: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """`floor(p * 2**(n + 30))` as int32, in the memory of t."""
    exponent = t.view(torch.int32).bitwise_left_shift_(_EXPONENT_BITS)
    p.view(torch.int32).add_(exponent)
    return exponent.copy_(p)


def gather_blocks(logits: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Logits of the blocks [B, n], fp32 [B, n, 64], `-inf` past the end of the vocabulary."""
    count, rest = divmod(logits.shape[-1], BLOCK)
    if rest == 0 and len(logits) == 1:
        return logits.view(count, BLOCK)[blocks].float()
    if count:
        whole = logits[:, : count * BLOCK].view(len(logits), count, BLOCK)
        batch = torch.arange(len(logits), device=logits.device)[:, None]
        x = whole[batch, blocks.clamp(max=count - 1) if rest else blocks].float()
    else:
        x = torch.empty(*blocks.shape, BLOCK, device=logits.device)
    if rest:
        last = F.pad(logits[:, count * BLOCK :].float(), (0, BLOCK - rest), value=-torch.inf)
        row, slot = (blocks == count).nonzero(as_tuple=True)
        x[row, slot] = last[row]
    return x
