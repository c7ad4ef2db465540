"""Hypothesis strategies for calls: logits and arguments, right ones and any."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from common import KINDS, logits_of
from hypothesis import strategies as st

from fused_sampler import History, SamplingParams

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
SEEDS = st.integers(-(2**63), 2**64 - 1)
WORDS = st.integers(-(2**63), 2**63 - 1)  # as a tensor holds them

INF, NAN = float("inf"), float("nan")
finite = st.floats(min_value=-30, max_value=30, width=32) | st.integers(-3, 3).map(float)
logit = finite | st.just(-INF)


def by_row(values: st.SearchStrategy, batch: int, dtype: torch.dtype) -> st.SearchStrategy:
    """A number, or a tensor with one a row."""
    rows = st.lists(values, min_size=batch, max_size=batch)
    return values | rows.map(lambda row: torch.tensor(row, dtype=dtype))


@st.composite
def listed_logits(draw, batch, vocab):
    """Logits [B, V] of which every one is chosen, and at least one of a row is allowed."""
    dtype = draw(DTYPES)
    row = st.lists(logit, min_size=vocab, max_size=vocab)
    x = torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch))).to(dtype)
    x[:, draw(st.integers(0, vocab - 1))] = draw(finite)
    return x


def filters(batch: int, vocab: int) -> st.SearchStrategy:
    """Temperature and filters by their names: the four that most calls have, and some others."""
    share = st.floats(2.0**-20, 1, width=32)
    chance = st.floats(0, 1, width=32)
    cutoff = st.floats(0, 0.5, width=32)
    temperatures = st.sampled_from([0.0, 1e-3, 0.5, 1.0, 1.7, 100.0])
    return st.fixed_dictionaries(
        {
            "temperature": by_row(temperatures, batch, torch.float32),
            "top_k": by_row(st.integers(0, vocab + 1), batch, torch.int64),
            "top_p": by_row(chance, batch, torch.float32),
            "min_p": by_row(chance, batch, torch.float32),
        },
        optional={
            "temperature_last": st.booleans(),
            "top_n_sigma": st.floats(0, 8, width=32),
            "top_h": share,
            "typical_p": share,
            "epsilon_cutoff": cutoff,
            "eta_cutoff": cutoff,
            "top_a": chance,
            "xtc_probability": chance,
            "xtc_threshold": cutoff,
            "mirostat_mu": st.floats(-2, 20, width=32),
        },
    )


@st.composite
def calls(draw):
    """Logits, temperature, filters and a seed."""
    x = draw(listed_logits(draw(st.integers(1, 4)), draw(st.integers(1, 200))))
    return x, {**draw(filters(*x.shape)), "seed": draw(SEEDS)}


# What follows is for the public functions, with all of their arguments.

VOCABS = st.sampled_from([1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 1000])


@st.composite
def any_logits(draw):
    """Logits [B, V] or [V] in some layout of memory; rows of all kinds, invalid ones too."""
    batch, vocab = draw(st.integers(0, 4)), draw(VOCABS)
    if draw(st.booleans()):
        x = draw(listed_logits(max(1, batch), draw(st.integers(1, 8))))
    else:
        kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 99))
        x = logits_of(kind, max(1, batch), vocab, seed)[:batch].to(draw(DTYPES))
    layout = draw(st.sampled_from(["plain", "plain", "one row", "strided", "cut", "turned"]))
    if layout == "one row" and len(x):
        return x[0]
    if layout == "strided":
        return torch.stack((x, x), dim=1)[:, 0]
    if layout == "cut":
        return torch.nn.functional.pad(x, (3, 5))[:, 3 : 3 + x.shape[1]]
    return x.t().contiguous().t() if layout == "turned" else x


def ids(vocab: int, most: int = 6) -> st.SearchStrategy:
    """A list of different token ids."""
    return st.lists(st.integers(0, vocab - 1), max_size=most, unique=True)


def id_rows(batch: int, vocab: int, width: int) -> st.SearchStrategy:
    """Token ids int64 [batch, width], -1 for none."""
    # Few different ones, so that sequences repeat.
    row = st.lists(st.integers(-1, min(vocab, 4) - 1), min_size=width, max_size=width)
    rows = st.lists(row, min_size=batch, max_size=batch)
    return rows.map(lambda rows: torch.tensor(rows, dtype=torch.int64).view(batch, width))


@st.composite
def edits(draw, batch, vocab, lines):
    """Some edits by their names; numbers may have a value for each of so many lines."""
    numbers = {
        "repetition_penalty": by_row(st.sampled_from([0.5, 1.0, 1.3]), lines, torch.float32),
        "frequency_penalty": by_row(st.floats(-2, 2, width=32), lines, torch.float32),
        "presence_penalty": by_row(st.floats(-2, 2, width=32), lines, torch.float32),
        "dry_multiplier": st.sampled_from([0.0, 0.8]),
        "dry_base": st.floats(1, 3, width=32),
        "dry_allowed_length": st.integers(1, 3),
        "dry_range": st.integers(0, 9),
        "dry_breakers": ids(vocab),
    }
    bias = st.floats(-9, 9, width=32) | st.just(-INF)
    others = {
        "logit_bias": st.dictionaries(st.integers(0, vocab - 1), bias, max_size=5),
        "allowed": st.lists(st.booleans() | st.just(True), min_size=vocab, max_size=vocab).map(
            torch.tensor
        ),
    }
    chosen = draw(st.fixed_dictionaries({}, optional=others))
    if draw(st.booleans()):
        chosen |= draw(st.fixed_dictionaries({}, optional=numbers))
        rows = [draw(id_rows(batch, vocab, draw(st.integers(0, 9)))) for _ in range(2)]
        if draw(st.booleans()):
            chosen["history"] = History(*rows)
        else:
            chosen |= dict(zip(("prompt_ids", "output_ids"), rows, strict=True))
    if draw(st.booleans()):
        chosen |= {"min_tokens": draw(st.integers(0, 4)), "stop_ids": draw(ids(vocab, 3))}
    return chosen


@st.composite
def draws(draw, batch):
    """Seed, step and how many."""
    return {
        "seed": draw(SEEDS | by_row(WORDS, batch, torch.int64)),
        "step": draw(by_row(st.integers(0, 2**63 - 1), batch, torch.int64)),
        "num_samples": draw(st.sampled_from([1, 1, 1, 2, 5, 40])),
        "replacement": draw(st.booleans()),
        "validate": draw(st.booleans()),
    }


def requests(vocab: int) -> st.SearchStrategy:
    """What more to return."""
    return st.fixed_dictionaries(
        {"return_info": st.just(True)},
        optional={
            "top_logprobs": st.integers(0, vocab),
            "logprob_ids": ids(vocab).map(lambda row: torch.tensor(row, dtype=torch.int64)),
            "return_ranks": st.booleans(),
            "return_entropy": st.booleans(),
            "return_kept": st.sampled_from([None, "ids", "bitmask"]),
        },
    )


class Call(NamedTuple):
    """Arguments of `sample`. Those of `mask_logits`, `replay` and others are among them."""

    logits: Any
    arguments: dict[str, Any]
    replaced: tuple[str, ...] = ()  # the names of those that may be wrong


@st.composite
def right_calls(draw):
    """Every argument is of a kind and in a range that is allowed."""
    x = draw(any_logits())
    batch, vocab = (1 if x.dim() == 1 else len(x)), x.shape[-1]
    lines, slots = batch, {}
    if draw(st.integers(0, 4)) == 0:
        lines = draw(st.integers(1, 5))
        numbers = draw(st.lists(st.integers(0, lines - 1), min_size=batch, max_size=batch))
        slots["slots"] = torch.tensor(numbers, dtype=torch.int32)
    arguments = {**draw(filters(lines, vocab)), **draw(draws(lines)), **slots}
    if draw(st.booleans()):  # most filters off, as most calls have it
        for name in draw(st.sets(st.sampled_from(sorted(arguments.keys() - {"slots"})))):
            del arguments[name]
    if draw(st.booleans()):
        arguments |= draw(edits(batch, vocab, lines))
    if draw(st.booleans()):
        arguments |= draw(requests(vocab))
    return Call(x, arguments)


ANY_DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16),
]
ODD_NUMBERS = st.sampled_from(
    [0, 1, 2, 3, -1, 7, 10**6, 2**31, -(2**31), 2**62, 0.5, 1e-9, -0.0, 1e30, 1e39, INF, -INF, NAN]
)


@st.composite
def tensors(draw):
    """Small tensors of any kind, with values out of all ranges among them."""
    shape = torch.Size(draw(st.lists(st.integers(0, 5), max_size=3)))
    few = draw(st.lists(ODD_NUMBERS, min_size=1, max_size=4))
    dtype = draw(st.sampled_from(ANY_DTYPES))
    values = torch.tensor((few * shape.numel())[: shape.numel()], dtype=torch.float64)
    if not (dtype.is_floating_point or dtype.is_complex):
        values = values.nan_to_num()
    x = values.to(dtype).view(shape)
    kind = draw(st.sampled_from(["plain", "plain", "meta", "sparse", "gradient"]))
    if kind == "meta":
        return x.to("meta")
    if kind == "sparse" and x.dim() and dtype is not torch.uint16:
        return x.to_sparse()
    return x.requires_grad_(kind == "gradient" and dtype.is_floating_point)


ODD_OBJECTS = [np.float32(0.5), np.int64(2), np.bool_(True), np.zeros(2), object(), 1j]
ANYTHING = (
    st.none()
    | st.booleans()
    | ODD_NUMBERS
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.lists(ODD_NUMBERS, max_size=4)
    | st.tuples(ODD_NUMBERS, ODD_NUMBERS)
    | st.dictionaries(ODD_NUMBERS | st.text(max_size=2), ODD_NUMBERS, max_size=3)
    | st.builds(Fraction, st.integers(-9, 9), st.integers(1, 9))
    | st.sampled_from(ODD_OBJECTS)
    | st.builds(SamplingParams, top_k=st.integers(0, 9))
    | tensors()
    | st.tuples(tensors(), tensors())
)


@st.composite
def any_calls(draw, names):
    """A right call of which one or two arguments, `names` or the logits, are anything at all."""
    call = draw(right_calls())
    x, arguments = call.logits, dict(call.arguments)
    replaced = draw(st.lists(st.sampled_from(["logits", *names]), min_size=1, max_size=2))
    for name in replaced:
        if name == "logits":
            x = draw(ANYTHING)
        else:
            arguments[name] = draw(ANYTHING)
    return Call(x, arguments, tuple(replaced))
