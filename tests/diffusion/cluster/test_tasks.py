"""Stages that are interrupted and repeated, and results that are complete or absent."""

from __future__ import annotations

import errno
import os
import re
from concurrent.futures import Future

import numpy as np
import pytest

from diffusion import DiffusionError
from diffusion.cluster.executors import open_executor
from diffusion.cluster.tasks import result, run_stage
from tests.support.disk import CRASHES, Crash, Disk, operations

from .jobs import fail, write, write_array, write_elsewhere, write_folder


@pytest.fixture(scope="module")
def threads():
    with open_executor("threads:2") as executor:
        yield executor


def refused(text):
    return pytest.raises(DiffusionError, match=re.escape(text))


class Scripted:
    """An executor whose futures end as a script says, or with what the task returns."""

    workers, tries = 1, 4
    died = (ConnectionError,)

    def __init__(self, *script):
        self.script, self.calls = list(script), []

    def check(self, say):
        say("no workers")
        raise DiffusionError("cluster: nobody is there")

    def submit(self, function, *arguments):
        self.calls.append(arguments[0])
        future = Future()
        outcome = self.script.pop(0) if self.script else None
        if outcome == "pending":
            return future
        if outcome == "cancelled":
            future.cancel()
            future.set_running_or_notify_cancel()
        elif outcome is not None:
            future.set_exception(outcome)
        else:
            future.set_result(function(*arguments))
        return future


# --- stages ---------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_arguments(threads, tmp_path):
    paths = [tmp_path / "deep" / "stage" / str(number) for number in range(20)]
    found = run_stage(threads, "stage", write, [(path, path.name) for path in paths])
    assert found == paths
    assert [path.read_text() for path in paths] == [path.name for path in paths]
    assert run_stage(threads, "stage", write, []) == []


