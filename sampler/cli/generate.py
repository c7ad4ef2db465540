"""`fused-sampler generate`: the text as it comes, then speed and the share of sampling."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import typer
from transformers import LogitsProcessorList

from ..api import sample
from ..hf import fused_generate
from ..models import generation
from ..models.load import LoadedModel
from ..models.prompt import encode_prompt
from ..models.quiet import quiet_transformers
from ..models.vocabulary import unspelled_ids, unspelled_note
from ..views.request import Request
from .options import wrong
from .waiting import compile_kernels, load_for_command


def run_generate(
    request: Request, stop: Sequence[str], max_new_tokens: int, num_samples: int
) -> None:
    """Print `num_samples` continuations, one after the other; the i-th has the seed `seed + i`."""
    first_seed = request.seed
    if first_seed is None:
        first_seed = secrets.randbelow(2**32)  # short enough to type again
    seeds = range(first_seed, first_seed + num_samples)
    if seeds[-1] >= 2**63:
        if request.seed is None:
            raise wrong("num_samples", f"{num_samples} is more than there are seeds; ask for less")
        raise wrong(
            "seed",
            f"{first_seed} leaves too few seeds for --num-samples {num_samples}; "
            "use a smaller seed",
        )
    loaded = load_for_command(request.model)
    request.check_vocabulary(loaded.vocabulary)
    remedy = "shorten the prompt or lower --max-new-tokens"
    inputs = encode_prompt(loaded, request.reading, max_new_tokens, remedy)
    arguments = _arguments(loaded, inputs, request, stop, max_new_tokens)

    unspelled = len(unspelled_ids(loaded.tokenizer, loaded.vocabulary))
    notes = generation.config_notes(loaded, to_the_end=True, given=request.editing)
    if note := unspelled_note(loaded.vocabulary, unspelled):
        notes.insert(0, note)
    for note in notes:
        typer.echo(typer.style(note, dim=True), err=True)

    if not request.greedy:
        # Scores that something else changes first are an fp32 copy.
        changed = (
            unspelled or request.editing or generation.applied_settings(loaded, to_the_end=False)
        )
        dtype = torch.float32 if changed else loaded.model.dtype
        compile_kernels(loaded.model.device, loaded.vocabulary, dtype)
    sampler = TimedSampler(loaded.model.device)
    tokens = 0
    start = time.perf_counter()
    for number, seed in enumerate(seeds, start=1):
        if num_samples > 1:
            header = f"=== sample {number} of {num_samples}, seed {seed} ==="
            typer.echo(typer.style(header, dim=True))
        typer.echo(typer.style(request.prompt, bold=True), nl=request.chat)
        tokens += _continue(loaded, arguments, None if request.greedy else seed, sampler)
        typer.echo()
    seconds = time.perf_counter() - start
    line = (
        f"{tokens} tokens in {seconds:.2f} s: {tokens / seconds:.1f} tokens/s, "
        f"{sampler.seconds / seconds:.1%} of the time spent sampling, "
        + ("greedy" if request.greedy else f"seed {first_seed}")
    )
    typer.echo(typer.style(line, dim=True), err=True)


def _arguments(
    loaded: LoadedModel,
    inputs: dict[str, torch.Tensor],
    request: Request,
    stop: Sequence[str],
    max_new_tokens: int,
) -> dict[str, Any]:
    """What `generate` is called with for every text.

    Raises `ModelError` where the model's generation config cannot be used: before any text shows.
    """
    tokenizer = loaded.tokenizer
    before, _ = generation.next_processors(loaded, inputs, request.drawing)
    scores = torch.zeros(1, loaded.vocabulary, device=loaded.model.device)
    generation.apply_processors(loaded, before, inputs["input_ids"], scores)
    spelled_only = [generation.SpelledOnly(tokenizer)]
    unspelled = len(unspelled_ids(tokenizer, loaded.vocabulary))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return {
        **inputs,
        **generation.generate_arguments(loaded, request.drawing, to_the_end=True),
        **request.editing,
        "max_new_tokens": max_new_tokens,
        "pad_token_id": pad,
        "logits_processor": LogitsProcessorList(spelled_only if unspelled else []),
        "stopping_criteria": generation.stopping_criteria(loaded, stop),
        "custom_generate": fused_generate,
    }


def _continue(
    loaded: LoadedModel, arguments: dict[str, Any], seed: int | None, sampler: TimedSampler
) -> int:
    """Generate and show one continuation; the number of its tokens."""
    live = LiveText(loaded.tokenizer)
    # What takes part in the loop only, such as a time limit.
    with quiet_transformers(), generation.using_config(loaded, blamed=TypeError):
        output = loaded.model.generate(**arguments, seed=seed, sampler=sampler, streamer=live)
    return output.shape[1] - arguments["input_ids"].shape[1]


class LiveText:
    """A streamer for `generate` that writes each token's text on stdout as soon as it is whole.

    It decodes prompt and continuation together: decoded alone, a token may lose its leading space.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.shown = 0  # characters of the decoded text that are already on the screen

    def put(self, ids: torch.Tensor) -> None:
        is_prompt = not self.ids
        self.ids += ids.flatten().tolist()
        text = self._text()
        if is_prompt:
            self.shown = len(text)
        elif not text.endswith("\ufffd"):  # half a character: wait for the rest
            self._show(text)

    def end(self) -> None:
        self._show(self._text())

    def _text(self) -> str:
        return self.tokenizer.decode(
            self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _show(self, text: str) -> None:
        sys.stdout.write(text[self.shown :])
        sys.stdout.flush()
        self.shown = len(text)


class TimedSampler:
    """`sample`, and the seconds spent in it so far. The device is that of the logits."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = self._now()
        try:
            return sample(*args, **kwargs)
        finally:
            self.seconds += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or the model's time would count as the sampler's
        return time.perf_counter()
