"""What `generate` of transformers does with the scores of a step."""

from __future__ import annotations

import torch

from .base import Draw, Params, Peer, best_token, differs_by_row, is_greedy, not_installed


class HuggingFace(Peer):
    name = "hugging-face"
    title = "Hugging Face"
    has = (*Peer.has, "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

    def unavailable(self, device: torch.device) -> str | None:
        return not_installed("transformers", "'fused-sampler[hf]'")

    def unsupported(self, params: Params) -> str | None:
        if differs_by_row(params):
            return "its parameters are the same for all rows"
        return super().unsupported(params)

    def prepare(self, params: Params) -> Draw:
        if is_greedy(params):
            return lambda logits: logits.float().argmax(-1)
        warp = _warpers(params)

        def draw(logits: torch.Tensor) -> torch.Tensor:
            probabilities = warp(None, logits.float()).softmax(-1)  # generate widens them, too
            return torch.multinomial(probabilities, num_samples=1).squeeze(1)

        return draw

    def mask(self, logits: torch.Tensor, params: Params) -> torch.Tensor:
        if is_greedy(params):
            return best_token(logits)
        return _warpers(params)(None, logits.float()).isfinite()


def _warpers(params: Params):
    from transformers.generation import logits_process as hf

    kinds = {  # in the order of generate
        "temperature": hf.TemperatureLogitsWarper,
        "top_h": hf.TopHLogitsWarper,
        "top_k": hf.TopKLogitsWarper,
        "top_p": hf.TopPLogitsWarper,
        "min_p": hf.MinPLogitsWarper,
        "typical_p": hf.TypicalLogitsWarper,
        "epsilon_cutoff": hf.EpsilonLogitsWarper,
        "eta_cutoff": hf.EtaLogitsWarper,
    }
    return hf.LogitsProcessorList(
        [kind(params[name]) for name, kind in kinds.items() if name in params]
    )
