"""The tokens so far of the rows that look at them, from step to step of a batch that changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ...edits.history import History
from .asked import Request
from .upload import upload


class TokensSoFar:
    """One history for all rows. Rows that do not look at their tokens have none in it."""

    def __init__(self) -> None:
        self.rows: list[Request] = []  # those of the history, in its order
        self.history: History | None = None

    def of(self, rows: list[Request], device: torch.device) -> History:
        """Of these rows, up to the newest token."""
        known = {id(row): i for i, row in enumerate(self.rows) if not row.is_cut()}
        if rows != self.rows or len(known) < len(rows):
            self._follow(rows, known, device)
        assert self.history is not None
        unread = [row.read() for row in rows]
        for i in range(max(map(len, unread))):  # once, where each row got a token
            tokens = [own[i] if i < len(own) else -1 for own in unread]
            self.history.append(upload(tokens, torch.int64, device))
        return self.history

    def _follow(self, rows: list[Request], known: dict[int, int], device: torch.device) -> None:
        """Go on with these rows; those that are not known join with all of their tokens."""
        new = [row for row in rows if id(row) not in known]
        if new:
            for row in new:
                row.noted = 0
            prompts, outputs = padded(row.prompt for row in new), padded(row.read() for row in new)
            joining = History(prompts.to(device), outputs.to(device))
            if self.history is None:
                self.history = joining
            else:
                self.history.extend(joining)
        places = known | {id(row): len(self.rows) + i for i, row in enumerate(new)}
        assert self.history is not None
        self.history.reorder(torch.tensor([places[id(row)] for row in rows]))
        self.rows = rows


def padded(texts: Iterable[Sequence[int]]) -> torch.Tensor:
    """int64 [n, L], -1 behind the last token of each."""
    columns = [torch.tensor(text, dtype=torch.int64) for text in texts]
    return pad_sequence(columns, batch_first=True, padding_value=-1)
