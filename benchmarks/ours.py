"""The fused sampler behind the same lines as its peers; it has to equal the contract exactly."""

from __future__ import annotations

from itertools import count

import torch

from .. import FusedSampler, mask_logits, sample
from ..params import PARAMETERS
from .peers.base import Draw, Params, Peer

SEED = 0


class Ours(Peer):
    """`sample`, with a seed and the next step at each call."""

    name, title = "fused-sampler", "fused-sampler"
    has = PARAMETERS

    def prepare(self, params: Params) -> Draw:
        steps = count()

        def draw(logits: torch.Tensor) -> torch.Tensor:
            # On a GPU the check waits for the result, which a decoding loop does not.
            validate = logits.device.type == "cpu"
            return sample(logits, seed=SEED, step=next(steps), validate=validate, **params)

        return draw

    def mask(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        return mask_logits(logits, **params).isfinite()


class OursInGraph(Ours):
    """A CUDA graph of a `FusedSampler`, replayed: what a captured decoding loop pays."""

    name, title = "fused-sampler-graph", "fused-sampler, CUDA graph"

    def unavailable(self, device: torch.device) -> str | None:
        return None if device.type == "cuda" else "CUDA graphs need a GPU; use --device cuda"

    def prepare(self, params: Params) -> Draw:
        graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

        def draw(logits: torch.Tensor) -> torch.Tensor:
            address = logits.data_ptr()  # a graph reads where its input stood
            if address not in graphs:
                graphs[address] = _capture(logits, params)
            graph, tokens = graphs[address]
            graph.replay()
            return tokens

        return draw


def _capture(logits: torch.Tensor, params: Params) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    sampler = FusedSampler(seed=SEED, validate=False, **params).to(logits.device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles and allocates outside of the graph
        sampler(logits)
        sampler.reset()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = sampler(logits)
    return graph, tokens
