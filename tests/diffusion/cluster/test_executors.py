"""Threads, processes and Dask: the same tasks, and workers that are killed."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion import DiffusionError
from diffusion.cluster import executors
from diffusion.cluster.executors import open_executor
from diffusion.cluster.tasks import run_stage

from .jobs import die_once, fail, write, write_number, write_number_and_wait


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
