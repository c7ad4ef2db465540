"""From PyTorch tensors to the compiled function: addresses, outputs, threads, and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from fused_sampler.contract.draws import NO_DRAWS, Draws
from fused_sampler.edits.lists import Entries
from fused_sampler.edits.resolve import RowEdits
from fused_sampler.output import Drawn, RowState
from fused_sampler.params import RowParams

from .rows import MASKED, PROBABILITIES, ROW_NUMBER, TOKENS, VALUE, sample_rows
from .space import edited_row_bytes, list_capacity, space_bytes
from .threads import run_shared, scratch_memory

_SHARED_FROM = 2**17  # logits of a call from which a second thread is worth waking
_KINDS = {  # a word of each dtype, whose type tells the compiled function
    torch.float32: np.float32(0),
    torch.bfloat16: np.int16(0),
    torch.float16: np.uint16(0),
}


def sample(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws,
    info: bool,
    edits: RowEdits | None = None,
) -> Drawn:
    """Tokens [B, num_samples]; with `info` all that there is to know."""
    batch = len(logits)
    shape = batch, draws.num_samples
    tokens = torch.empty(shape, dtype=torch.int64, device="cpu")
    if not info:
        _run(logits, rows, draws, edits, TOKENS, tokens, tokens.data_ptr())
        return Drawn(tokens)
    logprobs = torch.empty(shape, dtype=torch.float32, device="cpu")
    raw_logprobs = torch.empty(shape, dtype=torch.float32, device="cpu")
    kept = torch.empty(batch, dtype=torch.int64, device="cpu")
    bounds = torch.empty(4, batch, dtype=torch.float32, device="cpu")
    log_masses = torch.empty(2, batch, dtype=torch.float64, device="cpu")
    outputs = tokens, logprobs, raw_logprobs, kept, bounds, log_masses
    addresses = (values.data_ptr() for values in outputs)
    _run(logits, rows, draws, edits, TOKENS, outputs, *addresses)
    row_max, lowest, highest, raw_max = bounds
    state = RowState(row_max, lowest, highest, log_masses[0], log_masses[1], raw_max)
    return Drawn(tokens, logprobs, raw_logprobs, kept, state)


def softmax(logits: torch.Tensor, rows: RowParams) -> torch.Tensor:
    """Probabilities of `x / T` in fp32 [B, V]; a greedy row has all on its token."""
    return _write(logits, rows, NO_DRAWS, None, PROBABILITIES)


def mask_logits(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws = NO_DRAWS,
    edits: RowEdits | None = None,
) -> torch.Tensor:
    """`x / T` in fp32 [B, V], `-inf` where dropped; a greedy row keeps its token's own logit."""
    return _write(logits, rows, draws, edits, MASKED)


def _write(
    logits: torch.Tensor, rows: RowParams, draws: Draws, edits: RowEdits | None, purpose: int
) -> torch.Tensor:
    output = torch.empty(logits.shape, dtype=torch.float32, device="cpu")
    _run(logits, rows, draws, edits, purpose, output, output=output.data_ptr())
    return output


def _word(word: int | torch.Tensor | None) -> tuple[int, int]:
    """A seed, step or stream as the compiled function takes it: value or address, and stride."""
    if word is None:
        return 0, ROW_NUMBER
    return (word.data_ptr(), word.stride(0)) if isinstance(word, torch.Tensor) else (word, VALUE)


def _address(values: torch.Tensor | None) -> tuple[int, int]:
    """Of a tensor [B, n] whose rows are whole, and its stride; 0 for none."""
    return (0, 0) if values is None else (values.data_ptr(), values.stride(0))


def _edit_table(edits: RowEdits) -> tuple[torch.Tensor, object]:
    """The addresses that `edit.py` reads, int64, and what they are of."""

    def entries(of: Entries | None) -> tuple[int, ...]:
        return (
            (0,) * 5 if of is None else (*_address(of.ids), *_address(of.values), of.ids.shape[1])
        )

    three = (edits.repetition, edits.frequency, edits.presence)
    columns = torch.stack([column.cpu() for column in three], dim=-1)
    addresses = (
        *_address(edits.allowed),
        *entries(edits.bias),
        *entries(edits.counts),
        *_address(edits.dry),
        *_address(columns),
    )
    return torch.tensor(addresses, dtype=torch.int64, device="cpu"), (edits, columns)


def _run(
    logits: torch.Tensor,
    rows: RowParams,
    draws: Draws,
    edits: RowEdits | None,
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
    slots = draws.slots if rows.slots is None else rows.slots
    edit_table, read = (None, None) if edits is None else _edit_table(edits)
    arguments = (
        _KINDS[logits.dtype],
        logits.data_ptr(),
        logits.stride(0) * logits.element_size(),
        batch,
        vocab,
        table.data_ptr(),
        table.stride(0),
        0 if slots is None else slots.data_ptr(),
        *_word(draws.seed),
        *_word(draws.step),
        *_word(draws.stream),
        None if edit_table is None else edit_table.data_ptr(),
        draws.num_samples,
        draws.replacement,
        purpose,
        tokens,
        logprobs,
        raw_logprobs,
        kept,
        bounds,
        log_masses,
        output,
        list_capacity(vocab),
        space_bytes(vocab),
    )
    size = space_bytes(vocab) + (0 if edits is None else edited_row_bytes(vocab))
    threads = min(torch.get_num_threads(), batch) if batch * vocab >= _SHARED_FROM else 1
    if threads == 1:
        scratch = scratch_memory(size)
        sample_rows(*arguments, scratch.data_ptr(), 0)
        return
    counter = torch.zeros(1, dtype=torch.int64, device="cpu")

    # Threads go on where an interrupt ends this call: what they have the addresses of is held.
    def work(held: object = (logits, table, slots, draws, edit_table, read, outputs)) -> None:
        scratch = scratch_memory(size)
        sample_rows(*arguments, scratch.data_ptr(), counter.data_ptr())

    run_shared(work, threads)
