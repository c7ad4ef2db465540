"""The sampling parameters in the order in which users meet them."""

from ..params import RECORDS

COMMON = tuple(RECORDS[name] for name in ("temperature", "top_k", "top_p", "min_p"))
MORE = tuple(record for record in RECORDS.values() if record not in COMMON)
SWEPT = tuple(record for record in (*COMMON, *MORE) if record.kind is not bool)
