"""The sampling parameters and the edits in the order in which users meet them."""

from collections.abc import Mapping
from typing import Any

from ..edits import records
from ..filters import Parameter
from ..params import MIROSTAT_MU, RECORDS

COMMON = tuple(RECORDS[name] for name in ("temperature", "top_k", "top_p", "min_p"))
# But for what is of use from one token to the next only.
MORE = tuple(r for r in RECORDS.values() if r not in COMMON and r is not MIROSTAT_MU)
OFFERED = (*COMMON, *MORE)
SWEPT = tuple(record for record in OFFERED if record.kind is not bool)

EDITS = tuple(records.NUMBERS.values())
# The others look at the output, of which a token right after a prompt has none. The explorer's text
# may have some.
_OF_OUTPUT = (records.FREQUENCY_PENALTY, records.PRESENCE_PENALTY, records.MIN_TOKENS)
NEXT_EDITS = tuple(record for record in EDITS if record not in _OF_OUTPUT)
LOGIT_BIAS = "logit_bias"  # the one edit that is offered and is no number
# What transformers has too, and a generation config may hold; and its names there.
TRANSFORMERS = {
    records.REPETITION_PENALTY.name: "repetition_penalty",
    records.MIN_TOKENS.name: "min_new_tokens",
}
_ALL = RECORDS | records.NUMBERS


def is_on(record: Parameter, values: Mapping[str, Any]) -> bool:
    """Whether the parameter does something, by its own value or by that of the one it needs."""
    deciding = _ALL[record.needs] if record.needs else record
    return values[deciding.name] != deciding.off
