"""Who serves a call: by name, by device, and by what is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from common import logits_of

from fused_sampler import dispatch, kernels, mask_logits, sample, softmax
from fused_sampler.contract import reference

X = logits_of("random", 3, 200)
CUDA, CPU, OTHER = map(torch.device, ("cuda", "cpu", "mps"))


@pytest.fixture
def missing(monkeypatch):
    """Neither Triton nor Numba is installed."""

    def unusable(package, install):
        return f'{package} is not installed; {install}, or use backend="torch".'

    monkeypatch.setattr(kernels, "_unusable", unusable)


def test_auto_is_the_devices_own_kernels():
    pytest.importorskip("numba")
    pytest.importorskip("triton")
    names = [dispatch.choose_backend("auto", device) for device in (CUDA, CPU, OTHER)]
    assert names == ["triton", "cpu", "cpu"]


def test_auto_is_the_textbook_where_the_compiler_is_missing(missing):
    assert [dispatch.choose_backend("auto", device) for device in (CUDA, CPU, OTHER)] == [
        "torch"
    ] * 3
    assert dispatch.choose_backend("torch", CPU) == "torch"
    expected = reference.kept_set(X, dispatch.resolve_rows(X, top_k=5))
    assert torch.equal(mask_logits(X, top_k=5) > -torch.inf, expected)


@pytest.mark.parametrize("name, package", [("cpu", "numba"), ("triton", "triton")])
def test_a_missing_compiler_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)  # its import fails
    kernels._unusable.cache_clear()
    words = (
        rf"\"{name}\" is not available: {package} is not installed; "
        rf"pip install 'fused-sampler\[{name}\]', or use backend=\"torch\""
    )
    try:
        with pytest.raises(ValueError, match=words):
            dispatch.choose_backend(name, CUDA)
        assert dispatch.choose_backend("auto", CUDA if name == "triton" else CPU) == "torch"
        if name == "cpu":
            for function in (sample, softmax, mask_logits):
                with pytest.raises(ValueError, match=words):
                    function(X, backend="cpu")
    finally:
        kernels._unusable.cache_clear()


def test_a_compiler_that_is_too_old_is_named(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba, "__version__", "0.60.0")
    kernels._unusable.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"numba 0\.60\.0 is older than 0\.61; upgrade it"):
            dispatch.choose_backend("cpu", CPU)
        assert dispatch.choose_backend("auto", CPU) == "torch"
    finally:
        kernels._unusable.cache_clear()


class Elsewhere(torch.Tensor):
    """A tensor whose device has no kernels: "meta" in name, so that results can be sent there."""

    @property
    def device(self):
        return torch.device("meta")

    def cpu(self):
        return self.as_subclass(torch.Tensor).clone()


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_another_devices_logits_are_copied_to_the_cpu(backend, monkeypatch):
    cpu = pytest.importorskip("fused_sampler.kernels.cpu.launch", reason="needs Numba")
    served = []

    class Recorder:
        def __getattr__(self, name):
            def call(logits, *arguments):
                served.append((name, type(logits), getattr(cpu, name)(logits, *arguments)))
                return served[-1][-1]

            return call

    names = []
    monkeypatch.setattr(dispatch, "load_backend", lambda name: names.append(name) or Recorder())
    x = X.as_subclass(Elsewhere)
    options = {"top_k": 5, "top_p": torch.tensor([0.9, 0.5, 1.0]), "backend": backend}
    info = sample(x, 0.8, seed=1, return_info=True, **options)
    assert names == ["cpu"]
    assert [value.device.type for value in info[:4]] == ["meta"] * 4
    assert mask_logits(x, 0.8, **options).device.type == "meta"
    assert softmax(x, backend=backend).device.type == "meta"
    monkeypatch.undo()
    name, kind, output = served[0]
    assert name == "sample" and kind is torch.Tensor
    expected = sample(X, 0.8, seed=1, return_info=True, **{**options, "backend": "torch"})
    assert torch.equal(output.tokens[:, 0], expected.tokens)
    assert torch.equal(output.kept, expected.kept)


@pytest.mark.parametrize("backend", ["auto", "cpu", "triton", "torch"])
def test_every_backend_draws_the_same(backend):
    reason = kernels.unavailable(backend, CPU) if backend in ("cpu", "triton") else None
    if reason:
        pytest.skip(reason)
    x = logits_of("random", 6, 3000)
    options = {"temperature": 0.7, "top_p": 0.9, "epsilon_cutoff": 1e-3, "seed": torch.arange(6)}
    assert torch.equal(sample(x, **options, backend=backend), sample(x, **options, backend="torch"))


def test_a_name_that_is_none():
    with pytest.raises(ValueError, match='backend is \'gpu\'; choose one of "auto", "triton"'):
        sample(X, backend="gpu")
    with pytest.raises(ValueError, match=r"backend is array\(\[0\., 0\.\]\); choose one of"):
        sample(X, backend=np.zeros(2))


@pytest.fixture
def spread():
    """`X` as a DTensor, over the one process of a group."""
    if not torch.distributed.is_available():
        pytest.skip("needs torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield DTensor.from_local(X, init_device_mesh("cpu", (1,)), [Shard(1)])
    torch.distributed.destroy_process_group()


def test_logits_spread_over_devices(spread):
    for function in (sample, softmax, mask_logits):
        with pytest.raises(TypeError, match=r"DTensor.*pass logits\.full_tensor\(\)"):
            function(spread)
    assert torch.equal(sample(spread.full_tensor(), seed=1), sample(X, seed=1))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_tensor_of_one_element_is_a_number(backend):
    numbers = {"seed": 7, "step": 3, "temperature": 3.0, "top_k": 90}
    tensors = {name: torch.tensor([value]) for name, value in numbers.items()}
    expected = sample(X, backend=backend, num_samples=5, **numbers)
    assert torch.equal(sample(X, backend=backend, num_samples=5, **tensors), expected)
    assert len(expected.unique()) > 5  # the rows have streams of their own
    alone = sample(X[:1], backend=backend, num_samples=5, **tensors)
    assert torch.equal(alone, expected[:1])
