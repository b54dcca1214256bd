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
    """A working directory with three shards of lists, and ids."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("lists")
    scores, ids = diffusion.nearest_neighbors(vectors, 60)
    for number, rows in enumerate([slice(0, 50), slice(50, 80), slice(80, 120)]):
        np.save(f"lists/scores_{number}.npy", scores[rows])
        np.save(f"lists/ids_{number}.npy", ids[rows])
    np.save("ids.npy", np.arange(1000, 1120))
    return scores, ids


def build(*arguments):
    return cli.main(["build", *arguments, "-k", "8"])


def test_the_index_is_that_of_the_library(folder, capsys):
    lists = ("--neighbor-lists", "lists", "--ids", "ids.npy")
    assert build("index", "--cluster", "threads:2", *lists) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("index: Graph(120 nodes")
    assert "lists: 100%" in printed.err
    found = diffusion.load("index", verify=True)
    expected = diffusion.Reranker(k=8).fit_neighbors(*folder)
    np.testing.assert_array_equal(found.graph_.W.toarray(), expected.graph_.W.toarray())
    assert found.rerank([1.0], [1007], k=5)[1][0] == 1007
    assert sorted(os.listdir()) == ["ids.npy", "index", "lists"]
    assert build("index", "--cluster", "threads:1", *lists, "-q") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "threads:2"], "--cluster, --neighbor-lists: expected both or neither"),
        (["--neighbor-lists", "lists"], "--cluster, --neighbor-lists: expected both or neither"),
        (["--cluster", "here", "--neighbor-lists", "lists"], "--cluster: expected 'threads:N'"),
        (["--cluster", "threads:2", "--neighbor-lists", "none"], "none: cannot be read"),
        (
            ["--cluster", "threads:2", "--neighbor-lists", "lists", "--neighbor-ids", "ids.npy"],
            "--neighbor-ids: expected none with --cluster",
        ),
        (
            ["--cluster", "threads:2", "--neighbor-lists", "lists", "--ids", "lists/ids_0.npy"],
            "lists/ids_0.npy: ",
        ),
    ],
)
def test_bad_arguments_are_named(folder, capsys, arguments, message):
    assert build("index", *arguments, "-q") == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not os.path.exists("index")


def test_vectors_are_refused(folder, capsys):
    lists = ("--neighbor-lists", "lists")
    assert build("ids.npy", "index", "--cluster", "threads:2", *lists) == 2
    assert "VECTORS.npy: expected none with --cluster" in capsys.readouterr().err


def test_without_dask_the_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert build("index", "--cluster", "local:2", "--neighbor-lists", "lists") == 2
    assert "--cluster: distributed is not installed" in capsys.readouterr().err
