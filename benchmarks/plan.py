"""Which cells are measured: the default choice, the quick one, or what the options ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

from .cases import BATCHES, CASES, COMMON, RARE, REAL_VOCAB, VOCABS

VOCAB = 128_256  # where only one is measured
MAIN_BATCHES = (1, 8, 64)
SWEPT = ("temperature 0.8", "top-k 50 + top-p 0.9", "top-p 0.9")  # over all V, and over all B
SWEEP_BATCH = 8

LEFT_OUT = (
    "Left out to stay within minutes: other cases than "
    f"{', '.join(SWEPT)} at other vocabularies than {VOCAB:,} and {REAL_VOCAB:,} or at B = 256, "
    f"{', '.join(RARE)} at other B than {SWEEP_BATCH}, "
    "and 16-bit logits; --case, --vocab, --batch, --dtype and --logits choose."
)
QUICK_LEFT_OUT = (
    "Quick: one round of a few cells, so the spread says little; without --quick all cases are "
    "measured."
)


class Cell(NamedTuple):
    """One place to measure at."""

    logits: str
    case: str
    vocab: int
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.case}, {self.logits} {self.dtype}, V={self.vocab:,}, B={self.batch}"


def default_cells() -> list[Cell]:
    return _unique(
        [
            *_cross(["random"], COMMON, [VOCAB], MAIN_BATCHES, ["fp32"]),
            *_cross(["real"], COMMON, [REAL_VOCAB], MAIN_BATCHES, ["fp32"]),
            *_cross(["random"], RARE, [VOCAB], [SWEEP_BATCH], ["fp32"]),
            *_cross(["real"], RARE, [REAL_VOCAB], [SWEEP_BATCH], ["fp32"]),
            *_cross(["all equal"], SWEPT, [VOCAB], [SWEEP_BATCH], ["fp32"]),
            *_cross(["random"], SWEPT, VOCABS, [SWEEP_BATCH], ["fp32"]),
            *_cross(["random"], SWEPT, [VOCAB], BATCHES, ["fp32"]),
        ]
    )


def quick_cells() -> list[Cell]:
    return _unique(
        [
            *_cross(["random"], SWEPT, [VOCABS[0]], [SWEEP_BATCH], ["fp32"]),
            *_cross(["random"], SWEPT, [VOCAB], [1, SWEEP_BATCH], ["fp32"]),
            *_cross(["real"], SWEPT, [REAL_VOCAB], [1, SWEEP_BATCH], ["fp32"]),
        ]
    )


def chosen_cells(
    logits: Sequence[str] = (),
    cases: Sequence[str] = (),
    vocabs: Sequence[int] = (),
    batches: Sequence[int] = (),
    dtypes: Sequence[str] = (),
) -> list[Cell]:
    """Everything asked for with everything else asked for.

    Where nothing is: random logits, all cases, V = 128,256, B = 1, 8, 64, fp32. Real logits have
    the vocabulary of their model.
    """
    kinds = logits or ["random"]
    made = _cross(
        [kind for kind in kinds if kind != "real"],
        cases or CASES,
        vocabs or [VOCAB],
        batches or MAIN_BATCHES,
        dtypes or ["fp32"],
    )
    real = _cross(
        [kind for kind in kinds if kind == "real"],
        cases or CASES,
        [REAL_VOCAB],
        batches or MAIN_BATCHES,
        dtypes or ["fp32"],
    )
    return _unique([*made, *real])


def _cross(*axes: Iterable) -> list[Cell]:
    return [Cell(*place) for place in product(*axes)]


def _unique(cells: list[Cell]) -> list[Cell]:
    return list(dict.fromkeys(cells))
