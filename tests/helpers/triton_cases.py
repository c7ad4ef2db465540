"""What the tests of the Triton kernels share: small launches, and `==` with the reference."""

from __future__ import annotations

from typing import Any

import torch
from common import DEVICE, PARAMS, logits_of, run

from fused_sampler.contract import reference
from fused_sampler.contract.draws import resolve_draws
from fused_sampler.kernels.gpu import launch
from fused_sampler.params import RECORDS, resolve_rows

INTERPRETED = DEVICE == "cpu"
# Small tiles and lists, so that a thousand logits make many tiles, splits and overflows: two blocks
# a tile, up to 16 groups in the table, 128 logits in the list, up to three programs that select.
SMALL = launch.SIZES._replace(
    rows=2, programs=8, groups=16, list=128, tile=4, round_tile=4, splits=3
)
LARGE_VOCABULARIES = [32_000, 49_152, 50_257, 65_537, 128_256, 151_936, 262_144]
CASES = list(PARAMS.values())


def each_row(cases: list[dict[str, float]]) -> dict[str, Any]:
    """Parameters [B], a case for each row."""
    return {
        name: torch.tensor([case.get(name, record.off) for case in cases], device=DEVICE)
        for name, record in RECORDS.items()
    }


def on_device(kind: str, batch: int, vocab: int, dtype: torch.dtype = torch.float32):
    return logits_of(kind, batch, vocab).to(DEVICE, dtype)


def settled(logits: torch.Tensor, seed: Any = 0, **params: Any) -> list[torch.Tensor]:
    """All that the launches say: tokens, log-probabilities, counts, and the kept sets."""
    rows = resolve_rows(logits, **params)
    draws = resolve_draws(seed, 3, 1, None, len(logits), logits.device)
    output, _, row_state = launch._summarize_and_draw(logits, rows, draws, info=True)
    kept = logits.float() >= row_state.thresholds_ptr[:, None]
    if row_state.tops_ptr is not None:
        kept &= logits.float() <= row_state.tops_ptr[:, None]
    return [*output[:4], kept]


def assert_equals_reference(logits: torch.Tensor, **params: Any) -> None:
    """One call of the kernels against the reference, `==` throughout."""
    *output, kept = settled(logits, **params)
    textbook = run(reference, logits, num_samples=1, **params)[:4]
    for ours, theirs in zip(output, textbook, strict=True):
        assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))
    rows = resolve_rows(logits, **params).to(logits.device)
    sampled = (output[0][:, 0] >= 0) & ~rows.greedy  # of a greedy row only its token matters
    draws = resolve_draws(params.get("seed", 0), 3, 1, None, len(logits), logits.device)
    assert torch.equal(kept[sampled], reference.kept_set(logits, rows, draws)[sampled])
