"""FlashInfer's and vLLM's kernels. Written against their public interfaces; no GPU was at hand to
run them on, so trust the kept-set check, which comes before any timing.

Neither names a kept set under min-p, so that filter is not timed in them.
"""

from __future__ import annotations

import torch

from .base import Draw, Params, Peer, best_token, differs_by_row, is_greedy, not_installed


class _OnGPU(Peer):
    package: str

    def unavailable(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "runs on a GPU only"
        return not_installed(self.package.split("-")[0], self.package)

    def unsupported(self, params: Params) -> str | None:
        if differs_by_row(params) or "min_p" in params:
            return "its min-p has no kept set to check"
        return super().unsupported(params)


class FlashInfer(_OnGPU):
    """FlashInfer 0.7: softmax with the temperature, then the sampling kernel of the filters."""

    name, title, package = "flashinfer", "FlashInfer", "flashinfer-python"

    def prepare(self, params: Params) -> Draw:
        from flashinfer import sampling

        if is_greedy(params):
            return lambda logits: logits.argmax(-1)
        kernel = {
            (False, False): sampling.sampling_from_probs,
            (True, False): sampling.top_k_sampling_from_probs,
            (False, True): sampling.top_p_sampling_from_probs,
            (True, True): sampling.top_k_top_p_sampling_from_probs,  # top-k first
        }["top_k" in params, "top_p" in params]
        values = [params[name] for name in ("top_k", "top_p") if name in params]
        temperature = params.get("temperature", 1.0)
        return lambda logits: kernel(sampling.softmax(logits.float(), temperature), *values).long()

    def mask(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        from flashinfer import sampling

        if is_greedy(params):
            return best_token(logits)
        x = logits.float()
        if "top_k" in params:
            x = sampling.top_k_mask_logits(x, params["top_k"])
        if "top_p" not in params:
            return x.isfinite()
        probabilities = sampling.softmax(x, params.get("temperature", 1.0))
        return sampling.top_p_renorm_probs(probabilities, params["top_p"]) > 0


class VLLM(_OnGPU):
    """vLLM's Triton top-k and top-p in place on the scaled logits, softmax, its own draw."""

    name, title, package = "vllm", "vLLM", "vllm"

    def prepare(self, params: Params) -> Draw:
        from vllm.v1.sample.ops.topk_topp_sampler import random_sample

        if is_greedy(params):
            return lambda logits: logits.argmax(-1)
        return lambda logits: random_sample(self._warp(logits, params).softmax(-1), {})

    def mask(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        return best_token(logits) if is_greedy(params) else self._warp(logits, params).isfinite()

    def _warp(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        from vllm.v1.sample.ops.topk_topp_triton import apply_top_k_top_p_triton

        # vLLM divides its logits in place; here they must last, so it is done out of place, in as
        # many reads and writes.
        x = logits.float() / params.get("temperature", 1.0)
        if "top_k" not in params and "top_p" not in params:
            return x

        def per_row(name: str, dtype: torch.dtype) -> torch.Tensor | None:
            if name not in params:
                return None
            return torch.full((len(x),), params[name], dtype=dtype, device=x.device)

        return apply_top_k_top_p_triton(
            x, per_row("top_k", torch.int32), per_row("top_p", torch.float32)
        )
