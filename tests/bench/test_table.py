from __future__ import annotations

import datetime
import json

import numpy as np
import pytest

import diffusion
from bench.table import Machine, Measurement, Table, measurement, read_json, write_json
from diffusion.errors import DiffusionError

MACHINE = Machine("a processor", 2, 16, 0.25)


def test_table_layout():
    table = Table("title", ("name", "n"), [["a", 1.23456], ["bb", 1000], ["c", None]], ["a note"])
    assert str(table).splitlines() == [
        "title", "",
        "| name   |    n |",
        "|:-------|-----:|",
        "| a      | 1.23 |",
        "| bb     | 1000 |",
        "| c      |      |",
        "", "a note",
    ]  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    rows = [["α", 1.23456, 2, None], ["b", 1.0, True, 1e300]]
    table = Table("**T**", ["name", "x", "n", "y"], rows, ["a note"])
    written = Measurement("python -m bench live", "2026-01-31", "1.2.3", MACHINE, [table])
    path = tmp_path / "t.json"
    write_json(str(path), written)
    read = read_json(path)
    assert read == written
    # An integer is printed as one.
    assert [type(cell) for cell in read.tables[0].rows[0]] == [str, float, int, type(None)]
    assert str(read.tables[0]) == str(table)
    assert "α" in path.read_text("utf-8")


def test_scalars_of_numpy_are_numbers(tmp_path):
    table = Table("T", ("x", "n"), [[np.float64(1.5), np.int32(7)]])
    write_json(str(tmp_path / "t.json"), Measurement("c", "d", "v", MACHINE, [table]))
    assert read_json(tmp_path / "t.json").tables[0].rows == [[1.5, 7]]


def test_a_measurement_says_with_what(tmp_path):
    before = datetime.datetime.now(datetime.UTC).date()
    measured = measurement("python -m bench text")
    after = datetime.datetime.now(datetime.UTC).date()
    assert before <= datetime.date.fromisoformat(measured.date) <= after
    assert measured.command == "python -m bench text"
    assert measured.version == diffusion.__version__
    assert measured.machine.threads >= 1
    assert measured.machine.memory >= 1
    assert measured.tables == []
    write_json(str(tmp_path / "t.json"), measured)
    written = json.loads((tmp_path / "t.json").read_text("utf-8"))
    assert list(written) == ["command", "date", "version", "machine", "tables"]
    assert list(written["machine"]) == ["processor", "threads", "memory", "load"]


@pytest.mark.parametrize(("load", "named"), [(None, False), (0.5, False), (3.14, True)])
def test_a_busy_machine_is_called_so(load, named):
    text = str(Machine("a processor", 2, 16, load))
    assert text.startswith("a processor, 2 threads, 16 GiB of memory")
    assert ("a load of 3.1" in text) is named
    assert ("load" in text) is named


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: [m], "got list"),
        (lambda m: m["tables"], "got list"),  # what an earlier version wrote
        (lambda m: {k: v for k, v in m.items() if k != "machine"}, "got no 'machine'"),
        (lambda m: {k: v for k, v in m.items() if k != "date"}, "other fields.*'date'"),
        (lambda m: {**m, "colour": "red"}, "other fields.*'colour'"),
        (lambda m: {**m, "machine": {"host": "x"}}, "other fields.*'host'"),
        (lambda m: {**m, "tables": [{"title": "T"}]}, "other fields.*'columns'"),
        (lambda m: {**m, "tables": 3}, "other fields"),
        (
            lambda m: {**m, "tables": [{"title": "T", "columns": ["a"], "rows": [[1, 2]]}]},
            "rows of another length than the columns: T",
        ),
    ],
)
def test_what_is_no_measurement_is_refused(change, message, tmp_path):
    path = tmp_path / "t.json"
    write_json(str(path), Measurement("c", "d", "v", MACHINE, [Table("T", ["a"], [[1]])]))
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))))
    with pytest.raises(DiffusionError, match=rf"t\.json: expected what .* writes, .*{message}"):
        read_json(path)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(DiffusionError, match=r"t\.json: No such file"):
        read_json(tmp_path / "t.json")
    (tmp_path / "t.json").write_text('{"command": ')
    with pytest.raises(DiffusionError, match=r"t\.json: expected .*, got no JSON: .*line 1"):
        read_json(tmp_path / "t.json")
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DiffusionError, match=r"got no JSON: .*codec"):
        read_json(tmp_path / "t.json")
