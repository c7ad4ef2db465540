"""Tokens a second of `generate` and of continuous batching: Hugging Face's sampling beside ours.

    python -m fused_sampler.benchmarks.end_to_end [--quick] [--batch 1 8 32] [--call generate]

The embedded model (SmolLM2-135M-Instruct) continues the same prompts by the same number of tokens,
once with each sampler, and again. It has no end token meanwhile, so that no row stops early.

Sampling is what lies between the scores and the drawn token: for Hugging Face from the call of its
warpers to the return of `torch.multinomial`, the softmax included; for ours the call of `sample`,
which does all that the warpers do. Its share is that of the decode steps after the first, which
reads the prompt; tokens a second are those of the whole call. `continuous.py` says what both are
where requests come to a manager.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import LogitsProcessorList

from ..api import sample
from ..hf import fused_generate
from ..hf.patch import continuous
from ..models.load import LoadedModel, load_model
from ..models.quiet import quiet_transformers
from ..views.files import writing
from . import command
from .cases import CASES
from .report import counted
from .results import facts
from .runs import OURS, SAMPLERS, THEIRS, Draws, Run, prompts, replaced

BATCHES = (1, 8, 32)
MEASURED = ("top-k 50 + top-p 0.9", "top-p 0.9")
NEW_TOKENS = 32
REPEATS = 5


@contextlib.contextmanager
def timed_hugging_face(draws: Draws) -> Iterator[dict[str, Any]]:
    """What to tell `generate`; transformers has no hook for its draw, so its ends are replaced."""
    process, multinomial = LogitsProcessorList.__call__, torch.multinomial

    def timed_process(*args: Any, **kwargs: Any) -> Any:
        draws.begin()
        return process(*args, **kwargs)

    def timed_multinomial(*args: Any, **kwargs: Any) -> Any:
        tokens = multinomial(*args, **kwargs)
        draws.end()
        return tokens

    with (
        replaced(LogitsProcessorList, "__call__", timed_process),
        replaced(torch, "multinomial", timed_multinomial),
    ):
        yield {}


@contextlib.contextmanager
def timed_ours(draws: Draws) -> Iterator[dict[str, Any]]:
    """What to tell `generate`."""

    def timed_sample(*args: Any, **kwargs: Any) -> Any:
        draws.begin()
        tokens = sample(*args, **kwargs)
        draws.end()
        return tokens

    yield {"custom_generate": fused_generate, "sampler": timed_sample}


def generate(loaded: LoadedModel, sampler: str, case: str, batch: int, new_tokens: int) -> Run:
    """Generate once, and time it."""
    model, ids = loaded.model, prompts(loaded, batch)
    sampling = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **CASES[case]}
    draws = Draws(model.device)
    timed = timed_ours if sampler == OURS else timed_hugging_face
    torch.manual_seed(0)
    with (
        quiet_transformers(),
        replaced(model.generation_config, "eos_token_id", None),
        timed(draws) as arguments,
    ):
        start = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            max_new_tokens=new_tokens,
            pad_token_id=0,
            **sampling,
            **arguments,
        )
        seconds = time.perf_counter() - start
    if len(draws.times) != new_tokens:
        raise RuntimeError(f"{sampler} drew {len(draws.times)} times for {new_tokens} tokens.")
    return draws.run(batch * new_tokens, seconds)


CALLS: dict[str, Callable[..., Run]] = {"generate": generate}
if continuous is not None:  # with older transformers there is nothing to time
    from .continuous import generate_batch

    CALLS["generate_batch"] = generate_batch


def measure(
    loaded: LoadedModel,
    calls: Sequence[str],
    cases: Sequence[str],
    batches: Sequence[int],
    new_tokens: int,
    repeats: int,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row for each call, case, batch and sampler. `report` is told what each run is for."""
    rows = []
    for call, case, batch in itertools.product(calls, cases, batches):
        runs: dict[str, list[Run]] = {sampler: [] for sampler in SAMPLERS}
        for repeat in range(repeats + 1):
            for sampler, own in runs.items():
                report(f"{call}: {case}, B={batch}, {sampler}")
                if repeat == 0:  # the first steps allocate: not counted
                    CALLS[call](loaded, sampler, case, batch, new_tokens=2)
                else:
                    own.append(CALLS[call](loaded, sampler, case, batch, new_tokens))
        rows += [row_of(call, case, batch, new_tokens, sampler, runs) for sampler in runs]
    return rows


