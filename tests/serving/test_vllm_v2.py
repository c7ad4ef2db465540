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

VOCAB, ROOM = 1000, 10


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


class Bias:
    """A processor of vLLM's: it adds to the logits of rows that ask for it, in place."""

    def __init__(self):
        self.asked, self.seen = {}, 0

    def add_request(self, index, params):
        self.asked[index] = params.logit_bias
        return bool(params.logit_bias)

    def apply(self, logits, context):
        self.seen += 1
        assert logits.dtype == torch.float32
        for row, line in enumerate(context.expanded_idx_mapping.tolist()):
            for token, bias in (self.asked[line] or {}).items():
                logits[row, token] += bias
        return logits


@pytest.fixture
def sampler(monkeypatch):
    """vLLM's Sampler with its own states of sampling, without what launches kernels."""
    from vllm.v1.worker.gpu.sample import states

    def refuse(*_):
        raise AssertionError("vLLM divided logits, or applied min-p")

    monkeypatch.setattr(states, "UvaBackedTensor", OnHost)
    monkeypatch.setattr(states, "apply_temperature", refuse)
    monkeypatch.setattr(states, "apply_min_p", refuse)
    made = v2.Sampler.__new__(v2.Sampler)
    made.sampling_states = states.SamplingStates(ROOM, VOCAB)
    made.logits_processors, made.trace_replay_state = [Bias()], None
    nothing = SimpleNamespace(add_request=lambda *_: False, apply=lambda *_: None)
    made.thinking_budget_state = made.logprob_token_ids_state = nothing
    made.needs_logits_processing = np.zeros(ROOM, dtype=bool)
    made.logprobs_mode, made.return_sampling_mask = "raw_logprobs", False
    made.req_states = SimpleNamespace(
        prompt_len=OnHost(ROOM, torch.int32),
        total_len=OnHost(ROOM, torch.int32),
        all_token_ids=OnHost((ROOM, 100), torch.int32),
    )
    return made


DRY = {"dry_multiplier": 3.0, "dry_allowed_length": 1, "dry_breakers": [2]}
REQUESTS = [
    dict(temperature=0.8, top_p=0.9, seed=11),
    dict(temperature=0),
    dict(temperature=0.7, top_k=5, top_p=0.8, seed=14, extra_args={"top_n_sigma": 1.5}),
    dict(temperature=1.0, seed=16, extra_args={"xtc_threshold": 0.02, "xtc_probability": 0.5}),
    dict(temperature=0.9, min_p=0.05, seed=17),
    dict(temperature=1.5, min_p=0.02, top_p=0.8, seed=18),  # vLLM's top-p sees what min-p left
    dict(temperature=0, extra_args=DRY),
    dict(temperature=1.0, seed=19, extra_args=DRY),
    dict(temperature=1.3, top_k=50, seed=12, logit_bias={3: 9.0, 4: -2.0}),
]
STEPS = [0, 3, 1, 7, 40, 2, 30, 5, 9]


def texts():
    """Prompts of ten tokens and outputs of as many as there were steps, of few different ones."""
    draws = torch.Generator().manual_seed(3)
    return [torch.randint(0, 6, (10 + step,), generator=draws) for step in STEPS]


def run(sampler, x, places):
    """Tokens and logits of the first requests, which are at these places of vLLM's tables."""
    known = sampler.req_states
    for place, values, text in zip(places, REQUESTS, texts(), strict=False):
        sampler.add_request(place, SamplingParams(**values))
        known.prompt_len.np[place], known.total_len.np[place] = 10, len(text)
        known.all_token_ids.cpu[place] = 4  # what another request has left
        known.all_token_ids.cpu[place, : len(text)] = text
    sampler.sampling_states.apply_staged_writes()
    indices = np.array(places, dtype=np.int32)
    rows, lengths = torch.from_numpy(indices), known.total_len.gpu[indices]
    return sampler.sample(x, rows, rows, indices, lengths - 1, rows, rows * 0, lengths.numpy())


def expected(function, x, row):
    values = {"seed": 0, **REQUESTS[row], **REQUESTS[row].get("extra_args", {})}
    values.pop("extra_args", None)
    own = x[row : row + 1].float().clone()
    for token, bias in values.pop("logit_bias", {}).items():
        own[0, token] += bias
    if "dry_multiplier" in values:
        values["prompt_ids"] = texts()[row][None]
    if "min_p" in values and "top_p" in values:
        own = mask_logits(own, values.pop("temperature"), min_p=values.pop("min_p"))
        values["temperature"] = 1.0
    values["seed"] = torch.tensor([values["seed"]])
    return function(own, **values, step=STEPS[row])[0]


