"""Threads, processes and Dask: the same tasks, and workers that are killed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from diffusion import DiffusionError
from diffusion.cluster import executors
from diffusion.cluster.executors import open_executor
from diffusion.cluster.tasks import run_stage

from .jobs import (
    die,
    die_once,
    fail,
    ignores_interrupts,
    write,
    write_number,
    write_number_and_wait,
)


def refused(text):
    return pytest.raises(DiffusionError, match=re.escape(text))


def numbers(paths):
    return {int(path.read_text().split()[0]) for path in paths}


@pytest.fixture(scope="module")
def processes():
    with open_executor("processes:2") as executor:
        yield executor


@pytest.fixture(scope="module")
def dask():
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with open_executor("local:1") as executor:
        yield executor


@pytest.fixture(params=["processes", "dask"])
def executor(request):
    return request.getfixturevalue(request.param)


def test_a_killed_worker_costs_its_task_only(executor, tmp_path):
    arguments = [
        (tmp_path / "out" / str(number), tmp_path / "flag" if number == 3 else None)
        for number in range(6)
    ]
    paths = run_stage(executor, "stage", die_once, arguments)
    assert (tmp_path / "flag").exists()
    assert [path.read_text() for path in paths] == ["written"] * 6
    # What the killed task had begun is gone.
    assert sorted(os.listdir(tmp_path / "out")) == [path.name for path in paths]


def test_an_exception_of_a_worker_is_raised_as_it_is(executor, tmp_path):
    with pytest.raises(LookupError, match="why") as error:
        run_stage(executor, "stage", fail, [(tmp_path / "a", ""), (tmp_path / "b", "why")])
    assert error.value.__notes__ == [f"in stage stage, of {tmp_path / 'b'}"]
    run_stage(executor, "stage", write, [(tmp_path / "b",)])


def test_tasks_run_in_other_processes(executor, tmp_path):
    paths = run_stage(executor, "stage", write_number, [(tmp_path / str(n),) for n in range(4)])
    assert os.getpid() not in numbers(paths)
    assert len(numbers(paths)) <= executor.workers


@pytest.mark.parametrize(("workers", "each"), [(1, 4), (2, 2), (3, 1), (8, 1)])
def test_threads_share_the_cores(workers, each, tmp_path):
    with executors.using_cores(4), open_executor(f"threads:{workers}") as executor:
        assert executor.workers == workers
        path = run_stage(executor, "stage", write_number, [(tmp_path / "a",)])[0]
    assert path.read_text() == f"{os.getpid()} {each}"


@pytest.mark.parametrize(
    "where", ["threads", "threads:0", "threads:-1", "processes:x", "local:", "here", "", None, 3]
)
def test_places_that_are_none_are_refused(where):
    with refused("cluster: expected 'threads:N', 'processes:N'"), open_executor(where):
        pass


@pytest.mark.parametrize("where", ["local:2", "tcp://10.0.0.1:8786", "host:8786"])
def test_without_dask_the_extra_is_named(where, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        refused("distributed is not installed (pip install 'diffusion-rerank[cluster]')"),
        open_executor(where),
    ):
        pass


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.setattr("diffusion.cluster.dask_tasks._TIMEOUT", 0.2)
    with (
        refused("cluster: tcp://127.0.0.1:9: no Dask scheduler"),
        open_executor("tcp://127.0.0.1:9"),
    ):
        pass


def test_workers_that_do_not_start_are_named(monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

    def fails(**settings):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", fails)
    with (
        refused("cluster: local:2: the workers cannot be started (Nanny failed"),
        open_executor("local:2"),
    ):
        pass


def test_a_cluster_is_reached_by_its_address(dask, tmp_path):
    address = dask.client.scheduler.address
    with open_executor(address) as executor:
        assert executor.workers == 1
        assert run_stage(executor, "stage", write, [(tmp_path / "a",)]) == [tmp_path / "a"]


@pytest.fixture
def empty_cluster(monkeypatch):
    """A scheduler without workers."""
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.setattr("diffusion.cluster.tasks._PERIOD", 0.05)
    place = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}
    with distributed.LocalCluster(n_workers=0, processes=False, **place) as cluster:
        yield cluster


def test_a_cluster_without_workers_is_named(empty_cluster, tmp_path, capsys, monkeypatch):
    address = empty_cluster.scheduler_address
    with (
        refused(f"cluster: {address}: expected a worker within 0.3 seconds"),
        open_executor(address, patience=0.3) as executor,
    ):
        run_stage(executor, "stage", write, [(tmp_path / "a",)], progress=True)
    said = f"cluster: {address}: 0 workers; waiting for one, at most 0.3 seconds\n"
    assert capsys.readouterr().err.count(said) == 1
    monkeypatch.setenv("DIFFUSION_CLUSTER_PATIENCE", "0.2")
    with refused("a worker within 0.2 seconds"), open_executor(address) as executor:
        run_stage(executor, "stage", write, [(tmp_path / "a",)])
    assert capsys.readouterr().err == ""


def test_a_worker_that_comes_late_is_told(empty_cluster, monkeypatch):
    monkeypatch.setattr("diffusion.cluster.dask_tasks._TOLD_AFTER", 0.0)
    said = []
    with open_executor(empty_cluster.scheduler_address) as executor:
        executor.check(said.append)
        empty_cluster.scale(1)
        executor.client.wait_for_workers(1)
        executor.check(said.append)
        executor.check(said.append)
    assert [line.rpartition(": ")[2] for line in said] == [
        "0 workers; waiting for one, at most 600 seconds",
        "1 workers",
    ]


def test_a_lost_scheduler_ends_the_tasks(empty_cluster, tmp_path, capfd):
    with open_executor(empty_cluster.scheduler_address) as executor:
        future = executor.submit(write, tmp_path / "a")
        empty_cluster.close()
        with pytest.raises(CancelledError):
            future.result()
        with refused("the scheduler cannot be reached any more; what is finished is kept"):
            executor.check(print)
        with pytest.raises(CancelledError):
            executor.submit(write, tmp_path / "a").result()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", ""])
def test_a_patience_that_is_none_is_refused(value, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CLUSTER_PATIENCE", value)
    with refused(f"DIFFUSION_CLUSTER_PATIENCE: expected seconds > 0, got {value!r}"):
        open_executor("threads:1").__enter__()
    with refused("patience: expected seconds > 0, got 0"):
        open_executor("threads:1", patience=0).__enter__()


def test_dask_is_quiet_while_it_is_used(empty_cluster):
    names = ("distributed", "distributed.client", "tornado.application")
    levels = [logging.getLogger(name).level for name in names]
    with open_executor(empty_cluster.scheduler_address):
        for name in names:
            assert not logging.getLogger(name).isEnabledFor(logging.CRITICAL)
    assert [logging.getLogger(name).level for name in names] == levels


def test_workers_of_dask_do_not_see_interrupts(dask, tmp_path):
    """Nor does one that has replaced another."""
    first = run_stage(dask, "stage", ignores_interrupts, [(tmp_path / "0",)])
    os.kill(numbers(first).pop(), signal.SIGKILL)
    paths = run_stage(dask, "stage", ignores_interrupts, [(tmp_path / n,) for n in "01"])
    assert len(numbers(paths)) == 2
    assert [path.read_text().split()[1] for path in paths] == ["1", "1"]


@pytest.mark.slow
def test_a_worker_that_dask_gives_up_is_replaced(tmp_path, monkeypatch):
    dask = pytest.importorskip("dask", reason="the extra `cluster` is not installed")
    monkeypatch.setattr("diffusion.cluster.tasks._PERIOD", 0.05)
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}),
        open_executor("local:1", patience=120) as executor,
    ):
        cluster = executor.client.cluster
        (nanny,) = cluster.workers.values()
        nanny.auto_restart = False  # as if it took too long
        os.kill(nanny.pid, signal.SIGKILL)
        while cluster.workers:
            time.sleep(0.01)
        paths = run_stage(executor, "stage", write, [(tmp_path / "a",)])
        assert paths[0].read_text() == "written"
        assert len(cluster.workers) == 1


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_named(dask, tmp_path):
    with refused(f"stage: {tmp_path / 'a'}: its worker died 4 times, as it does when memory"):
        run_stage(dask, "stage", die, [(tmp_path / "a",)])
    run_stage(dask, "stage", write, [(tmp_path / "a",)])


def test_an_interrupt_waits_until_the_workers_have_started():
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    from diffusion.cluster import dask_tasks

    def interrupted():
        with dask_tasks._uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            begun.append(True)

    begun = []
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert begun
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_environment_is_as_before(monkeypatch):
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    before = dict(os.environ)
    with open_executor("local:1", patience=120) as executor:
        assert len(executor.client.nthreads()) == 1
    assert dict(os.environ) == before


# --- the end --------------------------------------------------------------------------------------

_MAIN = """
import sys
from diffusion.cluster.executors import open_executor
from diffusion.cluster.tasks import run_stage
from tests.diffusion.cluster.jobs import write_number_and_wait

if __name__ == "__main__":
    with open_executor("processes:1") as executor:
        run_stage(executor, "stage", write_number_and_wait, [(sys.argv[1],)])
"""


def test_running_tasks_are_ended_if_the_block_raises(tmp_path):
    def interrupted():
        with open_executor("processes:1") as executor:
            begun.append(executor.submit(write_number_and_wait, tmp_path / "number"))
            begun.append(executor.submit(write, tmp_path / "never"))
            begun.append(wait_for_number(tmp_path / "number"))
            raise KeyboardInterrupt

    begun = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    running, waiting, worker = begun
    assert not is_running(worker)
    assert running.exception() is not None
    assert waiting.cancelled()


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    """In the middle of a task."""
    (tmp_path / "main.py").write_text(_MAIN)
    home = Path(__file__).parents[3]
    main = subprocess.Popen(
        [sys.executable, tmp_path / "main.py", tmp_path / "number"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home)},
    )
    try:
        worker = wait_for_number(tmp_path / "number")
        main.kill()
        main.wait()
        while is_running(worker):
            time.sleep(0.02)
    finally:
        main.kill()
        main.wait()


def wait_for_number(path):
    while not path.exists():
        time.sleep(0.02)
    return int(path.read_text())


def is_running(number):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
