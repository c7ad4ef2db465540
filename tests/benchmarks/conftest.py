from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def loaded(folder):
    """The tiny model, as the commands load one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fused_sampler.models.load import LoadedModel

    model = AutoModelForCausalLM.from_pretrained(folder)
    return LoadedModel("tiny", model, AutoTokenizer.from_pretrained(folder))