@pytest.fixture
def logits():
    return torch.randn(len(REQUESTS), VOCAB, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("places", [range(9), [7, 3, 5, 8, 2, 0, 1, 6, 9]], ids=str)
@pytest.mark.parametrize("count", [9, 8, 6])  # with all, without the bias, and without DRY
def test_a_row_draws_what_sample_draws(sampler, logits, places, dtype, count):
    x = logits.to(dtype)
    x[6:8] = torch.arange(VOCAB, 0, -1)  # of the tokens that repeat, DRY bans all but one
    x, before = x[:count], x[:count].clone()
    tokens, _ = run(sampler, x, [*places][:count])
    assert tokens.tolist() == [int(expected(sample, x, row)) for row in range(count)]
    assert torch.equal(x, before)  # vLLM's raw log-probabilities are of these
    if count > 6:
        assert tokens[6] != x[6].argmax()


def test_vllms_processors_run_where_a_request_asks_for_them(sampler, logits):
    (bias,) = sampler.logits_processors
    run(sampler, logits[:8], [*range(8)])
    assert bias.seen == 0  # and so the model's logits were not copied
    run(sampler, logits, [*range(9)])
    assert bias.seen == 1
    run(sampler, logits[:8], [*range(8, 0, -1)])  # others are in these lines now
    assert bias.seen == 1


def test_a_line_is_that_of_the_newest_request(sampler, logits):
    old = dict(temperature=1.0, seed=1, extra_args={"typical_p": 0.1, "dry_multiplier": 1.0})
    new = dict(temperature=1.0, seed=1, extra_args={"typical_p": 0.9})
    rows = torch.tensor([4], dtype=torch.int32)
    for values in (old, new):
        sampler.add_request(4, SamplingParams(**values))
        sampler.sampling_states.apply_staged_writes()
        call = (rows, rows, rows.numpy(), rows, rows, rows, rows.numpy())
        sampler.logprobs_mode = "processed_logits"
        _, left = sampler.sample(logits[:1], *call)
        assert torch.equal(
            left, mask_logits(logits[:1], typical_p=values["extra_args"]["typical_p"])
        )


def test_what_vllm_is_told_of_a_request_is_as_before(sampler):
    for index, values in enumerate([{}, {"top_k": 3}, {"logit_bias": {1: 1.0}}]):
        sampler.add_request(index, SamplingParams(**values))
    assert sampler.needs_logits_processing.tolist()[:3] == [False, True, True]
    assert sampler.sampling_states.top_k.np[1] == 3


@pytest.mark.parametrize("mode", ["processed_logprobs", "processed_logits"])
def test_processed_modes_get_what_the_filters_left(sampler, logits, mode):
    sampler.logprobs_mode = mode
    _, returned = run(sampler, logits, [8, 1, 0, 3, 9, 5, 6, 7, 4])
    for row, values in enumerate(REQUESTS):
        wanted = expected(mask_logits, logits, row)
        if values["temperature"]:
            assert torch.equal(returned[row], wanted)
        else:  # vLLM leaves greedy rows whole
            assert returned[row].isfinite().all()
            assert int(returned[row].argmax()) == int(expected(sample, logits, row))


def test_draft_tokens_are_vllms_own(sampler, logits, monkeypatch):
    seen = []

    def gumbel(processed, *_, **__):
        seen.append(len(processed))
        return processed.argmax(-1)

    monkeypatch.setattr(v2, "gumbel_sample", gumbel)
    sampler.use_xpu_sampler = sampler.use_flashinfer = sampler.use_fp64_gumbel = False
    rows = torch.tensor([0, 0, 0, 1, 1], dtype=torch.int32)
    places, position = torch.arange(2), torch.arange(5)
    lengths = np.array([3, 2])
    sampler.sample(logits[:5], rows, places, places.numpy(), position, rows, position, lengths)
    assert seen == [5]


def test_extras_are_refused_with_draft_tokens():
    runner = SimpleNamespace(speculative_config=object())
    params = SamplingParams(extra_args={"top_a": 0.1})
    with pytest.raises(VLLMValidationError, match="top_a does not go with speculative decoding"):
        plugin.check_request(params, runner)