def test_what_is_finished_is_skipped(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    write(paths[1], "earlier")
    executor = Scripted()
    assert run_stage(executor, "stage", write, [(path,) for path in paths]) == paths
    assert executor.calls == [paths[0], paths[2]]
    assert paths[1].read_text() == "earlier"
    assert run_stage(executor, "stage", write, [(path,) for path in paths]) == paths
    assert len(executor.calls) == 2


def test_a_stage_is_repeated_after_an_exception(threads, tmp_path):
    arguments = [(tmp_path / str(number), "why" * (number == 3)) for number in range(6)]
    with pytest.raises(LookupError, match="why") as error:
        run_stage(threads, "ranks", fail, arguments)
    assert error.value.__notes__ == [f"in stage ranks, of {tmp_path / '3'}"]
    assert not arguments[3][0].exists()
    paths = run_stage(threads, "ranks", fail, [(path, "") for path, _ in arguments])
    assert all(path.read_text() == "written" for path in paths)


def test_the_others_are_cancelled_when_a_task_fails(tmp_path):
    executor, futures = Scripted("pending", LookupError("why"), "pending"), []
    plain = executor.submit

    def submit(*arguments):
        futures.append(plain(*arguments))
        return futures[-1]

    executor.submit = submit
    with pytest.raises(LookupError):
        run_stage(executor, "stage", write, [(tmp_path / name,) for name in "abc"])
    assert [future.cancelled() for future in futures] == [True, False, True]


def test_a_task_whose_worker_dies_is_started_four_times(tmp_path):
    death = ConnectionError("died")
    executor = Scripted(death, death, death)
    assert run_stage(executor, "stage", write, [(tmp_path / "a",)]) == [tmp_path / "a"]
    assert len(executor.calls) == 4
    with refused(f"stage: {tmp_path / 'b'}: its worker died 4 times") as error:
        run_stage(Scripted(*[death] * 4), "stage", write, [(tmp_path / "b",)])
    assert error.value.__cause__ is death


class KilledError(ConnectionError):
    """What Dask raises, which has started a task again by itself."""

    allowed_failures = 6


def test_deaths_that_dask_has_counted_are_not_counted_again(tmp_path):
    executor = Scripted(KilledError())
    executor.tries = 1
    with refused(f"stage: {tmp_path / 'a'}: its worker died 7 times"):
        run_stage(executor, "stage", write, [(tmp_path / "a",)])
    assert len(executor.calls) == 1


def test_a_stage_looks_after_the_workers_while_it_waits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffusion.cluster.tasks._PERIOD", 0.01)
    executor = Scripted("pending")
    with refused("cluster: nobody is there"):
        run_stage(executor, "stage", write, [(tmp_path / "a",)])
    assert capsys.readouterr().err == ""
    executor = Scripted("pending")
    with refused("cluster: nobody is there"):
        run_stage(executor, "stage", write, [(tmp_path / "a",)], progress=True)
    assert "no workers\n" in capsys.readouterr().err


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def overwritten(file):
    file.write_bytes(b"x" * file.stat().st_size)


@pytest.mark.parametrize("damage", [cut, empty, overwritten])
def test_a_damaged_result_is_made_again(tmp_path, damage):
    paths = [tmp_path / "0", tmp_path / "1"]
    for path in paths:
        write_array(path, 7)
    damage(paths[1] / "array.npy")
    executor = Scripted()
    run_stage(executor, "stage", write_array, [(path, 8) for path in paths])
    assert executor.calls == paths[1:]
    assert [len(np.load(path / "array.npy")) for path in paths] == [7, 8]


def test_workers_that_are_lost_are_named(tmp_path):
    with refused(f"stage: {tmp_path / 'a'}: the workers cannot be reached"):
        run_stage(Scripted("cancelled"), "stage", write, [(tmp_path / "a",)])


def test_workers_on_another_file_system_are_named(threads, tmp_path):
    with refused(f"stage: {tmp_path / 'a'}: expected the result of a task here"):
        run_stage(threads, "stage", write_elsewhere, [(tmp_path / "a",)])


def test_two_tasks_of_one_result_are_an_error_of_the_caller(threads, tmp_path):
    with pytest.raises(ValueError, match="a different path for each task"):
        run_stage(threads, "stage", write, [(tmp_path / "a",), (tmp_path / "a",)])


def test_progress_counts_what_was_finished_before(threads, tmp_path, capsys):
    write(tmp_path / "0")
    arguments = [(tmp_path / str(number),) for number in range(4)]
    run_stage(threads, "ranks", write, arguments, progress=True)
    shown = capsys.readouterr().err
    assert "ranks:  25%" in shown
    assert "4/4" in shown
    run_stage(threads, "ranks", write, arguments)
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_one_error_that_names_the_stage_and_the_result(threads, tmp_path):
    arguments = [(tmp_path / "stage" / str(number),) for number in range(3)]
    full = Disk(tmp_path, "full for good", 12)
    # Tasks that still run when the error comes are waited for at the end of the executor.
    with full(), refused("ranks: ") as error, open_executor("threads:2") as executor:
        run_stage(executor, "ranks", write, arguments)
    assert re.fullmatch(
        rf"ranks: {tmp_path}/stage/\d: cannot be written \({os.strerror(errno.ENOSPC)}\); .*",
        str(error.value),
    )
    assert [path.read_text() for path in run_stage(threads, "ranks", write, arguments)] == [
        "written"
    ] * 3
    assert len(os.listdir(tmp_path / "stage")) == 3


# --- results --------------------------------------------------------------------------------------


def state(folder):
    """Return the content of what is in a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("task", "arguments", "whole"),
    [(write, (), {"a": "written"}), (write_folder, ("x",), {"a/x": "x"})],
)
def test_a_fault_at_any_operation_leaves_a_complete_result_or_none(
    task, arguments, whole, tmp_path
):
    home = tmp_path / "home"
    home.mkdir()
    with Disk(home)() as disk:
        task(home / "a", *arguments)
    assert state(home) == whole
    for number, (kind, operation) in enumerate(operations(disk.log)):
        home = tmp_path / str(number)
        home.mkdir()
        failing = Disk(home, kind, operation.number)
        error = None
        try:
            with failing():
                task(home / "a", *arguments)
        except (OSError, Crash) as raised:
            error = raised
        case = f"{kind} at {operation}"
        assert failing.failed is not None, case
        if error is None:
            assert state(home) == whole, case
        elif (home / "a").exists():
            assert state(home).items() >= whole.items(), case
        if kind not in CRASHES and operation.what in {
            "create",
            "write",
            "fsync",
            "mkdir",
            "replace",
        }:
            assert set(os.listdir(home)) <= {"a"}, case
        task(home / "a", *arguments)
        assert state(home) == whole, case
        assert os.listdir(home) == ["a"], case


def test_the_first_of_two_results_stays(tmp_path):
    with result(tmp_path / "a") as late:
        late.mkdir()
        (late / "x").write_text("late")
        write_folder(tmp_path / "a", "x")
        assert late.exists()  # it is held, and not taken for abandoned
    assert state(tmp_path) == {"a/x": "x"}


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_folder(tmp_path / "a", "x", None)
    with pytest.raises(FileNotFoundError), result(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == []
