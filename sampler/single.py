"""One row and nothing but its token, as text is generated: the fewest PyTorch operations.

With a single row each of them costs more to start than to do, so that a handful of tokens are
weighed one by one in Python. Where the error could change the token, where more tokens or ties of
the last are kept, and for top-p without top-k, `draw` gives None and the way of batches is taken.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import accumulate

import torch

from .batch import Batch
from .contract.draws import Draws
from .contract.mass import BEST_MASS, BLOCK
from .contract.philox import random_bits
from .near import ROW_ERROR, TOKEN_ERROR, block_masses, token_masses
from .params import GREEDY_BELOW, Rows

_FEW = 128  # best tokens that are worth weighing one by one
# `2**z` for z in fp64: the contract's z, in fp32, is off by 2 |z| units of 2**-24, which makes 1.4
# |z| in the result. Below z = -49 a token counts for nothing.
_FLOAT_ERROR = 1.4 * 49 * 2.0**-24 + TOKEN_ERROR
_HOT = 1e36  # from here on a difference of logits beyond fp32 may count for something


def draw(batch: Batch, draws: Draws) -> torch.Tensor | None:
    """The token, [1, 1], of a batch of one row; None where this is not the way to find it."""
    rows, vocab = batch.rows, batch.logits.shape[-1]
    k, top_p, min_p_log2 = rows.top_k.item(), rows.top_p.item(), rows.min_p_log2.item()
    if not (GREEDY_BELOW <= rows.temperature.item() < _HOT and math.isfinite(batch.row_max.item())):
        return None
    if draws.num_samples > 1:
        return None
    if k == vocab and top_p >= 1 and min_p_log2 == -math.inf:
        token = _among_all(batch, draws)
    elif k <= _FEW and k * BLOCK < vocab:
        token = _among_best(batch, draws, int(k))
    elif k == vocab and top_p >= 1 and vocab > _FEW * BLOCK:
        token = _among_best(batch, draws, _FEW)
    else:
        return None
    return None if token is None else torch.tensor([[token]])


def _among_best(batch: Batch, draws: Draws, k: int) -> int | None:
    """A token drawn from the k best, if these hold all that the filters keep."""
    rows = batch.rows
    blocks = batch.maxima.topk(k + 1).indices
    x, places = batch.blocks_at(blocks).flatten().topk(k + 1)
    values, c = x.tolist(), rows.c.item()
    z = [(value - values[0]) * c for value in values[:k]]
    kept = _count_kept(z, rows)
    if kept is None or values[kept - 1] == values[kept]:
        return None  # not sure, or a tie of the last, which is kept as well
    if k == rows.top_k.item() and values[k - 1] == values[k]:
        return None  # a tie of top-k's last, of whose mass top-p takes a share too
    if k < rows.top_k.item() and kept == k:
        return None  # perhaps more than these
    of_blocks = blocks[0].tolist()
    ids = [of_blocks[place // BLOCK] * BLOCK + place % BLOCK for place in places[:kept].tolist()]
    tokens, powers = zip(*sorted(zip(ids, z[:kept], strict=True)), strict=True)
    upto = list(accumulate(2.0**power for power in powers))
    slot = _reached(upto, _uniform(draws) * upto[-1], _FLOAT_ERROR * upto[-1])
    return None if slot is None else tokens[slot]


def _count_kept(z: list[float], rows: Rows) -> int | None:
    """How many of the best tokens, `z = log2(mass)`, top-p and then min-p keep; None: not sure."""
    kept, top_p, min_p_log2 = len(z), rows.top_p.item(), rows.min_p_log2.item()
    if top_p < 1:
        upto = list(accumulate(2.0**power for power in z))
        needed, slack = top_p * upto[-1], 2 * _FLOAT_ERROR * upto[-1] + 2 / BEST_MASS
        kept = bisect_left(upto, needed - slack) + 1
        if bisect_left(upto, needed + slack) + 1 != kept or kept > len(z):
            return None
    if min_p_log2 > -math.inf:
        slack = 2.0**-22 * -min_p_log2 + 2.0**-140
        others = sum(power >= min_p_log2 + slack for power in z[1:])  # the best is always kept
        if sum(power >= min_p_log2 - slack for power in z[1:]) != others:
            return None
        kept = min(kept, 1 + others)
    return kept


def _among_all(batch: Batch, draws: Draws) -> int | None:
    """A token drawn without filters."""
    upto = block_masses(batch)[0].cumsum(-1)
    mass = upto[-1].item()
    r, slack = _uniform(draws) * mass, (ROW_ERROR + TOKEN_ERROR) * mass
    block = int(torch.searchsorted(upto, r, right=True))
    if block:
        r -= upto[block - 1].item()
    x = batch.logits[:, block * BLOCK : (block + 1) * BLOCK]
    inside = token_masses(x, batch.maxima[:, block : block + 1], batch.row_max, batch.rows.c)
    slot = _reached(list(accumulate(inside[0].tolist())), r, slack)
    return None if slot is None or r < slack else block * BLOCK + slot


def _reached(upto: list[float], r: float, slack: float) -> int | None:
    """Where the growing sums pass r; None where that is not the same within `slack`."""
    slot = bisect_right(upto, r + slack)
    return slot if slot == bisect_right(upto, r - slack) else None


def _uniform(draws: Draws) -> float:
    """`U / 2**64` of the one draw, as `Draws.uniform`."""
    stream = 0 if draws.stream is None else int(draws.stream.item())
    high, low = random_bits(int(draws.seed.item()), int(draws.step.item()), stream, 0)
    return high * 2.0**-32 + low * 2.0**-64
