"""Hugging Face `generate` on the fused sampler. Needs transformers 4.57 or newer.

For one call:

>>> model.generate(**inputs, do_sample=True, top_p=0.9, custom_generate=fused_generate)

For a model, pipelines included, until `unpatch(model)`:

>>> patch(model)
>>> model.generate(**inputs, do_sample=True, top_p=0.9, seed=7)

or for a block: `with patched(model): ...`. Temperature and the filters that the sampler has are the
sampler's, as are repetition penalty, biases and bans where that gives the same scores; all other
processors and filters run as they are, in Hugging Face's order. Filters and penalties that Hugging
Face lacks are arguments of both; `AllowedTokens` lets a grammar choose tokens.

A patched model has more: parameters as tensors with a value a prompt, seeds that go on through
models which call `generate` inside of theirs, `generate_batch` (continuous batching), and
`stop_strings`, for which `generate` loses the tokenizer when `custom_generate` is a callable.
"""

try:
    from .loop import fused_generate
    from .patch import patch, patched, unpatch
    from .processors import AllowedTokens
except ImportError as error:
    raise ImportError(
        "fused_sampler.hf needs transformers 4.57 or newer: pip install 'fused-sampler[hf]'"
    ) from error

__all__ = ["AllowedTokens", "fused_generate", "patch", "patched", "unpatch"]
