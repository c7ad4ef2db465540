"""On a GPU: the equality tests at full size, CUDA graphs, compiled code, no wait for the host."""

from __future__ import annotations

import pytest
import torch
from common import logits_of, run

from fused_sampler import FusedSampler, mask_logits, sample, softmax
from fused_sampler.contract import reference
from fused_sampler.kernels.gpu import launch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = "cuda"
PARAMS = [
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"top_k": 50, "temperature": 0.8},
    {"top_k": 1000, "top_p": 0.95},
    {"top_p": 0.9},
    {"top_p": 0.999, "temperature": 1.4},
    {"min_p": 0.02},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
]
CHUNK = 8  # rows that the reference takes at a time: it needs some twenty copies of them


@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize(
    ("batch", "vocab"), [(1, 262_144), (64, 262_144), (512, 128_256), (512, 32_000), (256, 151_936)]
)
def test_full_size(batch, vocab, params):
    dtype = {64: torch.bfloat16, 256: torch.float16}.get(batch, torch.float32)
    logits = (torch.randn(batch, vocab, device=GPU) * 3).to(dtype)
    seeds = torch.arange(batch, device=GPU)  # a request's tokens do not depend on its neighbours
    ours = run(launch, logits, seeds, num_samples=3, **params)
    for rows in torch.arange(batch, device=GPU).split(CHUNK)[:: max(1, batch // 64)]:
        theirs = run(reference, logits[rows], seeds[rows], num_samples=3, **params)
        assert torch.equal(ours.tokens[rows], theirs.tokens)
        assert torch.equal(ours.kept[rows], theirs.kept)
        # fp64 logarithms may differ in the last place between libraries; one fp32 rounding follows
        torch.testing.assert_close(ours.logprobs[rows], theirs.logprobs, rtol=2e-7, atol=1e-7)


def test_the_cpu_draws_the_same():
    logits = logits_of("random", 16, 50_257)
    for params in PARAMS:
        there = sample(logits.to(GPU), **params, seed=3, step=4, num_samples=2)
        assert torch.equal(there.cpu(), sample(logits, **params, seed=3, step=4, num_samples=2))
        kept = mask_logits(logits.to(GPU), **params)
        assert torch.equal(kept.cpu(), mask_logits(logits, **params))


def test_one_element_stands_for_all_rows():
    logits = torch.randn(5, 1000, device=GPU)
    words = torch.tensor([3, 7], device=GPU)  # a wrong stride would read the other
    numbers = torch.tensor([0.9, 0.0], device=GPU)
    params = {"temperature": numbers[0], "top_p": numbers[:1], "min_p": numbers[1]}
    here = sample(logits, **params, seed=words[1], step=words[0])
    assert torch.equal(here, sample(logits, 0.9, top_p=0.9, seed=7, step=3))


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_every_replay_of_a_graph_draws_anew(params):
    logits = torch.randn(4, 32_000, device=GPU)
    sampler = FusedSampler(**params, seed=11, validate=False).to(GPU)
    eager = FusedSampler(**params, seed=11, validate=False).to(GPU)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, which a capture cannot
        sampler(logits)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = sampler(logits)

    sampler.reset()
    for _ in range(20):
        graph.replay()
        assert torch.equal(tokens, eager(logits))
    assert int(sampler.step) == 20


def test_what_a_graph_would_repeat_is_refused():
    logits = torch.randn(2, 1000, device=GPU)
    sample(logits, seed=1)
    step = torch.zeros((), dtype=torch.int64, device=GPU)
    for arguments, words in [
        ({"seed": 1, "validate": False}, "step is 0"),
        ({"step": step, "validate": False}, "pass seed"),
        ({"step": step, "seed": 1}, "pass validate=False"),
    ]:
        with (
            pytest.raises(ValueError, match=words),
            torch.cuda.graph(torch.cuda.CUDAGraph()),
        ):
            sample(logits, **arguments)


def test_nothing_waits_for_the_gpu():
    logits = torch.randn(4, 32_000, device=GPU)
    each = torch.full((4,), 0.9, device=GPU)
    sampler = FusedSampler(top_k=50, seed=1, validate=False).to(GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            sample(logits, temperature=0.8, top_k=50, seed=1, step=2, validate=False)
            sample(logits, each, (each * 50).int(), each, each, seed=3, validate=False)
            sampler(logits)
        with pytest.raises(RuntimeError, match="synchroniz"):
            sample(logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiled_code():
    logits = torch.randn(4, 32_000, device=GPU)
    sampler, eager = (FusedSampler(top_p=0.9, seed=5).to(GPU) for _ in range(2))
    step = torch.compile(sampler, fullgraph=True)
    for _ in range(3):
        assert torch.equal(step(logits * 2), eager(logits * 2))


@pytest.mark.parametrize("vocab", [1000, 128_256, 262_144])
def test_scratch_memory(vocab):
    logits = torch.randn(64, vocab, device=GPU, dtype=torch.bfloat16)
    sample(logits, top_p=0.9, seed=1)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    sample(logits, top_p=0.9, seed=1)
    used = torch.cuda.max_memory_allocated() - before
    assert used <= logits.nbytes / 16 + 64 * 2**16


def test_probabilities():
    logits = torch.randn(8, 128_256, device=GPU) * 5
    ours, theirs = softmax(logits, 0.7), torch.softmax(logits / 0.7, -1)
    exact = torch.softmax(logits.double() / 0.7, -1)
    assert (ours - exact).abs().max() <= (theirs - exact).abs().max() + 1e-6


def test_nothing_of_the_batch_is_missed_beyond_2_gib():
    """Rows are addressed in 64 bits."""
    batch, vocab = 17_000, 131_072
    if torch.cuda.mem_get_info()[0] < 3 * 2 * batch * vocab:
        pytest.skip("needs 13 GB of free GPU memory")
    logits = torch.zeros(batch, vocab, dtype=torch.bfloat16, device=GPU)
    best = torch.randint(vocab, (batch,), device=GPU)
    logits.scatter_(1, best[:, None], 50.0)
    assert torch.equal(sample(logits, seed=1), best)
