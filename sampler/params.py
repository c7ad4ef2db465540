"""Sampling parameters: checked once, then a column of values, one a row."""

from __future__ import annotations

import difflib
import functools
import math
import numbers
from dataclasses import dataclass, make_dataclass, replace
from typing import Any

import torch

from .contract.mass import LOG2_E, MAX_VOCAB
from .edits.arguments import EDITS
from .edits.records import NUMBERS
from .filters import FILTERS, Axis
from .filters import Parameter as Record
from .ids import check_plain
from .slots import Slots

GREEDY_BELOW = 9.999999747378752e-06  # 1e-5 in fp32, so that every precision agrees
Parameter = float | int | torch.Tensor | None
_FP32_MAX = torch.finfo(torch.float32).max
_DTYPES = {float: torch.float32, int: torch.int64, bool: torch.bool}  # of columns
_KINDS = {
    float: (numbers.Real, "a number"),
    int: (numbers.Integral, "an integer"),
    bool: (bool, "True or False"),
}

TEMPERATURE = Record(
    name="temperature",
    kind=float,
    low=0.0,
    high=_FP32_MAX,
    off=1.0,
    help="Divides the logits; 0 is greedy, 1 is off.",
    remedy="use 0 for greedy decoding or a finite positive number",
    axis=Axis(0.1, 5.0),
)
TEMPERATURE_LAST = Record(
    name="temperature_last",
    kind=bool,
    low=False,
    high=True,
    off=False,
    help="Let the filters see temperature 1, and divide for the draw alone.",
    remedy="use True or False",
    axis=Axis(0, 1),
)
XTC_PROBABILITY = Record(
    name="xtc_probability",
    kind=float,
    low=0.0,
    high=1.0,
    off=0.0,
    help="XTC: how often xtc_threshold applies, by chance at each step; 0 is off.",
    remedy="use a number from 0 to 1; 0 switches it off",
    axis=Axis(0.0, 1.0),
)
MIROSTAT_MU = Record(
    name="mirostat_mu",
    kind=float,
    low=-math.inf,
    high=math.inf,
    off=math.inf,
    help="Keep tokens of at most this surprise, -log2 of the probability, in bits; inf is off.",
    remedy="use a number of bits; FusedSampler(mirostat_tau=...) finds it by itself",
    axis=Axis(0.0, 20.0),
)
# What moves that bound: `FusedSampler`'s own.
MIROSTAT_TAU = Record(
    name="mirostat_tau",
    kind=float,
    low=0.0,
    high=_FP32_MAX,
    off=0.0,
    help="Mirostat: the surprise to keep to, in bits a token; 0 is off.",
    remedy="use a number above 0; 0 switches it off",
    axis=Axis(0.5, 10.0),
)
MIROSTAT_ETA = Record(
    name="mirostat_eta",
    kind=float,
    low=0.0,
    high=_FP32_MAX,
    off=0.1,
    help="Mirostat: how fast the bound follows.",
    remedy="use a number from 0 on, such as 0.1",
    axis=Axis(0.0, 1.0),
)
RECORDS = {
    record.name: record
    for record in (TEMPERATURE, TEMPERATURE_LAST, *FILTERS, XTC_PROBABILITY, MIROSTAT_MU)
}
PARAMETERS = tuple(RECORDS)
# And all of a draw that has a record; numbers of the edits have one, too.
SETTINGS = RECORDS | {record.name: record for record in (MIROSTAT_TAU, MIROSTAT_ETA)}
_CHECKED = SETTINGS | NUMBERS


def _check_numbers(params: Any) -> None:
    for name, value in vars(params).items():
        if value is not None and not isinstance(value, torch.Tensor):
            check_number(name, value)


_Values: Any = make_dataclass(
    "SamplingParams",  # as its errors call it
    [(record.name, Parameter, record.off) for record in RECORDS.values()],
    namespace={"__post_init__": _check_numbers},
    frozen=True,
    kw_only=True,  # a filter that comes between others moves none
)


def _range_of(record: Record) -> str:
    """The values that a parameter takes; a bound next to 0 or 1 is one that leaves it out."""
    if record.kind is bool:
        return ""
    low = "(0" if 0 < record.low < 1e-6 else f"[{record.low:g}"
    high = {_FP32_MAX: "inf)", 1 - 2**-24: "1)"}.get(record.high, f"{record.high:g}]")
    return f" In {low}, {high}."


_DESCRIPTIONS = "\n        ".join(
    f"{record.name}: {record.help}{_range_of(record)}" for record in RECORDS.values()
)


