"""What is known of the rows beside their draws, on request: computed from `RowState` by PyTorch.

A backend says what a row was drawn from in five numbers. From them follows the log-probability of
any token, to the bit: `log_probability` of its logit. Each request costs launches of its own, as
`docs/logprobs.md` counts them; nothing is computed that was not asked for.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterator
from typing import NamedTuple

import torch

from .contract.draws import check_flag
from .contract.mass import LN_2, LOG2_E
from .contract.reference import BlockTable
from .edits import bitmask
from .ids import check_ids
from .output import Drawn, RowState, log_probability
from .params import RowParams

KEPT_AS = ("ids", "bitmask")
_AT_ONCE = 2**22  # logits whose order, or tables, are in memory at one time


class Asked(NamedTuple):
    """What a call asks for beside its tokens; the arguments of `api.sample`."""

    top_logprobs: int = 0
    logprob_ids: torch.Tensor | None = None
    return_ranks: bool = False
    return_entropy: bool = False
    return_kept: str | None = None
    kept_cap: int | None = None

    def first(self) -> str:
        """The name of the first that is asked for."""
        pairs = zip(self._fields, self, self._field_defaults.values(), strict=True)
        return next(name for name, value, off in pairs if value is not off)


NOTHING_MORE = Asked()


def wants_more(asked: Asked) -> bool:
    """Whether there is anything among them, right or wrong."""
    return not all(map(operator.is_, asked, NOTHING_MORE))


def check_asked(asked: Asked, return_info: bool, batch: int, vocab: int) -> None:
    """Raise TypeError or ValueError for a request that is none, or that nobody would see."""
    if not wants_more(asked):
        return
    if not return_info:
        raise ValueError(f"{asked.first()} adds to what return_info=True returns; pass both.")
    for name, lowest, off in (("top_logprobs", 0, 0), ("kept_cap", 1, None)):
        value = getattr(asked, name)
        if value is None and off is None:
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
        if not lowest <= int(value) <= vocab:
            raise ValueError(
                f"{name} is {value}; pass {lowest} to {vocab}, the size of the vocabulary."
            )
    check_flag("return_ranks", asked.return_ranks)
    check_flag("return_entropy", asked.return_entropy)
    how = asked.return_kept
    if how is not None and (not isinstance(how, str) or how not in KEPT_AS):
        raise ValueError(f'return_kept is {how!r}; pass "ids", "bitmask" or None.')
    if asked.kept_cap is not None and how != "ids":
        raise ValueError('kept_cap bounds the ids a row; pass return_kept="ids" with it.')
    if asked.logprob_ids is not None:
        check_ids("logprob_ids", asked.logprob_ids, batch, vocab)


def requested(
    logits: torch.Tensor, raw: torch.Tensor, rows: RowParams, drawn: Drawn, asked: Asked
) -> dict[str, torch.Tensor]:
    """The fields of `SampleOutput` that are asked for, each with the batch in front.

    `logits` with all edits, and `raw` before any.
    """
    fields: dict[str, torch.Tensor] = {}
    kept = None
    if asked.top_logprobs or asked.return_kept or asked.return_entropy:
        kept = kept_tokens(logits, rows, drawn)
    if asked.top_logprobs:
        assert kept is not None
        best = best_ids(logits, kept, asked.top_logprobs)
        fields["top_ids"] = best
        fields["top_logprobs"] = log_probabilities(best, logits, rows, drawn)
        allowed = (raw > -torch.inf) & valid_rows(drawn)
        best = best_ids(raw, allowed, asked.top_logprobs)
        fields["raw_top_ids"] = best
        fields["raw_top_logprobs"] = raw_log_probabilities(best, raw, drawn)
    if asked.logprob_ids is not None:
        ids = asked.logprob_ids.to(logits.device).expand(len(logits), -1)
        fields["id_logprobs"] = log_probabilities(ids, logits, rows, drawn)
        fields["raw_id_logprobs"] = raw_log_probabilities(ids, raw, drawn)
    if asked.return_ranks:
        fields["ranks"] = ranks(logits, drawn)
    if asked.return_entropy:
        assert kept is not None
        fields["entropy"] = entropy(logits, rows, drawn, kept)
    if asked.return_kept == "bitmask":
        assert kept is not None
        fields["kept_bitmask"] = bitmask.packed(kept)
    elif asked.return_kept == "ids":
        assert kept is not None
        fields |= listed(kept, asked.kept_cap)
    return fields


def valid_rows(drawn: Drawn) -> torch.Tensor:
    """bool [B, 1]"""
    assert drawn.state is not None
    return ~drawn.state.row_max.isnan()[:, None]


def is_kept(x: torch.Tensor, state: RowState) -> torch.Tensor:
    """Whether the filters kept these logits [B, n], bool; a greedy row has ties with its token."""
    lowest, highest = state.lowest[:, None], state.highest[:, None]
    return (x >= lowest) & (x <= highest) & (x > -torch.inf)


def kept_tokens(logits: torch.Tensor, rows: RowParams, drawn: Drawn) -> torch.Tensor:
    """What the filters kept, bool [B, V]: of a greedy row its token, of an invalid one nothing."""
    assert drawn.state is not None
    kept = is_kept(logits, drawn.state)
    greedy = rows.greedy.to(logits.device)
    if greedy.any():
        first = torch.zeros_like(kept).scatter_(1, drawn.tokens[:, :1].clamp(min=0), True)
        kept = torch.where(greedy[:, None], first, kept)
    return kept & valid_rows(drawn)


def best_ids(logits: torch.Tensor, among: torch.Tensor, n: int) -> torch.Tensor:
    """The ids of the n largest logits of those marked, int64 [B, n], of equals the lowest first.

    -1 where fewer are marked. Of logits that equal the last, `topk` takes any, so the lowest of
    their ids are looked for: every device then gives the same.
    """
    vocab = logits.shape[-1]
    every = torch.arange(vocab, dtype=torch.int32, device=logits.device)
    places = torch.arange(n, device=logits.device)
    found = []
    for own, marked in in_parts(logits, among):
        x = own.float().masked_fill(~marked, -torch.inf)
        values, ids = x.topk(n, dim=-1)
        least = values[:, -1:]
        equal = torch.where(x == least, every, vocab).topk(n, dim=-1, largest=False).values
        better = (values > least).sum(-1, keepdim=True)
        equal = equal.long().gather(-1, (places - better).clamp(min=0))
        ids, order = torch.where(places < better, ids, equal).sort(dim=-1)
        values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
        found.append(ids.gather(-1, order).masked_fill(values == -torch.inf, -1))
    return torch.cat(found)


def in_parts(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Some rows [n, V] of each tensor [B, V] at a time."""
    size = max(1, _AT_ONCE // max(1, tensors[0].shape[-1]))
    yield from zip(*(tensor.split(size) for tensor in tensors), strict=True)


def ranks(logits: torch.Tensor, drawn: Drawn) -> torch.Tensor:
    """How many logits are larger than that of each drawn token, and 1, int64 [B, n]; 0: none."""
    counts = []
    for draw in range(drawn.tokens.shape[1]):
        x = logits.gather(-1, drawn.tokens[:, draw : draw + 1].clamp(min=0))
        counts.append((logits > x).sum(-1))
    return (torch.stack(counts, dim=-1) + 1) * (drawn.tokens >= 0)


def entropy(
    logits: torch.Tensor, rows: RowParams, drawn: Drawn, kept: torch.Tensor
) -> torch.Tensor:
    """Of the kept tokens at the given temperature, in nats, fp32 [B]; NaN in an invalid row.

    `ln(mass) + ln(2) * depth / mass` (contract section 4): sums of integers, in any order.
    """
    assert drawn.state is not None
    depths = []
    greedy, c = rows.greedy.to(logits.device), rows.c.to(logits.device)
    c = c.masked_fill(greedy, LOG2_E)  # any finite one
    for x, own_c, own in in_parts(logits, c[:, None], kept):
        table = BlockTable(x, own_c[:, 0])
        depths.append(table.depth(own).double() / table.mass(own).clamp(min=1).double())
    found = (drawn.state.log_mass + torch.cat(depths) * LN_2).float().masked_fill(greedy, 0.0)
    return found.masked_fill(~valid_rows(drawn)[:, 0], torch.nan)


def listed(kept: torch.Tensor, cap: int | None) -> dict[str, torch.Tensor]:
    """The ids of all rows one after another: row b has those from `offsets[b]` to the next.

    A row of more than `cap` has none, and says so.
    """
    counts = kept.sum(-1)
    overflow = torch.zeros_like(counts, dtype=torch.bool) if cap is None else counts > cap
    shown = kept & ~overflow[:, None]
    ends = (counts * ~overflow).cumsum(-1)
    return {
        "kept_ids": shown.nonzero()[:, 1].int(),
        "kept_offsets": torch.cat((ends.new_zeros(1), ends)),
        "kept_overflow": overflow,
    }


def log_probabilities(
    ids: torch.Tensor, logits: torch.Tensor, rows: RowParams, drawn: Drawn
) -> torch.Tensor:
    """Of token ids [B, n] among the kept tokens, fp32 [B, n]; -inf where dropped.

    NaN for the id -1 and in an invalid row.
    """
    state = drawn.state
    assert state is not None
    ids = ids.long()
    x = logits.gather(-1, ids.clamp(min=0)).float() + 0.0
    row_max, invalid = state.row_max[:, None], state.row_max.isnan()[:, None] | (ids < 0)
    greedy, temperature = (c.to(x.device)[:, None] for c in (rows.greedy, rows.temperature))
    own = log_probability(x, row_max, temperature, state.log_mass[:, None])
    own = own.masked_fill(~is_kept(x, state), -torch.inf)
    certain = torch.full_like(own, -torch.inf).masked_fill(ids == drawn.tokens[:, :1], 0.0)
    return torch.where(greedy, certain, own).masked_fill(invalid, torch.nan)


def raw_log_probabilities(ids: torch.Tensor, logits: torch.Tensor, drawn: Drawn) -> torch.Tensor:
    """The same under the untouched distribution of these `logits`."""
    state = drawn.state
    assert state is not None
    x = logits.gather(-1, ids.long().clamp(min=0)).float()
    raw_max, invalid = state.raw_max[:, None], state.row_max.isnan()[:, None] | (ids < 0)
    raw = log_probability(x, raw_max, torch.ones_like(raw_max), state.raw_log_mass[:, None])
    return raw.masked_fill(invalid, torch.nan)
