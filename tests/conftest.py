import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: kernels run on NumPy

if "TRITON_INTERPRET" in os.environ:
    from fused_sampler.benchmarks.interpreter import quicken

    quicken()

from common import load_backend

torch.set_num_threads(1)  # the rows are small, and the tests run in several processes


@pytest.fixture(params=["reference", "torch", "triton"])
def backend(request):
    """Each implementation of the contract."""
    return load_backend(request.param)
