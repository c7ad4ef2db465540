"""`torch.compile` without a graph break, the operators' own checks, and no wait for the device."""

from __future__ import annotations

import contextlib

import pytest
import torch
from common import DEVICE, logits_of
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from fused_sampler import FusedSampler, dispatch, mask_logits, sample, softmax
from fused_sampler.kernels.gpu import launch
from fused_sampler.params import PARAMETERS

LOGITS = logits_of("random", 3, 300).to(DEVICE)
OPERATORS = torch.ops.fused_sampler


def compiled(function):
    """Traced whole, run by eager operators: nothing here is about a compiler's output."""
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_compiled_function_draws_what_an_eager_one_does(backend):
    temperature = torch.tensor([0.5, 1.0, 0.0], device=DEVICE)

    def draw(logits, temperature):
        options = {"temperature": temperature, "top_k": 50, "top_p": None, "backend": backend}
        return sample(logits * 2, **options, seed=2**64 - 1, step=3, return_info=True)[:4]

    for one, other in zip(
        compiled(draw)(LOGITS, temperature), draw(LOGITS, temperature), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_probabilities_and_masked_logits(backend):
    def both(logits):
        masked = mask_logits(logits, 0.7, top_k=9, top_p=0.8, min_p=None, backend=backend)
        return softmax(logits, 0.7, backend=backend), masked

    for one, other in zip(compiled(both)(LOGITS), both(LOGITS), strict=True):
        assert torch.equal(one, other)


def test_a_compiled_sampler_moves_on():
    eager, traced = (FusedSampler(top_k=9, seed=1, backend="triton").to(DEVICE) for _ in range(2))
    step = compiled(traced)
    for _ in range(3):
        assert torch.equal(step(LOGITS), eager(LOGITS))
    assert int(traced.step) == 3


def test_without_a_seed_each_call_draws_anew():
    flat = torch.zeros(1, 5000, device=DEVICE)
    draw = compiled(lambda logits: torch.stack([sample(logits) for _ in range(4)]))
    assert len(draw(flat).unique()) > 2


@pytest.mark.parametrize("rows", [None, 3])
def test_bad_input_is_named_in_a_compiled_function_too(rows):
    bad = LOGITS.clone()
    bad[1, 7] = torch.nan
    with pytest.raises(ValueError, match="logits row 1 holds NaN at token 7"):
        compiled(sample)(bad)
    wrong = 2.5 if rows is None else torch.full((rows,), -1, device=DEVICE)
    with pytest.raises((TypeError, ValueError), match="top_k"):
        compiled(lambda logits, k: sample(logits, top_k=k))(LOGITS, wrong)


def numbers(*values):
    """As an operator takes them."""
    return [None if value is None else torch.tensor(value) for value in values]


def parameters(top_p, **values):
    """As an operator takes them: `top_p` a tensor, or a number as the others are."""
    if isinstance(top_p, torch.Tensor):
        tensors = [top_p if name == "top_p" else None for name in PARAMETERS]
    else:
        tensors, values = [None] * len(PARAMETERS), values | {"top_p": top_p}
    return tensors, numbers(*(values.get(name) for name in PARAMETERS))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("info", [False, True])
@pytest.mark.parametrize("num_samples, replacement", [(1, True), (2, True), (2, False)])
def test_operators_keep_their_promises(backend, info, num_samples, replacement):
    top_p = torch.tensor([0.9, 0.5, 1.0], device=DEVICE)
    draws = [None, torch.tensor(3, device=DEVICE)], [torch.tensor(5), None]
    for logits, share in ((LOGITS, top_p), (LOGITS[0].clone(), 0.9)):
        arguments = parameters(share, temperature=3.0, top_k=20, top_h=0.95)
        how = num_samples, replacement, backend, info, True
        checks = opcheck(OPERATORS.sample.default, (logits, *arguments, *draws, *how))
        assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_operators_of_whole_rows_keep_their_promises(backend):
    arguments = parameters(0.9, temperature=0.8, top_k=20, epsilon_cutoff=1e-4)
    draws = [None, None], numbers(5, 3)
    for operator, more in ((OPERATORS.softmax, ()), (OPERATORS.mask_logits, draws)):
        checks = opcheck(operator.default, (LOGITS, *arguments, *more, backend, True))
        assert set(checks.values()) == {"SUCCESS"}


def test_no_rows_in_a_compiled_function():
    output = compiled(lambda logits: sample(logits, return_info=True))(LOGITS[:0])
    assert [len(value) for value in output[:4]] == [0] * 4


def test_a_step_beyond_63_bits():
    draw = compiled(lambda logits: sample(logits, seed=1, step=2**64 - 1))
    assert torch.equal(draw(LOGITS), sample(LOGITS, seed=1, step=2**64 - 1))


NUMBERS = {
    "step": range(24),
    "seed": range(-3, 21),
    "temperature": [0.5 + place / 16 for place in range(24)],
    "top_k": range(1, 25),
    "top_p": [0.2 + place / 32 for place in range(24)],
    "num_samples": range(1, 25),
}


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name, values", NUMBERS.items(), ids=NUMBERS)
def test_a_number_that_changes_is_no_reason_to_compile_again(name, values, dynamic):
    """At most two graphs; PyTorch gives up at the ninth."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    def draw(logits, value):
        return sample(logits, **{"seed": 1, "backend": "torch", name: value})

    torch.compiler.reset()
    step = torch.compile(draw, fullgraph=True, backend=count, dynamic=dynamic)
    for value in values:
        assert torch.equal(step(LOGITS, value), draw(LOGITS, value))
    assert len(graphs) <= 2


def test_no_gradient_flows():
    logits = LOGITS.clone().requires_grad_()
    assert not compiled(lambda x: softmax(x, 0.7))(logits).requires_grad


class Recorder(TorchDispatchMode):
    """What is dispatched for tensors on the GPU, allocations and views apart."""

    def __init__(self):
        super().__init__()
        self.operators = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        free = (
            "empty",
            "new_empty",
            "expand",
            "view",
            "detach",
            "alias",
            "squeeze",
            "unbind",
            "device",
        )
        name = function.overloadpacket.__name__
        if any(tensor.device.type == "cuda" for tensor in tensors) and name not in free:
            self.operators.append(name)
        return result


class Launched:
    """Stands for a kernel where there is no GPU to run it."""

    def __init__(self):
        self.grids = []

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.grids.append(grid)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU in name: fake tensors, which refuse to be read, and kernels that only count."""
    kernels = [Launched(), Launched(), Launched()]
    names = "_summarize_kernel", "_draw_kernel", "_write_kernel"
    for name, kernel in zip(names, kernels, strict=True):
        monkeypatch.setattr(launch, name, kernel)
    monkeypatch.setattr(launch, "_warp_size", lambda device: 32)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(dispatch, "load_backend", lambda name: launch)
    with FakeTensorMode():
        logits = torch.empty(4, 1000, device="cuda")
    return kernels, logits


def test_numbers_take_two_launches_and_nothing_else(gpu):
    kernels, logits = gpu
    params = {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.1}
    with Recorder() as recorder:
        output = sample(logits, **params, seed=3, step=5, return_info=True, validate=False)
    assert [value.device.type for value in output[:4]] == ["cuda"] * 4
    assert recorder.operators == []
    assert [len(kernel.grids) for kernel in kernels] == [1, 1, 0]


def test_a_sampler_takes_two_launches_and_advances_its_step(gpu):
    kernels, logits = gpu
    sampler = FusedSampler(top_k=50, seed=3, validate=False)
    sampler.step = logits.new_zeros((), dtype=torch.int64)
    sampler.seed = logits.new_zeros((), dtype=torch.int64)
    with Recorder() as recorder:
        sampler(logits)
    assert recorder.operators == ["add_"]
    assert [len(kernel.grids) for kernel in kernels] == [1, 1, 0]


def test_no_parameter_tensor_is_read(gpu):
    """A fake tensor raises where its values are asked for; so does the check that validates."""
    kernels, logits = gpu
    each = logits.new_ones(4)
    whole, step = (logits.new_ones(shape, dtype=torch.int64) for shape in (4, ()))
    params = {"temperature": each, "top_k": whole, "top_p": each, "min_p": logits.new_ones(())}
    sample(logits, **params, seed=whole, step=step, num_samples=3, validate=False)
    assert [len(kernel.grids) for kernel in kernels] == [1, 1, 0]
    with pytest.raises(DataDependentOutputException):
        sample(logits, **params, seed=whole)
