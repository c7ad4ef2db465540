"""What ours has and the engines lack: the keys by which a request asks for it, and their check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..edits.records import NUMBERS
from ..filters import FILTERS
from ..params import XTC_PROBABILITY, check_number

OF_ENGINES = ("top_k", "top_p", "min_p")
EXTRA_FILTERS = (*(f.name for f in FILTERS if f.name not in OF_ENGINES), XTC_PROBABILITY.name)
DRY_BREAKERS = "dry_breakers"
EXTRA_DRY = (*(name for name in NUMBERS if name.startswith("dry_")), DRY_BREAKERS)


def take_extras(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ours among a request's other arguments, checked.

    Raises TypeError or ValueError. Other keys are other people's.
    """
    keys = (*EXTRA_FILTERS, *EXTRA_DRY)
    ours = {name: given[name] for name in keys if given.get(name) is not None}
    for name, value in ours.items():
        if name == DRY_BREAKERS:
            _check_breakers(value)
        else:
            check_number(name, value)
    return ours


def _check_breakers(ids: Any) -> None:
    good = isinstance(ids, Sequence) and not isinstance(ids, str)
    if not good or not all(type(token) is int and token >= 0 for token in ids):
        raise TypeError(f"{DRY_BREAKERS} must be a list of token ids, got {ids!r}.")
