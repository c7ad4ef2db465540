"""The sampling parameters in the order in which users meet them."""

from collections.abc import Mapping
from typing import Any

from ..filters import Parameter
from ..params import MIROSTAT_MU, RECORDS

COMMON = tuple(RECORDS[name] for name in ("temperature", "top_k", "top_p", "min_p"))
# But for what is of use from one token to the next only.
MORE = tuple(r for r in RECORDS.values() if r not in COMMON and r is not MIROSTAT_MU)
OFFERED = (*COMMON, *MORE)
SWEPT = tuple(record for record in OFFERED if record.kind is not bool)


def is_on(record: Parameter, sampling: Mapping[str, Any]) -> bool:
    """Whether the parameter does something, by its own value or by that of the one it needs."""
    deciding = RECORDS[record.needs] if record.needs else record
    return sampling[deciding.name] != deciding.off
