"""`softmax` and `mask_logits` as numbers."""

from __future__ import annotations

import pytest
import torch
from common import DEVICE, logits_of, real_logits

from fused_sampler import mask_logits, softmax

BACKENDS = pytest.mark.parametrize("backend", ["torch", "triton"])


@pytest.mark.parametrize("kind", ["random", "flat", "forbidden", "descending", "one-hot", "real"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@BACKENDS
def test_error_is_no_larger_than_pytorchs_own(backend, kind, temperature, dtype):
    x = (real_logits()[:3] if kind == "real" else logits_of(kind, 3, 3000)).to(DEVICE, dtype)
    exact = (x.double() / temperature).softmax(-1)
    ours = (softmax(x, temperature, backend=backend).double() - exact).abs().max()
    theirs = ((x.float() / temperature).softmax(-1).double() - exact).abs().max()
    assert ours <= theirs + 1e-6


def test_two_tokens_at_three_temperatures():
    for temperature, expected in [
        (1, [0.2689, 0.7311]),
        (2, [0.3775, 0.6225]),
        (5, [0.4502, 0.5498]),
    ]:
        probabilities = softmax(torch.tensor([1.0, 2.0]), temperature)
        assert probabilities.shape == (2,)
        assert [round(p, 4) for p in probabilities.tolist()] == expected


@BACKENDS
def test_differences_beyond_fp32_do_not_overflow(backend):
    x = torch.tensor([[3e38, -3e38, 3e38]], device=DEVICE)
    assert softmax(x, 0.01, backend=backend).tolist() == [[0.5, 0.0, 0.5]]


@BACKENDS
def test_greedy_rows_are_one_hot(backend):
    x = torch.tensor([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0]], device=DEVICE)
    cold = torch.tensor([0.0, 1.0], device=DEVICE)
    assert softmax(x, cold, backend=backend)[0].tolist() == [0.0, 1.0, 0.0]
    assert softmax(x, cold, backend=backend)[1].tolist() == softmax(x, backend=backend)[0].tolist()
    masked = mask_logits(x, cold, backend=backend)
    assert masked[0].tolist() == [-torch.inf, 3.0, -torch.inf]
    assert masked[1].tolist() == x[1].tolist()


def test_masked_logits_are_divided_by_the_temperature():
    x = logits_of("random", 4, 500)
    for temperature in (0.7, torch.tensor([0.5, 1.0, 2.0, 3.3])):
        masked = mask_logits(x, temperature, top_k=5)
        kept = masked > -torch.inf
        divisor = torch.as_tensor(temperature).expand(4)[:, None]
        assert torch.equal(masked[kept], (x / divisor)[kept])
        assert kept.sum(-1).tolist() == [5] * 4
    assert mask_logits(x[0], 0.7).shape == (500,)


@pytest.mark.parametrize("backend", ["torch", "triton", "cpu"])
def test_one_bad_row_does_not_cost_the_batch(backend):
    x = logits_of("random", 5, 300)
    x[1, 7], x[2, 8], x[3] = torch.nan, torch.inf, -torch.inf
    x, good = x.to(DEVICE), torch.tensor([0, 4])
    for function, filters in ((softmax, {}), (mask_logits, {"top_k": 9})):
        whole = function(x, 0.7, backend=backend, validate=False, **filters)
        assert whole[1:4].isnan().all()
        assert torch.equal(whole[good], function(x[good], 0.7, backend=backend, **filters))
        with pytest.raises(ValueError, match=r"row 1 holds NaN .* validate=False to get NaN"):
            function(x, 0.7, backend=backend, **filters)
