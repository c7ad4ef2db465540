import os
from types import SimpleNamespace

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: kernels run on NumPy

if "TRITON_INTERPRET" in os.environ:
    from fused_sampler.benchmarks.interpreter import quicken

    quicken()

from common import load_backend

torch.set_num_threads(1)  # the rows are small, and the tests run in several processes


@pytest.fixture(params=["torch", "cpu", "triton"])
def backend(request):
    """Each implementation of the contract."""
    return load_backend(request.param)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model, one token a byte."""
    from tiny_model import save_tiny_model  # needs transformers, as not every test does

    path = tmp_path_factory.mktemp("tiny")
    save_tiny_model(path)
    return str(path)


@pytest.fixture
def run(capsys):
    """Call the program in this process: exit status, standard output, standard error."""
    from fused_sampler.cli import main  # needs typer, as not every test does

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        return SimpleNamespace(status=status, **capsys.readouterr()._asdict())

    return call
