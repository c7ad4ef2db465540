"""Other samplers, each behind the same few lines.

peer = PEERS["hugging-face"]
peer.unavailable(device)    # None, or what is missing and how to get it
peer.unsupported(params)    # None, or what of these parameters it cannot do
draw = peer.prepare(params)
draw(logits)                # what is timed: tokens int64 [B]
peer.mask(logits, params)   # bool [B, V]: what it keeps
"""

from __future__ import annotations

from .base import Peer
from .exponential import ExponentialRace
from .gpu import VLLM, FlashInfer
from .hugging_face import HuggingFace
from .llama_cpp import LlamaCpp
from .pytorch import CompiledPyTorch, PlainPyTorch

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        HuggingFace(),
        PlainPyTorch(),
        CompiledPyTorch(),
        ExponentialRace(),
        LlamaCpp(),
        FlashInfer(),
        VLLM(),
    )
}

__all__ = ["PEERS", "Peer"]
