"""Decoding without its draws: transformers' loop, given the tokens that ours drew."""

import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

PAD = 0

# `past_key_values` up to transformers 5.23
CACHE = "cache" if hasattr(GenerateDecoderOnlyOutput, "cache") else "past_key_values"


class Replay:
    """`torch.multinomial` that gives column after column of recorded tokens [B, steps]."""

    def __init__(self, tokens):
        self.columns = iter(tokens.unbind(1))

    def __call__(self, probabilities, num_samples):
        drawn = next(self.columns)[:, None]
        open_rows = drawn[:, 0] != PAD  # rows that have ended get padding, whatever was drawn
        assert (probabilities.gather(1, drawn)[open_rows] > 0).all(), "we drew a filtered token"
        return drawn


def assert_same(ours, theirs, name):
    """Equal tensors in equally nested tuples and caches.

    Scores may differ in the last bit of a division.
    """
    assert type(ours) is type(theirs), name
    if isinstance(ours, tuple):
        assert len(ours) == len(theirs), name
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{name}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0, msg=name)
    elif ours is not None:
        held = tuple(_held(ours))
        assert held, f"{name} is no cache, or an empty one"
        assert_same(held, tuple(_held(theirs)), name)


def _held(part):
    """The tensors of a cache, be they its layers' or those of the caches that it is made of."""
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, list | tuple | dict):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _held(inner)
    elif type(part).__module__ == "transformers.cache_utils":
        yield from _held(vars(part))


EVERYTHING = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
}
