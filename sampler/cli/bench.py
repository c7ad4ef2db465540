"""`fused-sampler bench`: what the options choose, then the suite in `benchmarks/`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..views.numbers import Number
from .options import wrong

if TYPE_CHECKING:
    from ..benchmarks.peers import Peer  # type: ignore[import-not-found]

QUICK_WITHOUT = "pytorch-compiled"  # compiling takes longer than all the rest of a quick run


Several = Sequence[str] | None


def run_bench(
    logits: Several,
    case: Several,
    vocab: Several,
    batch: Several,
    dtype: Several,
    peers: Several,
    device: str,
    quick: bool,
    out: Path,
) -> None:
    """Measure; each list may hold commas, and None is the default choice."""
    try:
        from ..benchmarks import (
            cases,  # type: ignore[attr-defined]  # setup.py maps the folder
            plan,  # type: ignore[attr-defined]  # setup.py maps the folder
        )
        from ..benchmarks.command import make_folder
        from ..benchmarks.peers import PEERS
        from ..benchmarks.run import SECONDS, run_suite
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed; run pip install 'fused-sampler[bench]'"
        ) from error

    asked = (
        _names("logits", logits, cases.LOGITS),
        _names("case", case, cases.CASES),
        _sizes("vocab", vocab, 2**22),
        _sizes("batch", batch, 2**16),
        _names("dtype", dtype, cases.DTYPES),
    )
    names = _names("peers", peers, PEERS)
    if set(asked[0]) == {"real"} and asked[2]:
        raise wrong(
            "vocab", f"real logits have a vocabulary of {cases.REAL_VOCAB}; leave --vocab out"
        )
    left_out: list[str] = []
    if any(asked):
        cells = plan.chosen_cells(*asked)
    else:
        cells = plan.quick_cells() if quick else plan.default_cells()
        left_out.append(plan.QUICK_LEFT_OUT if quick else plan.LEFT_OUT)
    if quick and not names:
        names = [name for name in PEERS if name != QUICK_WITHOUT]
        left_out.append(f"Quick: {QUICK_WITHOUT} is left out; --peers chooses it.")
    place = _device(device)
    chosen = [PEERS[name] for name in names or PEERS]
    if peers:
        _check_some_run(chosen, place)
    make_folder(out)
    done = run_suite(
        cells,
        chosen,
        place,
        out,
        left_out,
        seconds=0.0 if quick else SECONDS,
        command=shlex.join(["fused-sampler", *sys.argv[1:]]),
    )
    if not done:
        raise KeyboardInterrupt


def _device(name: str) -> torch.device:
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise wrong("device", "PyTorch sees no GPU; use cpu")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def _check_some_run(peers: Sequence[Peer], device: torch.device) -> None:
    """Refuse peers of which none would be measured."""
    reasons = {peer.title: peer.unavailable(device) for peer in peers}
    if all(reasons.values()):
        listed = "; ".join(f"{title}: {reason}" for title, reason in reasons.items())
        raise wrong("peers", f"none of them can run here ({listed}); give others, or leave it out")


def _parts(option: str, values: Several) -> list[str]:
    parts = [part.strip() for value in values or () for part in value.split(",")]
    if "" in parts:
        raise wrong(
            option,
            f"a value is missing in {','.join(values or ())!r}; give one, or several with a comma "
            "between two",
        )
    return parts


def _names(option: str, values: Several, choices: Iterable[str]) -> list[str]:
    """The names asked for. A wrong one is answered with the choices."""
    for part in (parts := _parts(option, values)):
        if part not in choices:
            raise wrong(option, f"{part!r} is unknown; choose from {', '.join(choices)}")
    return parts


def _sizes(option: str, values: Several, most: int) -> list[int]:
    size = Number(1, most)
    try:
        return [size.read(part) for part in _parts(option, values)]
    except ValueError as error:
        raise wrong(option, str(error)) from error
