"""A language model that says what a test wants."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def scripted_model(
    answer: Callable[[torch.Tensor], torch.Tensor], vocabulary: int = 257
) -> GPT2LMHeadModel:
    """Its logits [V] for the next token are `answer` of the ids so far, [1, S]."""

    def forward(input_ids, attention_mask):
        assert input_ids.shape == attention_mask.shape
        return SimpleNamespace(logits=answer(input_ids)[None, None])

    end = vocabulary - 1
    tokens = {"vocab_size": vocabulary, "bos_token_id": end, "eos_token_id": end}
    model = GPT2LMHeadModel(GPT2Config(**tokens, n_embd=1, n_layer=1, n_head=1)).eval()
    model.forward = forward
    return model
