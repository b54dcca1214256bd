"""The threads of compiled loops, alone and beside the threads of other libraries."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import diffusion
from diffusion.kernels import threads


@threads.parallel(lambda values, out: len(values), grain=3)
def squared(start, stop, values, out):
    """Square numbers; a loop of the tests."""
    for i in range(start, stop):
        out[i] += values[i] * values[i]


@pytest.mark.parametrize("cores", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 1000])
def test_a_loop_processes_every_row_once(n, cores):
    values, out = np.arange(n, dtype=np.float64), np.zeros(n)
    with threads.using_cores(cores):
        squared(values, out)
    np.testing.assert_array_equal(out, values**2)


def test_a_short_range_stays_on_the_calling_thread():
    used = []
    with threads.using_cores(4):
        threads.side_by_side(lambda _: used.append(threading.get_ident()), range(1))
        threads.side_by_side(lambda _: used.append(threading.get_ident()), range(5), workers=1)
    assert set(used) == {threading.get_ident()}


def test_tasks_run_at_the_same_time_and_their_results_are_in_order():
    # Each task waits for another one, so that a single thread would wait for ever.
    together = threading.Barrier(2, timeout=60)

    def task(number):
        together.wait()
        return number

    with threads.using_cores(2):
        assert threads.side_by_side(task, range(2)) == [0, 1]


def test_calls_may_be_nested_deeper_than_there_are_threads():
    def nested(depth):
        return sum(threads.side_by_side(nested, [depth - 1] * 3, workers=3)) if depth else 1

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(nested, [4] * 8)) == [81] * 8


def test_the_first_exception_is_raised_and_no_task_is_begun_after_it():
    begun = []

    def task(number):
        begun.append(number)
        raise ValueError(f"task {number}")

    with pytest.raises(ValueError, match="task"):
        threads.side_by_side(task, range(1000), workers=2)
    assert len(begun) <= 2


def test_each_thread_has_its_own_number_of_cores():
    usual = threads.cores()
    with threads.using_cores(usual + 5), ThreadPoolExecutor(1) as pool:
        assert threads.cores() == usual + 5
        assert pool.submit(threads.cores).result() == usual
    assert threads.cores() == usual


def test_answers_do_not_depend_on_the_number_of_cores():
    rng = np.random.default_rng(5)
    X, Q = rng.standard_normal((3000, 8)), rng.standard_normal((40, 8))
    answers = []
    for cores in (1, 3):
        with threads.using_cores(cores):
            for solver in ("cg", "chebyshev", "columns", "local", "truncated"):
                ranker = diffusion.Reranker(k=10, solver=solver).fit(X)
                answers.append((cores, ranker.graph_.weights, *ranker.search(Q, k=30)))
    for one, three in zip(answers[:5], answers[5:], strict=True):
        for a, b in zip(one[1:], three[1:], strict=True):
            np.testing.assert_array_equal(a, b)


FORK = """
import os, sys, numpy as np, diffusion
X = np.random.default_rng(0).random((5000, 4))
ranker = diffusion.Reranker(k=5).fit(X)
before = ranker.search(X[:40])
child = os.fork()
if child == 0:
    after = ranker.search(X[:40])
    ranker.rerank(*after)
    diffusion.Reranker(k=5).fit(X)
    os._exit(0 if np.array_equal(before[1], after[1]) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# In place of pynndescent, which takes a minute to compile: a loop on the same threads.
LAUNCH = """
import os, sys, types
import numba, numpy as np

@numba.njit(parallel=True)
def launch(out):
    for i in numba.prange(len(out)):
        out[i] = i

class Descent:
    def __init__(self, vectors, n_neighbors, **_):
        launch(np.zeros(100))
        self.neighbor_graph = np.zeros((len(vectors), n_neighbors), np.int32), None

sys.modules["pynndescent"] = types.SimpleNamespace(NNDescent=Descent)
import diffusion
X = np.zeros((9, 4), np.float32)
"""

FORK_DESCENT = (
    LAUNCH
    + """
diffusion.NNDescent().descend(X, 5)
child = os.fork()
if child == 0:
    try:
        diffusion.NNDescent().descend(X, 5)
    except diffusion.DiffusionError as error:
        os._exit(7 if "forked" in str(error) else 1)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
)


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_answers_as_its_parent():
    printed, error = run(FORK, NUMBA_NUM_THREADS="3", OMP_NUM_THREADS="3")
    assert printed == "0", error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_descent_in_a_forked_process_is_refused():
    printed, error = run(FORK_DESCENT)
    assert printed == "7", error


def test_fits_and_searches_in_several_threads():
    X = np.random.default_rng(0).random((200, 4))
    expected = diffusion.Reranker(k=5).fit(X).search(X)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: diffusion.Reranker(k=5).fit(X).search(X), range(12)))
    for scores, ids in answers:
        np.testing.assert_array_equal(ids, expected[1])
        np.testing.assert_array_equal(scores, expected[0])


# As where numba and torch load one OpenMP library: this one is loaded before either.
SHARED = (
    """
import torch
torch.get_num_threads()
torch.set_num_threads(1)
"""
    + LAUNCH
    + """
diffusion.NNDescent().descend(X, 5)
print(torch.get_num_threads())
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD is Linux's")
def test_descent_leaves_the_threads_of_torch():
    import numba
    import torch  # noqa: F401

    numba.set_num_threads(numba.get_num_threads())  # numba loads its OpenMP library
    # Other names, such as faiss has for its own copy, are never what another library asks for.
    found = {
        info["filepath"]
        for info in threadpool_info()
        if info["user_api"] == "openmp" and "-" not in os.path.basename(info["filepath"])
    }
    assert found
    for library in found:
        printed, error = run(SHARED, LD_PRELOAD=library, NUMBA_NUM_THREADS="2")
        assert printed == "1", (library, error)
