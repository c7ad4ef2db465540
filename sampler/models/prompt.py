"""A prompt as a model reads it."""

from __future__ import annotations

import torch

from .load import LoadedModel


def encode_prompt(
    loaded: LoadedModel, prompt: str, new_tokens: int, remedy: str = "shorten the prompt"
) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, int64 `[1, S]`, on the model's device.

    Raises ValueError, with the `remedy` where `new_tokens` more than the prompt's do not fit.
    """
    encoded = loaded.tokenizer(prompt, return_tensors="pt").to(loaded.model.device)
    length = encoded["input_ids"].shape[1]
    if length == 0:
        raise ValueError(f"the prompt {prompt!r} holds no token of {loaded.name}; give other text")
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit is not None and length + new_tokens > limit:
        raise ValueError(
            f"the prompt has {length} tokens and {new_tokens} more are asked for, but "
            f"{loaded.name} holds {limit}; {remedy}"
        )
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}