def row_of(
    call: str, case: str, batch: int, new_tokens: int, sampler: str, runs: dict[str, list[Run]]
) -> dict[str, Any]:
    """The figures of a sampler's runs: medians, and the range of the tokens a second."""
    speeds = [run.tokens_per_second for run in runs[sampler]]
    theirs = median(run.tokens_per_second for run in runs[THEIRS])
    return {
        "call": call,
        "case": case,
        "batch": batch,
        "new_tokens": new_tokens,
        "name": sampler,
        "tokens_per_second": median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "ratio": median(speeds) / theirs,  # to Hugging Face's own sampling
        "sampling_share": median(run.share for run in runs[sampler]),
        "runs": len(speeds),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown, the two samplers side by side."""
    lines = [
        "| call | case | B | Hugging Face tokens/s | fused-sampler tokens/s | ratio "
        "| sampling's share of a step, before | and after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = {(row["call"], row["case"], row["batch"], row["name"]): row for row in rows}
    for call, case, batch in dict.fromkeys(cell[:3] for cell in found):
        theirs, ours = (found[call, case, batch, sampler] for sampler in (THEIRS, OURS))
        speeds = (
            f"{row['tokens_per_second']:.1f} ({row['slowest']:.1f} to {row['fastest']:.1f})"
            for row in (theirs, ours)
        )
        shares = (f"{row['sampling_share']:.1%}" for row in (theirs, ours))
        cells = call, case, str(batch), *speeds, f"{ours['ratio']:.2f} x", *shares
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    options = command.Options(
        prog=f"python -m {__spec__.name}", description=__doc__.splitlines()[0]
    )
    options.add_argument("--batch", type=command.whole_number, nargs="+", metavar="B")
    options.add_argument("--call", choices=CALLS, nargs="+", default=list(CALLS))
    options.add_argument("--quick", action="store_true", help="one case, B = 1 and 8, 8 tokens")
    options.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    chosen = options.parse_args(arguments)
    command.make_folder(chosen.out)
    cases, repeats = (MEASURED[:1], 1) if chosen.quick else (MEASURED, REPEATS)
    batches = chosen.batch or (BATCHES[:2] if chosen.quick else BATCHES)
    loaded = load_model()
    new_tokens = 8 if chosen.quick else NEW_TOKENS
    runs = len(chosen.call) * len(cases) * len(batches) * len(SAMPLERS) * (repeats + 1)
    done = itertools.count()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=runs)

        def report(line: str) -> None:
            progress.update(task, description=line, completed=next(done))

        rows = measure(loaded, chosen.call, cases, batches, new_tokens, repeats, report)
        progress.update(task, completed=runs)
    line = command.as_typed(options, arguments)
    where = {"model": loaded.name, **facts(loaded.model.device, line)}
    threads = counted(where["threads"], "thread")
    size = f"{loaded.name}, {new_tokens} new tokens a row, {threads}."
    text = f"{table(rows)}\n\n{size}"
    stored = json.dumps({"run": where, "rows": rows}, indent=1)
    try:
        with writing(chosen.out, command.OTHER_FOLDER):
            (chosen.out / "generate.json").write_text(stored + "\n")
            (chosen.out / "generate.md").write_text(text + "\n")
    finally:  # minutes of work are shown, at least
        print(text)


if __name__ == "__main__":
    command.run(main)