class SamplingParams(_Values):
    __doc__ = f"""What to draw from. Each value is a number, a `[B]` tensor or None (off).

    A temperature below 1e-5 is greedy. The filters apply in this order, each to what the earlier
    ones kept (contract section 4); ties at a boundary stay together.

    Args:
        {_DESCRIPTIONS}

    Raises TypeError or ValueError for a number of the wrong kind or out of range.
    """


@dataclass(frozen=True)
class RowParams:
    """The parameters of a batch as the backends read them: columns, `[B]` tensors.

    `mirostat_mu` has none: a bound on the surprise is one on the probability, as epsilon's.

    What was given as a plain number stays on the CPU, expanded from one element, so that a kernel
    can take it by value; what was given as a tensor stands beside the logits.
    """

    temperature: torch.Tensor  # fp32
    c: torch.Tensor  # fp32: log2(e) / temperature, IEEE division
    filter_c: torch.Tensor  # fp32: what the filters see instead; c, or log2(e)
    xtc_chance: torch.Tensor  # fp32: XTC applies where 32 random bits are below; 0: never
    filters: dict[str, torch.Tensor]  # each filter's column, in the order of FILTERS
    # int32 [B]: the columns are tables [S], of which each row has a line.
    slots: torch.Tensor | None = None

    @property
    def greedy(self) -> torch.Tensor:
        return self.temperature < GREEDY_BELOW

    @functools.cached_property
    def table(self) -> torch.Tensor:
        """All columns side by side, fp64 `[B, 4 + filters]` on the CPU: each is exact there.

        One line, expanded, where every value was given as a number.
        """
        own = (self.temperature, self.c, self.filter_c, self.xtc_chance)
        columns = [*own, *self.filters.values()]
        if all(column.stride(0) == 0 for column in columns):
            line = torch.stack([column[:1].double() for column in columns], dim=-1)
            return line.expand(len(self.c), -1)
        return torch.stack([column.double().cpu() for column in columns], dim=-1)

    def to(self, device: torch.device) -> RowParams:
        """All of them beside logits on `device`, a value a row."""
        slots = None if self.slots is None else self.slots.to(device).long()

        def own(column: torch.Tensor) -> torch.Tensor:
            column = column.to(device)
            return column if slots is None else column[slots]

        filters = {name: own(column) for name, column in self.filters.items()}
        c = own(self.c)
        filter_c = c if self.filter_c is self.c else own(self.filter_c)
        return RowParams(own(self.temperature), c, filter_c, own(self.xtc_chance), filters)


def resolve_rows(
    logits: torch.Tensor,
    validate: bool = True,
    params: SamplingParams | None = None,
    slots: Slots | None = None,
    **values: Any,
) -> RowParams:
    """Check the parameters and give each row of `logits` [B, V] its own.

    They come as `params` or by their names; those that are not named are off. `validate=False`
    leaves the values of parameter tensors unread, so that nothing waits for the device; a value out
    of range then acts as the nearest one in range. With `slots` tensors are tables.
    """
    batch, vocab = logits.shape
    check_names(params, values)
    if params is not None:
        values = {**vars(params)}
    # With slots they are tables, of as many lines as those of seeds and steps.
    if slots is None and all(v is None or isinstance(v, (int, float)) for v in values.values()):
        rows = _number_rows(batch, vocab, **values)
        if type(rows.c) is not torch.Tensor:  # of a mode for fake tensors: not to be kept
            _number_rows.cache_clear()
        return rows
    params = SamplingParams(**values)
    if slots is not None:
        batch = slots.size
    for name, value in vars(params).items():
        if isinstance(value, torch.Tensor):
            check_tensor(name, value, batch, validate)
    rows = _build_rows(params, batch, vocab, logits.device)
    return rows if slots is None else replace(rows, slots=slots.numbers)


def is_on(name: str, value: Any) -> bool:
    """Whether the value of a parameter, a number, a tensor or None, may change a draw."""
    return isinstance(value, torch.Tensor) or value not in (None, _CHECKED[name].off)


def uses_chance(params: SamplingParams | None = None, **values: Any) -> bool:
    """Whether a row may leave to chance what its filters keep."""
    name = XTC_PROBABILITY.name
    return is_on(name, values.get(name) if params is None else getattr(params, name))


def check_names(params: SamplingParams | None, values: dict[str, Any]) -> None:
    """Raise TypeError for a name that is none, with a suggestion, and for `params` beside names."""
    for name, value in values.items():
        if name not in RECORDS:
            close = difflib.get_close_matches(name, (*PARAMETERS, *EDITS), n=1, cutoff=0.7)
            listed = f"the parameters are {', '.join(PARAMETERS)}; help() shows the rest."
            remedy = f"did you mean {close[0]}?" if close else listed
            raise TypeError(f"there is no argument {name!r}; {remedy}")
        if params is not None and value is not None:
            raise TypeError(f"params and {name} were both given; pass one of them.")
    if params is not None and not isinstance(params, SamplingParams):
        raise TypeError(
            f"params must be SamplingParams, got {params!r}; name a value, as temperature=0.8."
        )


