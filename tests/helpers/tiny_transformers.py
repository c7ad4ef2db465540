"""Models of transformers with random weights, small enough to make in every test."""

from typing import Any

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)


def tiny_gpt2(**changes: Any) -> GPT2LMHeadModel:
    config = {
        "vocab_size": 64,
        "n_positions": 64,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "initializer_range": 0.4,
    }
    return GPT2LMHeadModel(GPT2Config(**{**config, **changes})).eval()


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """Without an end token, unless one is given."""
    config = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**{**config, **changes})).eval()


def tiny_t5(**changes: Any) -> T5ForConditionalGeneration:
    config = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "initializer_factor": 2.0,
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(**{**config, **changes})).eval()
