"""vLLM's second model runner, which needs a GPU: its sampler's methods on made-up batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM; `make test-vllm` installs it")

from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.worker.gpu.sample import sampler as v2

from fused_sampler import mask_logits, sample
from fused_sampler.serving import vllm as plugin

VOCAB, ROOM = 1000, 8


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


class OnHost:
    """In the place of vLLM's tensors that host and GPU share."""

    def __init__(self, size, dtype):
        self.cpu = self.gpu = torch.zeros(size, dtype=dtype)
        self.np = self.cpu.numpy()

    def copy_to_uva(self):
        return self.gpu


@pytest.fixture
def sampler(monkeypatch):
    """vLLM's Sampler with its own states of sampling, without what launches kernels."""
    from vllm.v1.worker.gpu.sample import states

    monkeypatch.setattr(states, "UvaBackedTensor", OnHost)
    made = v2.Sampler.__new__(v2.Sampler)
    made.sampling_states = states.SamplingStates(ROOM, VOCAB)
    made.logits_processors, made.trace_replay_state = [], None
    nothing = SimpleNamespace(add_request=lambda *_: False)
    made.thinking_budget_state = made.logprob_token_ids_state = nothing
    made.needs_logits_processing = np.zeros(ROOM, dtype=bool)
    made.logprobs_mode, made.return_sampling_mask = "raw_logprobs", False
    made.req_states = SimpleNamespace(prompt_len=OnHost(ROOM, torch.int32))
    return made


REQUESTS = [
    dict(temperature=0.8, top_p=0.9, seed=11),
    dict(temperature=0),
    dict(temperature=1.3, top_k=50, seed=12),
    dict(temperature=0.7, top_k=5, top_p=0.8, seed=14, extra_args={"top_n_sigma": 1.5}),
    dict(temperature=1.0, seed=16, extra_args={"xtc_threshold": 0.02, "xtc_probability": 0.5}),
]
STEPS = [0, 3, 1, 7, 40]


def run(sampler, x, places):
    """Tokens and logits of the requests, which are at these places of vLLM's batch."""
    for place, values in zip(places, REQUESTS, strict=True):
        sampler.add_request(place, SamplingParams(**values))
        sampler.req_states.prompt_len.np[place] = 10 + place
    sampler.sampling_states.apply_staged_writes()
    indices = np.array(places, dtype=np.int32)
    rows = torch.from_numpy(indices)
    position = torch.tensor(STEPS) + 9 + rows.long()
    states = sampler.sampling_states
    temperature = states.temperature.gpu[rows.long()]
    divided = x / torch.where(temperature == 0, 1.0, temperature)[:, None]  # vLLM did this before
    top_k, top_p = states.get_top_k_top_p(rows, indices)
    return sampler._sample_random(divided, rows, indices, position, top_k, top_p, False)


def expected(function, x, row):
    values = {"seed": 0, **REQUESTS[row], **REQUESTS[row].get("extra_args", {})}
    values.pop("extra_args", None)
    temperature = values.pop("temperature")
    divided = x[row] / (temperature or 1.0)
    return function(divided, float(temperature > 0), **values, step=STEPS[row])


@pytest.fixture
def logits():
    return torch.randn(len(REQUESTS), VOCAB, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("places", [[0, 1, 2, 3, 4], [7, 3, 5, 0, 2]])
def test_a_row_draws_what_sample_draws(sampler, logits, places):
    tokens, returned = run(sampler, logits, places)
    assert tokens.tolist() == [int(expected(sample, logits, row)) for row in range(len(REQUESTS))]
    assert torch.equal(returned.argmax(-1), logits.argmax(-1))


def test_processed_modes_get_what_the_filters_left(sampler, logits):
    sampler.logprobs_mode = "processed_logprobs"
    _, returned = run(sampler, logits, [0, 1, 2, 3, 4])
    for row, values in enumerate(REQUESTS):
        if values["temperature"]:
            assert torch.equal(returned[row], expected(mask_logits, logits, row))
        else:  # vLLM leaves greedy rows as they are
            assert torch.equal(returned[row], logits[row])


def test_draft_tokens_are_vllms_own(sampler, logits, monkeypatch):
    seen = []

    def gumbel(processed, *_, **__):
        seen.append(len(processed))
        return processed.argmax(-1)

    monkeypatch.setattr(v2, "gumbel_sample", gumbel)
    sampler.use_xpu_sampler = sampler.use_flashinfer = sampler.use_fp64_gumbel = False
    rows = torch.tensor([0, 0, 0, 1, 1], dtype=torch.int32)
    position = torch.arange(5)
    sampler._sample_random(logits, rows, np.array([0, 1]), position, None, None, False)
    assert seen == [5]


def test_dry_is_refused():
    runner = SimpleNamespace(speculative_config=None, use_v2_model_runner=True)
    params = SamplingParams(extra_args={"dry_multiplier": 1.0})
    with pytest.raises(VLLMValidationError, match="dry_multiplier needs vLLM's V1 model runner"):
        plugin.check_request(params, runner)
    plugin.check_request(SamplingParams(extra_args={"top_a": 0.1}), runner)


def test_extras_are_refused_with_draft_tokens():
    runner = SimpleNamespace(speculative_config=object(), use_v2_model_runner=False)
    params = SamplingParams(extra_args={"top_a": 0.1})
    with pytest.raises(VLLMValidationError, match="top_a does not go with speculative decoding"):
        plugin.check_request(params, runner)
