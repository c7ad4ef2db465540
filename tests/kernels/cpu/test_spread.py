"""The variance of a row: near sums, and the exact ones where they leave a doubt."""

from __future__ import annotations

import pytest
import torch
from common import assert_same, load_backend, logits_of

from fused_sampler.contract import reference

pytest.importorskip("numba", reason="the CPU kernels need Numba")


@pytest.mark.parametrize("size", [1e-40, 1e-13, 1e-12, 1e-9, 1e-6, 1e-4, 1.0, 1e12])
def test_logits_far_apart_and_so_close_that_they_count_as_equal(size):
    """The exact sums have units of 2**-45: what lies nearer is left to them."""
    for vocab, offset in ((7, 0.0), (300, 1.0), (5000, 0.0), (5000, 1.0)):
        logits = logits_of("random", 4, vocab) * size + offset
        for n in (0.05, 1.0, 2.5):
            assert_same(load_backend("cpu"), reference, logits, top_n_sigma=n)


def test_a_row_that_begins_with_nothing():
    logits = logits_of("random", 3, 32_768)
    logits.view(3, 8, 4096)[:, ::2] = -torch.inf
    assert_same(load_backend("cpu"), reference, logits, top_n_sigma=1.0)
