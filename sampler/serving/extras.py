"""What ours has and the engines lack: the keys by which a request asks for it, and their check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..edits.dry import checked_breakers
from ..edits.records import NUMBERS
from ..filters import FILTERS
from ..params import XTC_PROBABILITY, check_number

OF_ENGINES = ("top_k", "top_p", "min_p")
EXTRA_FILTERS = (*(f.name for f in FILTERS if f.name not in OF_ENGINES), XTC_PROBABILITY.name)
DRY_BREAKERS = "dry_breakers"
DRY_NUMBERS = tuple(name for name in NUMBERS if name.startswith("dry_"))
EXTRA_DRY = (*DRY_NUMBERS, DRY_BREAKERS)


def take_extras(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ours among a request's other arguments, checked.

    Raises TypeError or ValueError. Other keys are other people's.
    """
    keys = (*EXTRA_FILTERS, *EXTRA_DRY)
    ours = {name: given[name] for name in keys if given.get(name) is not None}
    for name, value in ours.items():
        if name == DRY_BREAKERS:
            checked_breakers(value)
        else:
            check_number(name, value)
    return ours
