"""Sets of tokens as bits: int32 `[..., ceil(V / 32)]`, token i bit `i % 32` of word `i // 32`."""

from __future__ import annotations

import torch

WORD = 32  # tokens a word


def words(vocab: int) -> int:
    """How many a row has."""
    return -(-vocab // WORD)


def packed(marked: torch.Tensor) -> torch.Tensor:
    """bool [B, V] as bits."""
    missing = -marked.shape[-1] % WORD
    bits = torch.nn.functional.pad(marked, (0, missing)).unflatten(-1, (-1, WORD))
    places = torch.arange(WORD, device=marked.device)
    # Words of different bits: nothing carries, and the last bit is the sign's.
    return (bits.int() << places.int()).sum(-1, dtype=torch.int32)


def unpacked(bits: torch.Tensor, vocab: int) -> torch.Tensor:
    """As bool [B, V]; what is bool stays."""
    if bits.dtype == torch.bool:
        return bits
    places = torch.arange(WORD, device=bits.device, dtype=torch.int32)
    return ((bits[..., None] >> places) & 1).flatten(-2)[..., :vocab].bool()
