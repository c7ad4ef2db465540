"""The logits of a batch in blocks of 64: maxima, integer weight sums, scales, gathered blocks.

Fast twins of `reference.BlockTable`. What touches every logit works in place, on a few rows at a
time, so that its buffers stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .mass import BLOCK, EXP2_COEFFICIENTS, LOWEST, exp2_parts

CHUNK = 2**18  # logits worked on at a time: three fp32 buffers of this size fit a core's L2 cache
# Adding 1.5 * 2**23 to a small z leaves rint(z) in the low bits of the sum; 30 more, being even,
# does not change how a half rounds, and turns 2**z into the weight 2**(z + 30).
_ROUNDER = 1.5 * 2**23 + 30


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
        whole = logits[:, : count * BLOCK].unflatten(-1, (count, BLOCK))
        parts.append((slice(0, count), whole))
    if rest:
        parts.append((slice(count, count + 1), logits[:, None, count * BLOCK :]))
    return parts


def block_maxima(logits: torch.Tensor) -> torch.Tensor:
    """Maximum of every block, fp32 [B, N]; NaN where a block holds one."""
    maxima = [part.amax(-1) for _, part in split_blocks(logits)]
    return (maxima[0] if len(maxima) == 1 else torch.cat(maxima, -1)).float()


def weights(
    x: torch.Tensor, block_max: torch.Tensor, c: torch.Tensor, scratch: torch.Tensor | None = None
) -> torch.Tensor:
    """`mass.token_weights` as int32, bit for bit, in 21 passes; x [...], the others broadcast.

    `scratch` is a flat fp32 buffer of three times x; the result lives in it.
    """
    if scratch is None:
        scratch = torch.empty(3 * x.numel(), device=x.device)
    z, t, p = scratch[: 3 * x.numel()].view(3, *x.shape)
    torch.sub(x, block_max.clamp(min=LOWEST), out=z)
    z.mul_(c).clamp_(min=-64.0)
    torch.add(z, _ROUNDER, out=t)
    torch.sub(t, _ROUNDER, out=p)
    z.sub_(p)  # f = z - rint(z)
    torch.mul(z, EXP2_COEFFICIENTS[-1], out=p)
    for coefficient in EXP2_COEFFICIENTS[-2:0:-1]:
        p.add_(coefficient).mul_(z)
    p.add_(EXP2_COEFFICIENTS[0])
    exponent = t.view(torch.int32).bitwise_left_shift_(23)
    p.view(torch.int32).add_(exponent)  # p * 2**(rint(z) + 30), exact
    return exponent.copy_(p)  # rounds down


def block_sums(logits: torch.Tensor, maxima: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Sum of the weights of every block, int64 [B, N]."""
    sums = torch.empty(maxima.shape, dtype=torch.int64, device=logits.device)
    scratch = torch.empty(3 * min(max(CHUNK, logits.shape[-1]), logits.numel()), device=c.device)
    for columns, part in split_blocks(logits):
        for rows in row_chunks(len(part), part[0].numel()):
            block_max = maxima[rows, columns, None]
            sums[rows, columns] = weights(
                part[rows], block_max, c[rows, None, None], scratch
            ).sum(-1)
    return sums


class Scale(NamedTuple):
    """Block scales in integers, for blocks [B, n]: `scale(sums)` turns sums into mass."""

    mantissa: torch.Tensor  # int32
    shift: torch.Tensor  # int32

    @classmethod
    def of(cls, maxima: torch.Tensor, row_max: torch.Tensor, c: torch.Tensor) -> Scale:
        """Scales of blocks with these maxima [B, n] in rows with these maxima [B]."""
        mantissa, exponent = exp2_parts((maxima - row_max[:, None]) * c[:, None])
        return cls(mantissa, (14 - exponent).clamp_(max=63))

    def __call__(self, sums: torch.Tensor) -> torch.Tensor:
        return (sums * self.mantissa) >> self.shift

    def gather(self, index: torch.Tensor) -> Scale:
        return Scale(self.mantissa.gather(-1, index), self.shift.gather(-1, index))


def gather_blocks(logits: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Logits of the blocks [B, n], fp32 [B, n, 64], `-inf` past the end of the vocabulary."""
    count, rest = divmod(logits.shape[-1], BLOCK)
    if count:
        whole = logits[:, : count * BLOCK].unflatten(-1, (count, BLOCK))
        batch = torch.arange(len(logits), device=logits.device)[:, None]
        x = whole[batch, blocks.clamp(max=count - 1) if rest else blocks].float()
    else:
        x = torch.empty(*blocks.shape, BLOCK, device=logits.device)
    if rest:
        last = F.pad(logits[:, count * BLOCK :].float(), (0, BLOCK - rest), value=-torch.inf)
        row, slot = (blocks == count).nonzero(as_tuple=True)
        x[row, slot] = last[row]
    return x
