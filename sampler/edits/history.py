"""The tokens of a batch so far, sparse: what the penalties look at."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ..ids import check_kind_of_ids

END = 2**31 - 1  # stands behind the last of a row's ids, which ascend
_WIDTH = 16  # of which widths are multiples
# What is as wide as the tokens, and what stands behind a row's last.
_WIDE = {"ids": END, "counts": 0, "tokens": -1, "repeats": 0}


class History:
    """Prompt and output of each row. Give it to `sample` as `history`, and what was drawn to it.

    >>> history = History(prompt_ids)
    >>> for step in range(100):
    ...     tokens = sample(logits, repetition_penalty=1.1, history=history, step=step)
    ...     history.append(tokens)

    Memory and time are those of the tokens so far, not of the vocabulary: each row holds its
    different ids in ascending order and how often each is in the output.

    Args:
        prompt_ids: int64 or int32 `[B, L]` or `[L]`, -1 where there is no token (padding of any
            side). `[B, 0]` for none.
        output_ids: the same, what has been generated already.
    """

    ids: torch.Tensor  # int32 [B, n]: the different ids, ascending; END behind the last
    counts: torch.Tensor  # int32 [B, n]: how often each is in the output
    tokens: torch.Tensor  # int32 [B, m]: all of them in order
    lengths: torch.Tensor  # int64 [B]: how many those are
    generated: torch.Tensor  # int64 [B]: how many of them are output
    repeats: torch.Tensor | None  # `dry.py`; None before it is asked for

    def __init__(self, prompt_ids: torch.Tensor, output_ids: torch.Tensor | None = None):
        prompt = _checked("prompt_ids", prompt_ids)
        output = prompt[:, :0] if output_ids is None else _checked("output_ids", output_ids)
        if len(output) != len(prompt):
            raise ValueError(
                f"output_ids have {len(output)} rows but prompt_ids {len(prompt)}; pass the same "
                "rows, with -1 where a row has no token."
            )
        output = output.to(prompt.device)
        both = torch.nn.functional.pad(torch.cat((prompt, output), dim=1), (0, 1), value=-1)
        in_output = torch.arange(both.shape[1], device=both.device) >= prompt.shape[1]
        in_output = in_output & (both >= 0)
        self.ids, self.counts = _different(both, in_output)
        is_token = both >= 0
        order = is_token.int().argsort(dim=1, descending=True, stable=True)
        self.tokens = both.gather(1, order)
        self.lengths, self.generated = is_token.sum(1), in_output.sum(1)
        self.repeats = None
        self._room = 0  # tokens that a row may have more before it is widened
        self._widen()

    def append(self, tokens: torch.Tensor) -> None:
        """Note the next token of each row's output, int64 or int32 `[B]`; -1 for none."""
        rows = len(self.ids)
        if not isinstance(tokens, torch.Tensor) or tokens.is_floating_point():
            raise TypeError(f"tokens must be an int64 [{rows}] tensor, got {tokens!r}.")
        if tokens.numel() != rows:
            raise ValueError(
                f"tokens have shape {list(tokens.shape)} but the history has {rows} rows; pass "
                "one token a row, -1 for none."
            )
        if self._room == 0:
            self._widen()
        self._room -= 1
        token = tokens.to(device=self.ids.device, dtype=torch.int32).reshape(rows, 1)
        some = token >= 0
        place = torch.searchsorted(self.ids, token)
        is_new = some & (self.ids.gather(1, place) != token)
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        source = places - (is_new & (places > place)).long()  # those behind move on by one
        here = is_new & (places == place)
        self.ids = torch.where(here, token, self.ids.gather(1, source))
        self.counts = self.counts.gather(1, source).masked_fill(here, 0)
        self.counts.scatter_add_(1, place, some.int())
        if self.repeats is not None:
            longer = torch.nn.functional.pad(self.repeats, (1, -1)) + 1
            again = (self.tokens == token) & (self.tokens >= 0)
            self.repeats = torch.where(some, longer.masked_fill(~again, 0), self.repeats)
        end = self.lengths[:, None]
        self.tokens.scatter_(1, end, torch.where(some, token, self.tokens.gather(1, end)))
        self.lengths = self.lengths + some[:, 0]
        self.generated = self.generated + some[:, 0]

    def reorder(self, rows: torch.Tensor) -> None:
        """Go on with these rows, int64 `[n]`: some, in another order, or one more than once."""
        if not isinstance(rows, torch.Tensor) or rows.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"rows must be an int64 tensor of row numbers, got {rows!r}.")
        rows = rows.to(self.ids.device).reshape(-1)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.ids):
            raise ValueError(
                f"rows go from {int(rows.min())} to {int(rows.max())}, but the history has "
                f"{len(self.ids)}; number them from 0."
            )
        for name in ("ids", "counts", "tokens", "lengths", "generated", "repeats"):
            if (values := getattr(self, name)) is not None:
                setattr(self, name, values[rows])
        used = int(self.lengths.max()) + 1 if len(rows) else 1
        width = self.tokens.shape[1]
        if 4 * used < width:  # a row that was much longer has left
            self._room = width - used
            self._resize(_doubled(used))

    def extend(self, other: History) -> None:
        """Go on with the rows of another history as well, behind one's own."""
        if not isinstance(other, History):
            raise TypeError(f"other must be a History, got {other!r}; pass History(prompt_ids).")
        width = max(self.tokens.shape[1], other.tokens.shape[1])
        other = copy.copy(other).to(self.ids.device)  # whose tensors stay as they are
        self._resize(width)
        other._resize(width)
        self._room = min(self._room, other._room)
        self.repeats = None
        for name in ("ids", "counts", "tokens", "lengths", "generated"):
            setattr(self, name, torch.cat((getattr(self, name), getattr(other, name))))

    def to(self, device: torch.device | str) -> History:
        """Itself, moved to where the logits are."""
        for name in ("ids", "counts", "tokens", "lengths", "generated", "repeats"):
            if (values := getattr(self, name)) is not None:
                setattr(self, name, values.to(device))
        return self

    def __len__(self) -> int:
        """Rows."""
        return len(self.ids)

    def _widen(self) -> None:
        """Make room for as many tokens again, so that it is seldom asked for."""
        self._resize(_doubled(self.tokens.shape[1]))

    def _resize(self, width: int) -> None:
        """Make it so wide, at least as wide as the longest row and 1."""
        missing = width - self.tokens.shape[1]
        self._room += missing
        for name, value in _WIDE.items():
            if (values := getattr(self, name)) is not None:
                values = torch.nn.functional.pad(values, (0, missing), value=value)
                setattr(self, name, values)


def _doubled(width: int) -> int:
    return -(-2 * width // _WIDTH) * _WIDTH


def _checked(name: str, ids: Any) -> torch.Tensor:
    """int32 [B, L]"""
    check_kind_of_ids(name, ids)
    if ids.dim() not in (1, 2):
        raise ValueError(
            f"{name} have shape {list(ids.shape)}; pass [B, L], -1 where there is none."
        )
    ids = ids if ids.dim() == 2 else ids[None]
    wrong = (ids < -1) | (ids >= END)
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} hold {int(ids[row, place])} in row {row}; token ids count from 0, and -1 "
            "stands for none."
        )
    return ids.int()


def _different(ids: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The different ids of each row, ascending, END behind them; how many of each are `counted`."""
    ordered, order = ids.masked_fill(ids < 0, END).sort(dim=1)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = begins.cumsum(1) - 1
    different = torch.full_like(ordered, END).scatter_(1, place, ordered)
    counts = torch.zeros_like(ordered)
    return different, counts.scatter_add_(1, place, counted.gather(1, order).int())
