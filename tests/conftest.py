import pytest
import torch

from fused_sampler import fallback, reference

torch.set_num_threads(1)  # the rows are small, and the tests run in several processes


@pytest.fixture(params=["reference", "torch"])
def backend(request):
    """Each implementation of the contract."""
    return {"reference": reference, "torch": fallback}[request.param]
