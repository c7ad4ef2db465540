"""The parts of the benchmark suite: peers, kept sets, clocks, counts, cases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import real_logits

pytest.importorskip("matplotlib", reason="needs the `bench` extra")
pytest.importorskip("transformers", reason="needs the `bench` extra")
pytest.importorskip("typer", reason="needs the `bench` extra")

from embedded import load_embedded
from torch.autograd import DeviceType

from fused_sampler.benchmarks import cases, timing
from fused_sampler.benchmarks.cases import CASES, make_logits, row_params
from fused_sampler.benchmarks.footprint import count, kernels_among
from fused_sampler.benchmarks.kept_sets import Contract, Difference
from fused_sampler.benchmarks.measure import floor_of
from fused_sampler.benchmarks.ours import Ours
from fused_sampler.benchmarks.peers import PEERS, base
from fused_sampler.benchmarks.timing import CPUClock, CUDAClock, spread, time_in_turn

CPU = torch.device("cpu")
LOCAL = ("hugging-face", "pytorch", "exponential-race", "llama.cpp")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOCAL)
def test_peers_keep_what_the_contract_keeps(name, case):
    peer, params = PEERS[name], row_params(case, 4)
    if reason := peer.unavailable(CPU) or peer.unsupported(params):
        pytest.skip(reason)
    for kind, vocab in (("random", 3001), ("real", cases.REAL_VOCAB), ("all equal", 500)):
        x = make_logits(kind, 4, vocab)
        contract, mask = Contract(x, params), peer.mask(x, params)
        difference = contract.difference(mask)
        assert difference.beyond_ties <= 0.001 * difference.kept, kind  # rounding at a boundary
        draw = peer.prepare(params)
        for _ in range(3):
            tokens = draw(x)
            assert tokens.dtype == torch.int64 and tokens.shape == (4,)
            assert mask.gather(1, tokens[:, None]).all(), kind


@pytest.mark.parametrize("case", CASES)
def test_ours_can_do_every_case(case):
    assert Ours().unsupported(row_params(case, 4)) is None


def test_what_a_peer_lacks_is_named():
    assert PEERS["pytorch"].unsupported({"top_k": 5, "top_a": 0.2}) == "it has no top_a"


def test_the_compiled_peer():
    peer, params = PEERS["pytorch-compiled"], row_params("top-k 50", 4)
    if reason := peer.unavailable(CPU):
        pytest.skip(reason)
    x = make_logits("random", 4, 3001)
    tokens = peer.prepare(params)(x)
    assert peer.mask(x, params).gather(1, tokens[:, None]).all()


def test_what_a_peer_needs_is_one_line(monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    assert PEERS["hugging-face"].unavailable(CPU) == (
        "transformers is not installed; run pip install 'fused-sampler[hf]'"
    )
    assert PEERS["llama.cpp"].unavailable(CPU) == (
        "xllamacpp is not installed; run pip install --only-binary :all: xllamacpp"
    )
    assert PEERS["vllm"].unavailable(CPU) == "runs on a GPU only"
    cuda = torch.device("cuda")
    assert PEERS["flashinfer"].unavailable(cuda) == (
        "flashinfer is not installed; run pip install flashinfer-python"
    )
    assert PEERS["llama.cpp"].unavailable(cuda) == "runs on the CPU only; use --device cpu"


def test_ties_of_the_boundary_are_told_from_other_differences():
    x = torch.tensor([[3.0, 2.0, 2.0, 1.0]])
    contract = Contract(x, {"top_k": 2})
    assert contract.kept.tolist() == [[True, True, True, False]]
    by_position = torch.tensor([[True, True, False, False]])
    assert contract.difference(by_position) == Difference(1, 0, 3, 0.0)
    without_the_best = torch.tensor([[False, True, True, False]])
    tokens, beyond, kept, probability = contract.difference(without_the_best)
    assert (tokens, beyond, kept) == (1, 1, 3)
    e = np.exp
    assert probability == pytest.approx(e(3) / (e(3) + 2 * e(2)), abs=1e-6)  # fp32 softmax
    assert contract.difference(by_position).is_rounding
    assert not contract.difference(without_the_best).is_rounding


def test_a_difference_is_rounding_only_if_few_tokens_and_little_probability_are_in_it():
    assert Difference(tokens=9, beyond_ties=1, kept=100, probability=0.01).is_rounding
    assert not Difference(tokens=2, beyond_ties=2, kept=100, probability=0.001).is_rounding
    assert not Difference(tokens=1, beyond_ties=1, kept=1000, probability=0.02).is_rounding


def test_the_floor_of_a_gpu_is_half_a_copy():
    copy = timing.Spread(2.0, 1.0, 3.0, 9)
    assert floor_of(copy, torch.device("cuda")) == (1.0, 0.5, 1.5, 9)
    assert floor_of(copy, CPU) == copy


def test_turns_alternate_and_the_inputs_go_on():
    seen = []

    class Clock:
        def turn(self, call, first):
            call(first)
            return [1.0] * 3

    calls = {name: lambda number, name=name: seen.append((name, number)) for name in "ab"}
    rounds = time_in_turn(calls, 0.0, Clock())
    assert seen == [("a", 0), ("b", 0)]
    assert rounds == {"a": [[1.0] * 3], "b": [[1.0] * 3]}
    clock = iter([0.0, 0.5, 1.5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing.time, "perf_counter", lambda: next(clock))
        time_in_turn(calls, 1.0, Clock())
    assert seen[2:] == [("a", 0), ("b", 0), ("a", 3), ("b", 3)]


def test_the_cpu_clock_leaves_the_first_call_out_and_bounds_a_turn(monkeypatch):
    now, numbers = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call(number):
        numbers.append(number)
        now[0] += 5.0 if len(numbers) == 1 else seconds

    seconds = 0.001
    assert CPUClock().turn(call, 7) == pytest.approx([1.0] * timing.TURN)  # clock arithmetic
    assert numbers[:3] == [6, 7, 8]
    seconds = 0.2
    assert len(CPUClock().turn(call, 0)) == 2
    seconds = 60.0
    assert len(CPUClock().turn(call, 0)) == 1


def test_the_gpu_clock_flushes_before_each_timed_call(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def elapsed_time(self, end):
            assert log[-1] == "synchronize"  # read at the end of the turn
            return 0.25

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("synchronize"))
    clock = CUDAClock.__new__(CUDAClock)
    clock.device = torch.device("cuda")
    clock.flush = SimpleNamespace(zero_=lambda: log.append("flush"))
    assert clock.turn(log.append, 3) == [0.25] * timing.TURN
    timed = range(3, 3 + timing.TURN)
    each = [step for number in timed for step in ("flush", "event", number, "event")]
    assert log == [3, *each, "synchronize"]


def test_spread_is_over_all_rounds():
    assert spread([[1.0, 2.0, 3.0], [4.0, 5.0]]) == (3.0, 1.4, 4.6, 5)
    assert spread([[7.0]]) == (7.0, 7.0, 7.0, 1)


def test_memory_and_operations_of_a_call():
    x = torch.ones(1000)
    extra, operations = count(lambda: (x + 1) * 2, CPU)
    assert 2 * x.nbytes <= extra <= 2 * x.nbytes + 64  # the numbers become small tensors
    assert operations == 2
    assert count(lambda: x.add_(1).mul_(2), CPU).extra_bytes <= 64


def test_kernels_are_told_from_copies_and_from_the_host():
    def event(name, device):
        return SimpleNamespace(name=name, device_type=device)

    gpu = [event(name, DeviceType.CUDA) for name in ("_draw_kernel", "Memcpy DtoD", "Memset")]
    assert kernels_among([event("aten::add", DeviceType.CPU), *gpu]) == 1


def test_rows_of_the_mixed_batch_all_differ():
    params = row_params("mixed batch", 256)
    assert len(set(zip(*(value.tolist() for value in params.values()), strict=True))) == 256
    assert row_params("top-k 50", 256) == {"top_k": 50}


def test_logits_are_what_they_are_called():
    x = make_logits("random", 4, 5000, torch.bfloat16)
    assert x.dtype == torch.bfloat16 and torch.equal(x, make_logits("random", 4, 5000).bfloat16())
    assert 2.9 < x.float().std() < 3.1  # normal x 3; 20,000 of them
    assert make_logits("all equal", 2, 10).unique().numel() == 1
    rows = real_logits()
    assert torch.equal(make_logits("real", 20, rows.shape[1]), rows.float())
    with pytest.raises(ValueError, match=r"real logits have a vocabulary of 49152, not 32000\."):
        make_logits("real", 1, 32_000)
    with pytest.raises(ValueError, match="logits 'unreal' are unknown; choose from random, real"):
        make_logits("unreal", 1, 10)


def test_more_real_rows_are_written_by_the_model():
    load_embedded()
    x = make_logits("real", 28, cases.REAL_VOCAB)
    assert x.shape == (28, cases.REAL_VOCAB) and x.isfinite().all()
    assert len(x.unique(dim=0)) == 28


def test_the_suite_is_importable_from_the_package_alone(tmp_path):
    code = "import fused_sampler.benchmarks.peers, importlib.util as util\n"
    code += "print(util.find_spec('benchmarks'))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert str(Path(__file__).resolve().parents[2]) not in found
