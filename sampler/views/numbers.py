"""Numbers as users type them, on the command line or into the explorer's page."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any, NamedTuple

# One way to spell a number, so that a page in a browser and Python agree on what is one.
_SPELLINGS = {int: r"[0-9]+", float: r"[0-9.eE+-]+"}


class Number(NamedTuple):
    """What a number has to be: an `int` or a `float` from `low` to `high`, and finite."""

    kind: type
    low: float
    high: float = math.inf
    hint: str = ""  # what a special value means

    def read(self, text: str) -> Any:
        """The number that `text` spells. Raises ValueError, which says what is wanted."""
        if re.fullmatch(_SPELLINGS[self.kind], text):
            with suppress(ValueError):  # "1e", or more digits than Python reads
                value = self.kind(text)
                if self.low <= value <= self.high and value != math.inf:
                    return value
        raise ValueError(f"{text!r} is not {self.wanted}")

    @property
    def wanted(self) -> str:
        kind = {int: "a whole number", float: "a number"}[self.kind]
        if self.high == math.inf and self.kind is float:
            kind = "a finite number"
        high = "up" if self.high == math.inf else f"to {self.high}"
        return f"{kind} from {self.low} {high}" + (f"; {self.hint}" if self.hint else "")


SEED = Number(int, 0, 2**63 - 1)
