"""Tokens a second of continuous batching: what is timed, and who draws."""

from unittest import mock

import pytest
import torch
from slow import DELAY, slowed

continuous = pytest.importorskip(
    "fused_sampler.benchmarks.continuous",
    reason="needs the continuous batching of transformers 5.24",
    exc_type=ImportError,
)

from fused_sampler.benchmarks.runs import OURS, SAMPLERS, THEIRS  # noqa: E402
from fused_sampler.hf import continuous as hf_continuous  # noqa: E402

CASE = "top-k 50 + top-p 0.9"


def run(loaded, sampler):
    return continuous.generate_batch(loaded, sampler, CASE, batch=2, new_tokens=6)


@pytest.mark.parametrize(
    ("sampler", "owner", "name"),
    [
        (THEIRS, continuous.ContinuousBatchingLogitsProcessorList, "__call__"),
        (THEIRS, torch, "multinomial"),
        (OURS, hf_continuous, "sample"),
    ],
)
def test_a_slow_part_of_sampling_shows_in_its_share(loaded, sampler, owner, name):
    with mock.patch.object(owner, name, slowed(getattr(owner, name))):
        assert run(loaded, sampler).share > 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_slow_model_leaves_sampling_a_small_share(loaded, sampler):
    with mock.patch.object(loaded.model, "forward", slowed(loaded.model.forward)):
        figures = run(loaded, sampler)
    assert figures.share < 0.5
    assert figures.tokens_per_second <= 2 * 6 / (6 * DELAY)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_draws_with_its_own(loaded, sampler):
    owner, name = {THEIRS: (hf_continuous, "sample"), OURS: (torch, "multinomial")}[sampler]
    with mock.patch.object(owner, name, side_effect=AssertionError("the other's draw")):
        run(loaded, sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_that_failed_has_no_figures(loaded, sampler):
    with (
        mock.patch.object(loaded.model, "forward", side_effect=ArithmeticError("no model")),
        pytest.raises(RuntimeError, match=f"{sampler} failed: no model"),
    ):
        run(loaded, sampler)
