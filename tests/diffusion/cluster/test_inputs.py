"""Arrays in shards: what is read against the concatenated array, and what is refused."""

from __future__ import annotations

import os
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion import DiffusionError
from diffusion.cluster.inputs import check_same_rows, open_input


def write(folder, parts, name="part-{:d}.npy"):
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(parts):
        np.save(folder / name.format(number), part)
    return folder


def pieces(counts, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((count, d)).astype(np.float32) for count in counts]


def refused(text):
    return pytest.raises(DiffusionError, match=re.escape(text))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(sum), st.data())
@settings(max_examples=30, deadline=None)
def test_a_part_of_the_rows_is_that_of_the_whole_array(tmp_path_factory, counts, data):
    parts = pieces(counts)
    # Twelve shards: the tenth comes after the ninth, not after the first.
    found = open_input(write(tmp_path_factory.mktemp("x"), parts), "X")
    whole = np.concatenate(parts)
    first = data.draw(st.integers(0, len(whole)))
    last = data.draw(st.integers(first, len(whole)))
    assert (found.n, found.width, found.dtype) == (len(whole), (3,), "<f4")
    assert found.starts == (0, *np.cumsum(counts).tolist())
    np.testing.assert_array_equal(found.read(first, last), whole[first:last], strict=True)
    assert pickle.loads(pickle.dumps(found)) == found


def test_one_file_and_one_value_per_row(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(7))
    found = open_input(tmp_path / "ids.npy", "ids", kinds="iuU", ndim=1)
    assert found.width == ()
    np.testing.assert_array_equal(found.read(2, 5), [2, 3, 4])
    with pytest.raises(ValueError, match="rows from 0 to 7"):
        found.read(2, 8)


def test_strings_of_shards_may_differ_in_length(tmp_path):
    found = open_input(
        write(tmp_path / "s", [np.array(["a"]), np.array(["long", "é"])]), "ids", kinds="U", ndim=1
    )
    assert found.read(0, 3).tolist() == ["a", "long", "é"]
    assert found.read(0, 1).tolist() == ["a"]


def test_files_that_are_not_shards_are_ignored(tmp_path):
    folder = write(tmp_path / "x", pieces([2, 1]))
    (folder / "README").write_text("text")
    (folder / ".part-9.npy").write_text("hidden")
    assert open_input(folder, "X").n == 3


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.zeros((2, 4), np.float32), "expected float32 of shape (n, 3) as in part-0.npy, got"),
        (np.zeros((2, 3)), "got float64 of shape (n, 3)"),
        (np.zeros(3, np.float32), "expected floats in 2 dimensions, got float32 of shape (n,)"),
        (np.zeros((2, 3), np.int32), "expected floats in 2 dimensions, got int32"),
        (np.asfortranarray(np.ones((2, 3), np.float32)), "expected an array in C order"),
        (np.array({}, object), "not a .npy file of numbers"),
        (np.float32(1), "expected rows, got a single number"),
    ],
)
def test_a_shard_that_does_not_fit_is_named(tmp_path, bad, text):
    folder = write(tmp_path / "x", pieces([2, 2, 2]))
    np.save(folder / "part-1.npy", bad)
    with refused(f"X: {folder / 'part-1.npy'}: ") as error:
        open_input(folder, "X")
    assert text in str(error.value)


def test_a_damaged_or_missing_shard_is_named(tmp_path):
    folder = write(tmp_path / "x", pieces([2, 2, 2, 2]), "part-{:03d}.npy")
    found, before = open_input(folder, "X"), open_input(folder, "X").fingerprint()
    assert found.fingerprint() == before
    third = folder / "part-002.npy"
    whole = third.read_bytes()
    third.write_bytes(whole[:-1])
    for call in (lambda: open_input(folder, "X"), lambda: found.read(0, 8)):
        with refused(f"X: {third}: truncated or damaged"):
            call()
    np.save(third, np.zeros((3, 3), np.float32))
    with refused(f"X: {third}: was changed"):
        found.read(4, 6)
    third.write_bytes(whole)  # the same size at another time
    with refused(f"X: {third}: was changed"):
        found.read(4, 6)
    assert open_input(folder, "X").fingerprint() != before
    assert found.fingerprint() == before
    third.unlink()
    with refused(f"X: {third}: this shard is missing"):
        open_input(folder, "X")
    with refused(f"X: {third}: cannot be read (No such file"):
        found.read(0, 8)
    assert len(found.read(0, 4)) == 4  # the others can


