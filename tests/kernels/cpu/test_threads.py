"""Rows shared among threads, and the places from which the kernels are called: always the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch
from common import logits_of

from fused_sampler import sample
from fused_sampler.contract.draws import Draws
from fused_sampler.params import resolve_rows

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 70_000), (600, 300)])
def test_every_dtype_and_shape_is_the_same_in_threads(shape, dtype):
    x = logits_of("random", *shape).to(dtype)
    assert x.numel() >= launch._SHARED_FROM
    rows = resolve_rows(x, top_p=torch.linspace(0.5, 1, len(x)))
    found = []
    for number in (1, 4):
        torch.set_num_threads(number)
        info = sample(x, 0.7, top_k=40, seed=3, num_samples=6, return_info=True)
        found.append([*info[:4], launch.softmax(x, rows), launch.mask_logits(x, rows), *draw(x)])
    torch.set_num_threads(1)
    for one, other in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_each_row_is_worked_on_once(several, monkeypatch):
    def twice(work, number):
        work()
        made[0].fill_(-7)
        work()

    def empty(*args, **kwargs):
        made.append(new(*args, **kwargs))
        return made[-1]

    made, new = [], torch.empty
    monkeypatch.setattr(launch, "run_shared", twice)
    launch.scratch_memory(launch.space_bytes(X.shape[1]))
    monkeypatch.setattr(torch, "empty", empty)
    assert (sample(X, top_k=5, validate=False) == -7).all()


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


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def same_in_a_forked_child():
    """Whether a child draws the same, in threads of its own; a hang is a failure."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)
            code = 0 if draw() == ALONE and names().count("fused-sampler") == 3 else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@needs_fork
def test_a_forked_child_has_threads_of_its_own(several):
    draw()  # the parent's threads wait
    assert same_in_a_forked_child()
    assert draw() == ALONE  # and the parent still has its own


@needs_fork
def test_a_child_forked_while_threads_work(several):
    ended = threading.Event()

    def work():
        while not ended.is_set():
            draw()

    others = [threading.Thread(target=work) for _ in range(2)]
    for other in others:
        other.start()
    try:
        assert [same_in_a_forked_child() for _ in range(5)] == [True] * 5
    finally:
        ended.set()
        for other in others:
            other.join()


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


def test_busy_threads_keep_nobody_waiting(several):
    draw()
    freed = threading.Event()
    for _ in range(threads._pool.size):
        threads._pool.shares.put(threads._Share(lambda: freed.wait(20)))
    began = time.monotonic()
    assert draw() == ALONE
    assert time.monotonic() - began < 10
    freed.set()


def test_an_error_in_a_thread_reaches_the_caller():
    def work():
        if threading.current_thread() is not threading.main_thread():
            started.set()
            raise ValueError("of a thread")
        started.wait(10)

    started = threading.Event()
    with pytest.raises(ValueError, match="of a thread"):
        threads.run_shared(work, 2)


@pytest.mark.parametrize("purpose", ["sample", "mask_logits"])
def test_an_interrupted_call_leaves_its_memory_to_its_threads(several, monkeypatch, purpose):
    at_work, made = [], []

    def interrupt(work, number):
        at_work.append(work)
        raise KeyboardInterrupt

    def empty(*args, **kwargs):
        tensor = new(*args, **kwargs)
        made.append(weakref.ref(tensor))
        return tensor

    new = torch.empty
    monkeypatch.setattr(launch, "run_shared", interrupt)
    monkeypatch.setattr(torch, "empty", empty)
    x = X.clone()
    made.append(weakref.ref(x))
    rows = resolve_rows(x, top_k=torch.full((len(x),), 5))
    made.append(weakref.ref(rows.table))
    try:
        if purpose == "sample":
            launch.sample(x, rows, Draws(0, 0, None, 2), True)
        else:
            launch.mask_logits(x, rows)
    except KeyboardInterrupt:
        del x, rows
    assert len(made) == (8 if purpose == "sample" else 3)
    assert None not in [tensor() for tensor in made]
    at_work.clear()
    assert [tensor() for tensor in made] == [None] * len(made)


def test_nothing_of_the_process_is_changed(several):
    import numba
    import numpy

    def settings():  # asking Numba for its threads would start them, and change PyTorch's
        options = {name: value for name, value in vars(numba.config).items() if name.isupper()}
        threads_of_numba = getattr(sys.modules.get("numba.np.ufunc.parallel"), "_is_initialized", 0)
        own = torch.get_num_threads(), torch.get_num_interop_threads(), numpy.geterr()
        return *own, options, threads_of_numba, signal.getsignal(signal.SIGINT)

    before = settings()
    draw()
    assert settings() == before


PROGRAM = """
import time, torch
from fused_sampler import sample
from fused_sampler.kernels.cpu import launch, threads
torch.set_num_threads(4)
x = torch.randn(64, 5000)
sample(x, top_p=0.9)
if AT_WORK:  # on a call of a minute, which an interrupt has left to them
    works = []
    launch.run_shared = lambda work, number: works.append(work)
    sample(x[:1].expand(2_000_000, -1), top_p=0.9, validate=False)
    print(time.monotonic())
    for _ in range(3):
        threads._pool.shares.put(threads._Share(works[0]))
    time.sleep(0.5)
else:
    print(time.monotonic())
"""


@pytest.mark.parametrize("at_work", [False, True])
def test_a_program_ends_at_once_whatever_threads_do(at_work):
    command = [sys.executable, "-c", PROGRAM.replace("AT_WORK", str(at_work))]
    ran = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert time.monotonic() - float(ran.stdout) < 10  # the clock is the system's
    assert ran.stderr == ""
