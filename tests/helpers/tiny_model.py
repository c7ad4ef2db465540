"""A language model small enough to make in every test run: random weights, one token a byte."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|end|>"
POSITIONS = 48


def save_tiny_model(
    folder: Path, dtype: torch.dtype = torch.float32, padding: int = 0
) -> GPT2LMHeadModel:
    """Write model and tokenizer to `folder` as `save_pretrained` does; the model.

    The vocabulary is the 256 bytes and an end token, which the model never finds likely. Behind it
    come `padding` ids that only the model has, and likes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = models.BPE({piece: i for i, piece in enumerate([*alphabet, END])}, [])
    tokenizer = Tokenizer(bytes_only)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, model_input_names=names
    ).save_pretrained(folder)

    torch.manual_seed(0)
    end = len(alphabet)
    config = GPT2Config(
        vocab_size=end + 1 + padding,
        n_positions=POSITIONS,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        initializer_range=0.5,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).eval()
    model.to(dtype)  # type: ignore[arg-type]  # transformers declares nothing for dtypes
    torch.nn.init.zeros_(model.lm_head.weight[end])
    with torch.no_grad():
        model.lm_head.weight[end + 1 :] *= 4
    model.save_pretrained(folder)
    return model