@functools.lru_cache(maxsize=64, typed=True)
def _number_rows(batch: int, vocab: int, **values: float | None) -> RowParams:
    """`RowParams` of plain numbers, kept because a decoding loop asks for the same again."""
    return _build_rows(SamplingParams(**values), batch, vocab, torch.device("cpu"))


def column_of(record: Record, value: Any, device: torch.device) -> torch.Tensor:
    """int64 or fp32 `[1]` of a number or nothing, on the CPU; `[B]` of a tensor, on the device."""
    dtype, high = _DTYPES[record.kind], record.high
    if record.kind is int:
        high = min(record.high, MAX_VOCAB)
    if not isinstance(value, torch.Tensor):
        value = min(record.off if value is None else value, high)  # may be beyond the dtype
        if record.kind is float and math.isfinite(value):
            value = min(max(value, -_FP32_MAX), _FP32_MAX)
        return torch.full((1,), record.kind(value), dtype=dtype, device="cpu")
    value = value.detach().to(device=device, dtype=dtype).reshape(-1)
    if dtype == torch.bool:
        return value
    # Matters to values that were not checked only.
    return value.masked_fill(value.isnan(), record.off).clamp(record.low, high)


def _build_rows(params: SamplingParams, batch: int, vocab: int, device: torch.device) -> RowParams:
    def values_of(record: Record) -> torch.Tensor:
        return column_of(record, getattr(params, record.name), device)

    def beside(column: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both where the logits are, if one of them is."""
        if column.device == other.device:
            return column, other
        return column.to(device), other.to(device)

    temperature = values_of(TEMPERATURE)
    c = torch.full_like(temperature, LOG2_E) / temperature
    filters = {f.name: f.column(values_of(f), vocab) for f in FILTERS}
    chance = (values_of(XTC_PROBABILITY).double() * 2.0**32).ceil().float()
    epsilon, mu = beside(filters["epsilon_cutoff"], values_of(MIROSTAT_MU))
    filters["epsilon_cutoff"] = torch.maximum(epsilon, -mu)
    threshold, asked = beside(filters["xtc_threshold"], chance)
    filters["xtc_threshold"] = threshold.masked_fill(asked == 0, torch.inf)
    columns = {name: column.expand(batch) for name, column in filters.items()}
    own = seen = c.expand(batch)
    if is_on(TEMPERATURE_LAST.name, params.temperature_last):
        last, c = beside(values_of(TEMPERATURE_LAST), c)
        seen = torch.where(last, torch.full_like(c, LOG2_E), c).expand(batch)
    return RowParams(temperature.expand(batch), own, seen, chance.expand(batch), columns)


def check_number(name: str, value: object, where: str = "") -> None:
    """Raise where a number is of the wrong kind or out of range for this parameter."""
    record = _CHECKED[name]
    kind, wanted = _KINDS[record.kind]
    if isinstance(value, bool) != (record.kind is bool) or not isinstance(value, kind):
        raise TypeError(
            f"{name} must be {wanted}, a [B] tensor or None, got {value!r}; {record.remedy}."
        )
    if not record.low <= value <= record.high:  # type: ignore[operator]
        raise ValueError(f"{name} is {value}{where}, out of range; {record.remedy}.")


def check_tensor(name: str, value: torch.Tensor, batch: int, validate: bool) -> None:
    """Raise where a tensor has the wrong dtype or shape, or (`validate`) holds a value that has."""
    record = _CHECKED[name]
    flags = value.dtype == torch.bool
    integer = not (value.is_floating_point() or value.is_complex() or flags)
    fits = {int: integer, bool: flags}.get(record.kind, integer or value.is_floating_point())
    if not fits:
        wanted = {int: "an integer", bool: "a bool"}.get(record.kind, "a floating-point")
        raise TypeError(f"{name} must be {wanted} tensor, got {value.dtype}; convert it first.")
    check_plain(name, value)
    if value.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"{name} has shape {list(value.shape)} but logits have {batch} rows; "
            f"pass a number or a tensor of shape [{batch}]."
        )
    if validate and not flags:
        words = value.detach().reshape(-1).to(torch.int64 if integer else value.dtype)
        good = (words >= record.low) & (words <= record.high)
        if not good.all():
            row = int((~good).nonzero()[0])
            check_number(name, words[row].item(), where=f" in row {row}")
