"""The tokens so far of the rows that look at them, from step to step of a batch that changes."""

from __future__ import annotations

import torch

from ...edits.history import History
from ..columns import upload
from .asked import Request
from .columns import padded


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
