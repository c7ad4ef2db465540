"""Rows shared among threads, and the places from which the kernels are called: always the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch
from common import logits_of

from fused_sampler import sample

launch = pytest.importorskip("fused_sampler.kernels.cpu.launch", reason="needs Numba")
threads = sys.modules["fused_sampler.kernels.cpu.threads"]

CALLS = [{"temperature": 0.8}, {"top_k": 9, "top_p": 0.8}, {"top_p": 0.95}, {"min_p": 0.02}]
X = logits_of("random", 40, 5000)  # more than is left to one thread


@pytest.fixture
def several():
    """Four threads for this test, one for the next."""
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


def draw(x=X):
    """Tokens of all calls."""
    return [sample(x, seed=3, **call).tolist() for call in CALLS]


ALONE = draw()


def names():
    return [thread.name for thread in threading.enumerate()]


def test_threads_share_the_rows(several):
    assert X.numel() >= launch._SHARED_FROM
    assert draw() == ALONE
    assert names().count("fused-sampler") >= 3


def test_as_many_threads_as_pytorch_has(several, monkeypatch):
    served = []

    def run(work, number):
        served.append(number)
        threads_run(work, number)

    threads_run = launch.run_shared
    monkeypatch.setattr(launch, "run_shared", run)
    assert draw() == ALONE
    assert served == [4] * len(CALLS)


def test_one_row_and_little_work_stay_with_the_caller(several, monkeypatch):
    def forbidden(*_):
        raise AssertionError("threads were asked")

    monkeypatch.setattr(launch, "run_shared", forbidden)
    sample(logits_of("random", 1, 200_000), top_p=0.9)
    sample(X[:8, :1000], top_p=0.9)


@pytest.mark.parametrize("own", [1, 4])
def test_several_python_threads_at_once(several, own):
    torch.set_num_threads(own)
    inputs = [logits_of("random", 40, 5000, seed=i) for i in range(8)]
    expected = [draw(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, inputs * 3)) == expected * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own(several):
    draw()  # the parent's threads wait
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang is a failure
        os._exit(0 if draw() == ALONE and names().count("fused-sampler") == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert draw() == ALONE  # and the parent still has its own


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pool_of_processes(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not to be had here")
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = [pool.submit(sample, X, seed=3, **call) for call in CALLS]
        assert [future.result(timeout=120).tolist() for future in found] == ALONE


def test_inference_mode(several):
    with torch.inference_mode():
        assert draw() == ALONE
        assert draw(X.clone()) == ALONE
    tokens = sample(X, seed=3)
    tokens += 1  # an ordinary tensor: it can be written


def test_an_error_in_a_thread_reaches_the_caller():
    def work():
        if threading.current_thread() is not threading.main_thread():
            started.set()
            raise ValueError("of a thread")
        started.wait(10)

    started = threading.Event()
    with pytest.raises(ValueError, match="of a thread"):
        threads.run_shared(work, 2)


def test_nothing_of_the_process_is_changed(several):
    import numba
    import numpy

    def settings():  # asking Numba for its threads would start them, and change PyTorch's
        options = {name: value for name, value in vars(numba.config).items() if name.isupper()}
        return torch.get_num_threads(), options, numpy.geterr()

    before = settings()
    draw()
    assert settings() == before


def test_a_program_ends_while_threads_wait():
    code = (
        "import torch; from fused_sampler import sample; torch.set_num_threads(4);"
        "sample(torch.randn(64, 5000), top_p=0.9)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
