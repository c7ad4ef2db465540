"""From PyTorch tensors to the compiled function: addresses, outputs, threads, and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from fused_sampler.contract.draws import NO_DRAWS, Draws
from fused_sampler.output import Drawn, RowState
from fused_sampler.params import RowParams

from .rows import MASKED, PROBABILITIES, ROW_NUMBER, TOKENS, VALUE, sample_rows
from .space import list_capacity, space_bytes
from .threads import run_shared, scratch_memory

_SHARED_FROM = 2**17  # logits of a call from which a second thread is worth waking
_KINDS = {  # a word of each dtype, whose type tells the compiled function
    torch.float32: np.float32(0),
    torch.bfloat16: np.int16(0),
    torch.float16: np.uint16(0),
}


def sample(logits: torch.Tensor, rows: RowParams, draws: Draws, info: bool) -> Drawn:
    """Tokens [B, num_samples]; with `info` all that there is to know."""
    batch = len(logits)
    shape = batch, draws.num_samples
    tokens = torch.empty(shape, dtype=torch.int64, device="cpu")
    if not info:
        _run(logits, rows, draws, TOKENS, tokens, tokens.data_ptr())
        return Drawn(tokens)
    logprobs = torch.empty(shape, dtype=torch.float32, device="cpu")
    raw_logprobs = torch.empty(shape, dtype=torch.float32, device="cpu")
    kept = torch.empty(batch, dtype=torch.int64, device="cpu")
    bounds = torch.empty(3, batch, dtype=torch.float32, device="cpu")
    log_masses = torch.empty(2, batch, dtype=torch.float64, device="cpu")
    outputs = tokens, logprobs, raw_logprobs, kept, bounds, log_masses
    _run(logits, rows, draws, TOKENS, outputs, *(values.data_ptr() for values in outputs))
    return Drawn(tokens, logprobs, raw_logprobs, kept, RowState(*bounds, *log_masses))


def softmax(logits: torch.Tensor, rows: RowParams) -> torch.Tensor:
    """Probabilities of `x / T` in fp32 [B, V]; a greedy row has all on its token."""
    return _write(logits, rows, NO_DRAWS, PROBABILITIES)


def mask_logits(logits: torch.Tensor, rows: RowParams, draws: Draws = NO_DRAWS) -> torch.Tensor:
    """`x / T` in fp32 [B, V], `-inf` where dropped; a greedy row keeps its token's own logit."""
    return _write(logits, rows, draws, MASKED)


def _write(logits: torch.Tensor, rows: RowParams, draws: Draws, purpose: int) -> torch.Tensor:
    output = torch.empty(logits.shape, dtype=torch.float32, device="cpu")
    _run(logits, rows, draws, purpose, output, output=output.data_ptr())
    return output


def _word(word: int | torch.Tensor | None) -> tuple[int, int]:
    """A seed, step or stream as the compiled function takes it: value or address, and stride."""
    if word is None:
        return 0, ROW_NUMBER
    return (word.data_ptr(), word.stride(0)) if isinstance(word, torch.Tensor) else (word, VALUE)


def _run(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws,
    purpose: int,
    outputs: object,  # the tensors at the addresses that follow
    tokens: int = 0,
    logprobs: int = 0,
    raw_logprobs: int = 0,
    kept: int = 0,
    bounds: int = 0,
    log_masses: int = 0,
    output: int = 0,
) -> None:
    batch, vocab = logits.shape
    table = rows.table
    arguments = (
        _KINDS[logits.dtype],
        logits.data_ptr(),
        logits.stride(0) * logits.element_size(),
        batch,
        vocab,
        table.data_ptr(),
        table.stride(0),
        *_word(draws.seed),
        *_word(draws.step),
        *_word(draws.stream),
        draws.num_samples,
        purpose,
        tokens,
        logprobs,
        raw_logprobs,
        kept,
        bounds,
        log_masses,
        output,
        list_capacity(vocab),
    )
    size = space_bytes(vocab)
    threads = min(torch.get_num_threads(), batch) if batch * vocab >= _SHARED_FROM else 1
    if threads == 1:
        scratch = scratch_memory(size)
        sample_rows(*arguments, scratch.data_ptr(), 0)
        return
    counter = torch.zeros(1, dtype=torch.int64, device="cpu")

    # Threads go on where an interrupt ends this call: what they have the addresses of is held.
    def work(held: object = (logits, table, draws, outputs)) -> None:
        scratch = scratch_memory(size)
        sample_rows(*arguments, scratch.data_ptr(), counter.data_ptr())

    run_shared(work, threads)
