"""`diffusion build --cluster`: the command, not what it builds."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

import diffusion
from diffusion import cli


@pytest.fixture
def folder(vectors, tmp_path, monkeypatch):
    """A working directory with lists and vectors in three shards, and ids."""
    monkeypatch.chdir(tmp_path)
    scores, ids = diffusion.nearest_neighbors(vectors, 60)
    for name, array in (("scores", scores), ("lists", ids), ("vectors", vectors)):
        os.mkdir(name)
        for number, rows in enumerate([slice(0, 50), slice(50, 80), slice(80, 120)]):
            np.save(f"{name}/part-{number}.npy", array[rows])
    np.save("ids.npy", np.arange(1000, 1120))
    return scores, ids


LISTS = ("--neighbor-scores", "scores", "--neighbor-ids", "lists")


def build(*arguments):
    return cli.main(["build", *arguments, "-k", "8"])


def test_the_index_is_that_of_the_library(folder, vectors, capsys):
    options = (*LISTS, "--ids", "ids.npy")
    assert build("vectors", "index", "--cluster", "threads:2", *options) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("index: Graph(120 nodes")
    assert "lists: 100%" in printed.err
    found = diffusion.load("index", verify=True)
    expected = diffusion.Reranker(k=8).fit_neighbors(*folder)
    np.testing.assert_array_equal(found.graph_.W.toarray(), expected.graph_.W.toarray())
    assert found.search(vectors[7], 5)[1][0] == 1007
    assert sorted(os.listdir()) == ["ids.npy", "index", "lists", "scores", "vectors"]
    assert build("index", "--cluster", "threads:1", "--shards", "2", *LISTS, "-q") == 0
    assert capsys.readouterr().err == ""


def test_from_vectors_alone(folder, vectors, capsys):
    assert build("vectors", "index", "--cluster", "threads:2", "--shards", "3", "-q") == 0
    assert capsys.readouterr().out.startswith("index: Graph(120 nodes")
    expected = diffusion.Reranker(k=8).fit(vectors)
    found = diffusion.load("index", verify=True)
    np.testing.assert_array_equal(found.graph_.W.toarray(), expected.graph_.W.toarray())
    for one, other in zip(
        found.search(vectors[:9], 5), expected.search(vectors[:9], 5), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_columns_of_parquet_files(folder, vectors, capsys):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    os.mkdir("table")
    for number, rows in enumerate([slice(0, 50), slice(50, 120)]):
        lists = pa.FixedSizeListArray.from_arrays(vectors[rows].ravel(), vectors.shape[1])
        names = [f"photo {i}" for i in range(120)[rows]]
        parquet.write_table(pa.table({"key": names, "x": lists}), f"table/{number}.parquet")
    options = ("--cluster", "threads:2", "--vector-column", "x", "-q")
    assert build("table", "index", *options, "--id-column", "key") == 0
    assert diffusion.load("index").search(vectors[70], 3)[1][0] == "photo 70"
    assert build("table", "other", *options, "--id-column", "none") == 2
    assert "expected a column 'none'" in capsys.readouterr().err
    assert build("table", "other", *options, "--id-column", "key", "--ids", "ids.npy") == 2
    assert "--ids, --id-column: expected one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--id-column", "id", *LISTS], "--id-column: expected --cluster, too"),
        (
            ["--cluster", "threads:2", "--id-column", "id", *LISTS],
            "--vector-column, --id-column: expected VECTORS",
        ),
        (["--cluster", "threads:2"], "VECTORS: expected a path, or --neighbor-scores, "),
        (
            ["--cluster", "threads:2", *LISTS[:2]],
            "--neighbor-scores, --neighbor-ids: expected both or",
        ),
        (["--shards", "2", *LISTS], "--shards: expected --cluster, too"),
        (["--cluster", "here", *LISTS], "--cluster: expected 'threads:N'"),
        (["--cluster", "threads:2", "--shards", "0", *LISTS], "--shards: expected an integer"),
        (["--cluster", "threads:2", *LISTS[:3], "none"], "--neighbor-ids: none: cannot be read"),
        (["--cluster", "threads:2", *LISTS, "--ids", "lists/part-0.npy"], "lists/part-0.npy: "),
    ],
)
def test_bad_arguments_are_named(folder, capsys, arguments, message):
    assert build("index", *arguments, "-q") == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not os.path.exists("index")


def test_a_missing_shard_is_named(folder, capsys):
    os.unlink("scores/part-1.npy")
    assert build("index", "--cluster", "threads:2", *LISTS) == 2
    message = "error: --neighbor-scores: scores/part-1.npy: this shard is missing"
    assert message in capsys.readouterr().err


def test_without_dask_the_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert build("index", "--cluster", "local:2", *LISTS) == 2
    assert "--cluster: distributed is not installed" in capsys.readouterr().err
