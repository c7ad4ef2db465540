"""`FusedSampler`: a module with parameters, a seed and a place in the sequence."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from common import NINE_WORDS, logits_of

from fused_sampler import FusedSampler, mask_logits, sample, softmax

X = logits_of("random", 3, 200)


def test_repeated_calls_draw_anew_and_reset_goes_back():
    sampler = FusedSampler(temperature=2.0, seed=11)
    first = [sampler(X).tolist() for _ in range(5)]
    assert first == [sample(X, temperature=2.0, seed=11, step=step).tolist() for step in range(5)]
    assert len(set(map(tuple, first))) > 1
    sampler.reset()
    assert [sampler(X).tolist() for _ in range(5)] == first
    sampler.reset(seed=12)
    assert sampler(X).tolist() == sample(X, temperature=2.0, seed=12, step=0).tolist()


def test_unseeded_sampler_follows_manual_seed():
    sampler = FusedSampler()
    torch.manual_seed(5)
    first = [sampler(X).tolist() for _ in range(4)]
    torch.manual_seed(5)
    sampler.reset()
    assert [sampler(X).tolist() for _ in range(4)] == first
    assert len(set(map(tuple, first))) > 1


def test_generator_overrides_the_seed():
    sampler = FusedSampler(seed=1)
    draws = [
        sampler(X, generator=torch.Generator().manual_seed(s), step=0).tolist() for s in (3, 3, 4)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_overrides_for_one_call():
    sampler = FusedSampler(temperature=0.5, top_k=3, seed=1)
    seeds = torch.tensor([4, 5, 6])
    top_p = torch.tensor([0.1, 0.5, 0.9])
    tokens = sampler(X, top_p=top_p, seed=seeds, step=9)
    assert torch.equal(tokens, sample(X, temperature=0.5, top_k=3, top_p=top_p, seed=seeds, step=9))
    assert sampler.step == 0, "a call with a step of its own leaves the sampler's alone"
    assert sampler(X, num_samples=2).shape == (3, 2)
    assert sampler(X, return_info=True).kept.tolist() == [3, 3, 3]
    with pytest.raises(TypeError, match="topk"):
        sampler(X, topk=3)


def test_failed_call_does_not_advance():
    sampler = FusedSampler(seed=1)
    with pytest.raises(ValueError):
        sampler(X * torch.nan)
    assert sampler.step == 0


def test_one_row_gives_a_scalar():
    token = FusedSampler(temperature=0.0)(torch.tensor(NINE_WORDS))
    assert token.shape == () and token == 3


def test_repr_shows_the_parameters():
    text = repr(FusedSampler(temperature=0.8, top_k=50, top_p=torch.tensor([0.5, 0.25]), seed=7))
    for part in (
        "temperature=0.8",
        "top_k=50",
        "top_p=[0.5, 0.25]",
        "min_p=0.0",
        "seed=7",
        "step=0",
    ):
        assert part in text


@pytest.mark.parametrize("seed", [None, 3, torch.tensor([1, 2, 3]), 2**64 - 1], ids=str)
def test_state_dict_round_trip(seed):
    top_p = torch.tensor([0.5, 0.25, 0.75])
    sampler = FusedSampler(temperature=0.8, top_k=50, top_p=top_p, min_p=0.01, seed=seed)
    for _ in range(3):
        sampler(X)
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    other = FusedSampler()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert repr(other) == repr(sampler)
    torch.manual_seed(0)
    tokens = sampler(X)
    torch.manual_seed(0)
    assert torch.equal(other(X), tokens)


def test_loaded_state_is_a_copy():
    sampler = FusedSampler(top_p=torch.tensor([0.5, 0.5, 0.5]), seed=3)
    other = FusedSampler()
    other.load_state_dict(sampler.state_dict())
    sampler(X)
    sampler.reset(seed=8)
    sampler.top_p.fill_(1.0)
    assert (other.step, other.seed, other.top_p.tolist()) == (0, 3, [0.5, 0.5, 0.5])


def test_copies_are_independent():
    sampler = FusedSampler(seed=3)
    twin = copy.deepcopy(sampler)
    sampler(X)
    assert twin.step == 0 and sampler.step == 1


def test_to_moves_device_memory_and_keeps_precision():
    model = torch.nn.ModuleDict(
        {"sampler": FusedSampler(temperature=torch.tensor([0.7, 0.8, 0.9]), seed=3)}
    )
    model.half()
    sampler = model["sampler"]
    assert sampler.temperature.dtype == torch.float32 and sampler.step.dtype == torch.int64
    model.to("meta")
    assert {
        sampler.step.device.type,
        sampler.seed.device.type,
        sampler.temperature.device.type,
    } == {"meta"}


def test_gradients_stop_at_the_sampler():
    x = X.clone().requires_grad_()
    assert not FusedSampler(seed=1)(x).requires_grad
    warm = torch.tensor(0.5, requires_grad=True)
    for function in (sample, softmax, mask_logits):
        assert not function(x, temperature=warm).requires_grad


def test_tokens_can_be_used_in_training():
    embedding = torch.nn.Embedding(200, 4)
    embedding(FusedSampler(seed=1)(X)).sum().backward()
    assert embedding.weight.grad is not None


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_default_device_and_dtype_do_not_matter(backend):
    """What a call makes for itself stands where it needs it, and is not kept from elsewhere."""
    logits, seeds = torch.randn(2, 100), torch.tensor([3, 4])
    params = {"temperature": 0.875, "top_k": 9, "backend": backend}
    before = sample(logits, **params, seed=seeds, return_info=True)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            after = sample(logits, **params, seed=seeds, return_info=True)
            fresh = sample(logits, **params | {"top_p": 0.8125}, seed=seeds)
            probabilities = softmax(logits, 0.8125, backend=backend)
            masked = mask_logits(logits, 0.8125, backend=backend)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(before[:4], after[:4], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(fresh, sample(logits, **params | {"top_p": 0.8125}, seed=seeds))
    assert torch.equal(probabilities, softmax(logits, 0.8125, backend=backend))
    assert torch.equal(masked, mask_logits(logits, 0.8125, backend=backend))


def test_a_sampler_made_in_inference_mode_works_outside_it():
    with torch.inference_mode():
        sampler = FusedSampler(seed=1)
        sampler(X)
    sampler(X)
    sampler.reset(seed=2)
    assert torch.equal(sampler(X), sample(X, seed=2))


def test_generator_none_keeps_the_seed():
    assert torch.equal(FusedSampler(seed=4)(X, generator=None), sample(X, seed=4))


# Mirostat


def _by_hand(x, tau, eta, seed, steps):
    """Mirostat 2 of one row in fp64: the tokens, and the bound after each."""
    mu, told = 2 * tau, []
    p = x.double().softmax(-1)
    for step in range(steps):
        kept = (-p.log2() <= mu) | (p == p.max())
        masked = x.masked_fill(~kept, -torch.inf)
        token = sample(masked[None], seed=torch.tensor([seed]), step=step).item()
        mu -= eta * (-(p[token] / p[kept].sum()).log2().item() - tau)
        told.append((token, mu))
    return told


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_mirostat_follows_the_surprise(backend):
    seeds, tau, eta = torch.tensor([4, 5, 6]), torch.tensor([2.0, 5.0, 0.5]), 0.3
    sampler = FusedSampler(mirostat_tau=tau, mirostat_eta=eta, seed=seeds, backend=backend)
    told = [(sampler(X).tolist(), sampler.mirostat_mu.tolist()) for _ in range(12)]
    for row in range(3):
        expected = _by_hand(X[row], tau[row].item(), eta, int(seeds[row]), 12)
        assert [tokens[row] for tokens, _ in told] == [token for token, _ in expected]
        assert [mu[row] for _, mu in told] == pytest.approx([mu for _, mu in expected], abs=1e-5)


def test_mirostat_stands_in_the_place_of_the_filters_of_its_rows_alone():
    tau, top_k = torch.tensor([3.0, 0.0, 3.0]), torch.tensor([1, 1, 0])
    sampler = FusedSampler(mirostat_tau=tau, top_k=top_k, top_p=0.9, seed=1)
    alone = FusedSampler(mirostat_tau=3.0, seed=1)
    for _ in range(5):
        output, expected = sampler(X, return_info=True), alone(X, return_info=True)
        assert output.kept[1] == 1 and output.tokens[1] == X[1].argmax()
        assert torch.equal(output.tokens[[0, 2]], expected.tokens[[0, 2]])
        assert torch.equal(output.kept[[0, 2]], expected.kept[[0, 2]])
    assert sampler.mirostat_mu[1] == torch.inf


def test_mirostat_is_saved_reset_and_left_alone_by_calls_apart():
    sampler = FusedSampler(mirostat_tau=3.0, seed=1)
    first = [sampler(X).tolist() for _ in range(4)]
    bound = sampler.mirostat_mu.clone()
    sampler(X, step=9)
    assert torch.equal(sampler.mirostat_mu, bound)
    other = FusedSampler()
    other.load_state_dict(sampler.state_dict())
    assert other(X).tolist() == sampler(X).tolist()
    assert torch.equal(other.mirostat_mu, sampler.mirostat_mu)
    sampler.reset()
    assert [sampler(X).tolist() for _ in range(4)] == first


def test_mirostat_says_what_is_wrong():
    for values, message in (
        ({"mirostat_tau": -1.0}, "mirostat_tau is -1.0"),
        ({"mirostat_tau": 3.0, "mirostat_eta": -0.1}, "mirostat_eta is -0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            FusedSampler(**values)
    sampler = FusedSampler(mirostat_tau=3.0)
    with pytest.raises(ValueError, match="num_samples is 2"):
        sampler(X, num_samples=2)
    sampler(X)
    with pytest.raises(ValueError, match=r"followed 3 rows, but logits have 2; call reset"):
        sampler(X[:2])
    with pytest.raises(ValueError, match="mirostat_tau has shape"):
        FusedSampler(mirostat_tau=torch.tensor([1.0, 2.0]))(X)
