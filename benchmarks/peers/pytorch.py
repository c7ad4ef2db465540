"""Plain PyTorch, as most tutorials and nanoGPT write it; as it is, and under `torch.compile`."""

from __future__ import annotations

import torch

from .base import Draw, Params, Peer, best_token, is_greedy


class PlainPyTorch(Peer):
    """`topk` for a top-k that all rows share, sort and cumulative sum for what needs them."""

    name = "pytorch"
    title = "PyTorch sort + cumsum"

    def prepare(self, params: Params) -> Draw:
        if is_greedy(params):
            return lambda logits: logits.argmax(-1)

        def draw(logits: torch.Tensor) -> torch.Tensor:
            probabilities = warp(logits.float(), **params).softmax(-1)
            return torch.multinomial(probabilities, num_samples=1).squeeze(1)

        return draw

    def mask(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        if is_greedy(params):
            return best_token(logits)
        return warp(logits.float(), **params).isfinite()


class CompiledPyTorch(PlainPyTorch):
    """The same code, compiled for logits of any size."""

    name = "pytorch-compiled"
    title = "PyTorch compiled"

    def unavailable(self, device: torch.device) -> str | None:
        if device.type == "cpu":
            from torch._inductor.cpp_builder import get_cpp_compiler

            try:
                get_cpp_compiler()
            except Exception:  # whatever it says, there is no compiler to use
                return "torch.compile needs a C++ compiler; install g++ or clang"
        return None

    def countable(self, device: torch.device) -> bool:
        return device.type == "cuda"  # on the CPU its loops are no dispatched operations

    def prepare(self, params: Params) -> Draw:
        torch.compiler.reset()  # or the code of earlier cases counts as recompiled too often
        return torch.compile(super().prepare(params), dynamic=True)


def warp(
    x: torch.Tensor,
    temperature: float | torch.Tensor = 1.0,
    top_k: int | torch.Tensor = 0,
    top_p: float | torch.Tensor = 1.0,
    min_p: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """fp32 logits [B, V] over the temperature, `-inf` where dropped."""
    best = x.argmax(-1, keepdim=True)
    if isinstance(temperature, torch.Tensor):
        temperature = temperature[:, None]
        sampled = x / temperature.clamp(min=1e-5)
        only_best = torch.full_like(x, -torch.inf).scatter(1, best, 0.0)
        x = torch.where(temperature > 0, sampled, only_best)
    elif temperature != 1:
        x = x / temperature
    if isinstance(top_k, torch.Tensor):
        off = top_k == 0
        last = x.sort(descending=True).values.gather(
            1, (top_k - 1).clamp(0, x.shape[-1] - 1)[:, None]
        )
        x = x.masked_fill((x < last) & ~off[:, None], -torch.inf)
    elif top_k:
        x = x.masked_fill(x < x.topk(min(top_k, x.shape[-1])).values[:, -1:], -torch.inf)
    if isinstance(top_p, torch.Tensor) or top_p < 1:
        limit = top_p[:, None] if isinstance(top_p, torch.Tensor) else top_p
        values, order = x.sort(descending=True)
        probabilities = values.softmax(-1)
        drop = probabilities.cumsum(-1) - probabilities >= limit
        x = x.masked_fill(drop.scatter(1, order, drop), -torch.inf)
    if isinstance(min_p, torch.Tensor) or min_p > 0:
        limit = min_p[:, None] if isinstance(min_p, torch.Tensor) else min_p
        probabilities = x.softmax(-1)
        x = x.masked_fill(probabilities < limit * probabilities.amax(-1, keepdim=True), -torch.inf)
    return x
