"""What is seen of a program, of its processes and of its files."""

from __future__ import annotations

import os
import sys
import textwrap

import numpy as np
import pytest

from bench.cluster.files import Folder, Stage, arrays_of, shuffled
from bench.cluster.processes import run

PROGRAM = """
import multiprocessing, time

def work(size):
    held = bytearray(b"x") * size
    time.sleep(0.7)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work, args=(90_000_000,))
    child.start()
    work(40_000_000)
    child.join()
    print("done")
"""


def test_every_process_of_a_program_is_measured(tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    looks = []
    usage = run([sys.executable, "program.py"], lambda: looks.append(1), tmp_path)
    assert usage.output == "done\n"
    assert usage.seconds >= 0.7
    assert usage.cpu > 0
    assert looks
    assert {"coordinator", "worker"} <= {process.role for process in usage.processes}
    assert 40e6 <= usage.peak("coordinator") <= 80e6
    assert 90e6 <= usage.peak("worker") <= 130e6
    assert usage.peak("worker") <= usage.peak("worker", "resident")
    assert usage.peak("other") == 0


def test_a_program_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="ended with 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"])


def write(folder, stage, shard, name, size, time):
    path = folder / "index.build" / "a1" / stage / f"{shard:05d}" / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time, time))
    return path


def test_stages_are_told_from_their_files(tmp_path):
    folder = Folder(tmp_path)
    removed = write(tmp_path, "lists", 0, "ids", 1000, 110.0)
    write(tmp_path, "lists", 1, "ids", 500, 112.0)
    folder.look()
    removed.unlink()
    write(tmp_path, "ranked", 0, "sent_values", 100, 115.0)
    write(tmp_path, "ranked", 0, "ranks", 10, 114.0)
    partial = tmp_path / "index.build" / "a1" / "ranked" / ".00001.ab.tmp" / "00001"
    partial.mkdir(parents=True)
    (partial / "sent_values.npy").write_bytes(b"")
    folder.look()
    stages = folder.stages(100.0)
    assert list(stages) == ["lists", "ranked"]
    assert [stage.seconds for stage in stages.values()] == [12.0, 3.0]
    assert [stage.tasks for stage in stages.values()] == [2, 1]
    assert stages["lists"].bytes == {"ids": 1500}
    assert stages["ranked"].total == 110
    assert shuffled(stages) == {"lists": 0, "ranked": 100}
    assert shuffled({"outgoing-ids": Stage(1, 0.0, {"ids": 3, "rows": 2})}) == {"outgoing-ids": 5}


def test_reports_of_a_build_tell_its_seconds(tmp_path):
    folder = Folder(tmp_path)
    write(tmp_path, "lists", 0, "ids", 10, 110.0)
    write(tmp_path, "other", 0, "ids", 10, 120.0)
    folder.look()
    reports = [["brief", 3, 0.5, 70], ["lists", 1, 2.5, 10], ["lists", 1, 1.0, 10]]
    stages = folder.stages(100.0, reports)
    assert list(stages) == ["brief", "lists", "other"]
    assert stages["brief"].bytes == {"(all)": 70}
    assert stages["lists"] == Stage(2, 3.5, {"ids": 10})
    assert stages["other"].seconds == 0


def test_the_peak_counts_a_file_of_two_names_once(tmp_path):
    folder = Folder(tmp_path)
    folder.look()
    assert folder.peak == 0
    (tmp_path / "one").write_bytes(np.random.default_rng(0).bytes(1 << 16))
    os.link(tmp_path / "one", tmp_path / "two")
    folder.look()
    (tmp_path / "one").unlink()
    (tmp_path / "two").unlink()
    folder.look()
    assert 1 << 16 <= folder.peak < 1 << 17


def test_arrays_of_an_index_are_named(tmp_path):
    (tmp_path / "arrays-1").mkdir()
    np.save(tmp_path / "arrays-1" / "graph_order.npy", np.arange(4))
    assert arrays_of(tmp_path) == {"graph_order": 160}
