"""One timed run of continuous batching: transformers' own sampling, or ours.

What a server does: the manager exists, all requests come at once, and the time ends with the last
result. Sampling is what lies between the logits and the drawn token, the processors included.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.model_runner import ModelRunner

from ..hf import patched
from ..hf.continuous import FusedProcessors, FusedRunner
from ..models.load import LoadedModel
from ..models.quiet import quiet_transformers
from .cases import CASES
from .runs import OURS, PROMPT_TOKENS, Draws, Run, prompts, replaced

PAGE = 64  # tokens: a few pages hold a prompt and what is written


@contextlib.contextmanager
def _timed(draws: Draws, sampler: str) -> Iterator[None]:
    """Draws begin with the processors, and end with the method that draws."""
    ours = FusedProcessors, FusedRunner
    theirs = ContinuousBatchingLogitsProcessorList, ModelRunner
    processors, runner = ours if sampler == OURS else theirs
    process, draw = processors.__call__, runner._sample

    def timed_process(*args: Any) -> Any:
        draws.begin()
        return process(*args)

    def timed_draw(*args: Any) -> None:
        draw(*args)
        draws.end()

    with replaced(processors, "__call__", timed_process), replaced(runner, "_sample", timed_draw):
        yield


def generate_batch(
    loaded: LoadedModel, sampler: str, case: str, batch: int, new_tokens: int
) -> Run:
    """Let `batch` requests write `new_tokens` each, and time it."""
    model = loaded.model
    requests = prompts(loaded, batch).tolist()
    settings = GenerationConfig(
        **{"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **CASES[case]},
        max_new_tokens=new_tokens,
        eos_token_id=-1,  # no end token
        pad_token_id=0,
    )
    pages = -(-(PROMPT_TOKENS + new_tokens) // PAGE)
    batching = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=2 * batch * pages + 8,  # no request waits for another to end
        max_batch_tokens=max(64, batch * PROMPT_TOKENS),
        seed=0,
    )
    draws = Draws(model.device)
    with (
        quiet_transformers(),
        patched(model) if sampler == OURS else contextlib.nullcontext(),
        _timed(draws, sampler),
        model.continuous_batching_context_manager(
            settings, continuous_batching_config=batching
        ) as manager,
        torch.no_grad(),
    ):
        draws.times.clear()  # of the warm-up, where there is one
        start = time.perf_counter()
        manager.add_requests(requests, max_new_tokens=new_tokens)
        written = 0
        for _ in requests:
            result = manager.get_result()
            if result is None or result.error:
                raise RuntimeError(f"{sampler} failed: {result and result.error}")
            written += len(result.generated_tokens)
        seconds = time.perf_counter() - start
    if written != batch * new_tokens or len(draws.times) < new_tokens:
        raise RuntimeError(f"{sampler} drew {written} tokens in {len(draws.times)} steps.")
    return draws.run(written, seconds)