def test_what_is_no_input_is_refused(tmp_path):
    with refused("X: expected a str or a path"):
        open_input(3, "X")
    with refused("nowhere: cannot be read"):
        open_input(tmp_path / "nowhere", "X")
    with refused("got 0 and 0 of them"):
        open_input(tmp_path, "X")
    (tmp_path / "x.txt").write_text("")
    with refused("x.txt: expected a .npy or Parquet file, or a folder"):
        open_input(tmp_path / "x.txt", "X")
    with refused("expected at least one row"):
        open_input(write(tmp_path / "empty", pieces([0, 0])), "X")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "x.npy")
    with refused("x.npy: cannot be read (not a regular file)"):
        open_input(tmp_path / "pipe", "X")


def test_inputs_of_one_collection_have_equally_many_rows(tmp_path):
    one = open_input(write(tmp_path / "a", pieces([2, 3])), "scores")
    other = open_input(write(tmp_path / "b", pieces([3, 3])), "ids")
    check_same_rows([one, one])
    with refused("ids: expected 5 rows, as many as scores has, got 6"):
        check_same_rows([one, other])


# --- Parquet --------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    """Write a folder of Parquet files with ids, vectors and lists; row groups have 2 rows."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "table"
    folder.mkdir()
    for number, part in enumerate(pieces([5, 1, 4])):
        flat = pa.array(part.ravel())
        columns = {
            "id": pa.array([f"item {number}.{row}" for row in range(len(part))]),
            "number": pa.array(range(len(part)), pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, 3),
            "list": pa.array(part.tolist(), pa.list_(pa.float32())),
        }
        parquet.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=2)
    return folder


@pytest.mark.parametrize("column", ["vector", "list"])
@pytest.mark.parametrize(("first", "last"), [(0, 10), (1, 4), (4, 8), (5, 6), (3, 3)])
def test_lists_of_a_column_are_rows(table, column, first, last):
    found = open_input(table, "X", column=column)
    whole = np.concatenate(pieces([5, 1, 4]))
    assert (found.n, found.width, found.column) == (10, (3,), column)
    np.testing.assert_array_equal(found.read(first, last), whole[first:last], strict=True)


def test_ids_of_a_column(table):
    names = open_input(table, "id", kinds="iuU", ndim=1)
    assert names.read(4, 7).tolist() == ["item 0.4", "item 1.0", "item 2.0"]
    numbers = open_input(table / "0.parquet", "ids", kinds="iuU", ndim=1, column="number")
    np.testing.assert_array_equal(numbers.read(1, 5), [1, 2, 3, 4])


def test_columns_that_do_not_fit_are_refused(table):
    import pyarrow as pa
    from pyarrow import parquet

    first = table / "0.parquet"
    with refused(f"X: {first}: expected a column 'X', got ['id', 'number', 'vector', 'list']"):
        open_input(table, "X")
    with refused(f"X: {first}: expected floats in 2 dimensions, got str"):
        open_input(table, "X", column="id")
    ragged = pa.table({"list": pa.array([[1.0, 2.0], [3.0]]), "times": pa.array([[None]] * 2)})
    parquet.write_table(ragged, table / "ragged.parquet")
    with refused("ragged.parquet: row 0 and those after it: expected values without null"):
        open_input(table / "ragged.parquet", "X", column="list").read(0, 2)
    with refused("ragged.parquet: expected numbers or str in column 'times', got list"):
        open_input(table / "ragged.parquet", "X", column="times")
    np.save(table / "x.npy", np.zeros((1, 3)))
    with refused("expected a folder of .npy files or of Parquet files, got 1 and 4"):
        open_input(table, "X", column="list")
    (table / "broken.parquet").write_bytes(b"PAR1")
    with refused("broken.parquet: "):
        open_input(table / "broken.parquet", "X", column="list")
