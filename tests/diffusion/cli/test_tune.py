"""The verb `tune`: files of queries and of relevant items, and the index that it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import diffusion
from diffusion import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of a collection of close curves, of which larger neighbourhoods are mixed."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0, 2 * np.pi, (15, 26, 1)), axis=1)
    waves = np.concatenate([np.cos(t), np.sin(t), np.cos(2 * t), np.sin(2 * t)], axis=2)
    X = waves @ rng.standard_normal((15, 4, 12)) + 0.1 * rng.standard_normal((15, 26, 12))
    np.save("vectors.npy", X[:, 1:].reshape(-1, 12))
    np.save("queries.npy", X[:, 0])
    np.save("relevant.npy", np.arange(375).reshape(15, 25))
    (tmp_path / "ids.txt").write_text("".join(f"item{i}\n" for i in range(375)))
    for name, item in (("qrels", ""), ("named.qrels", "item")):
        lines = [f"{i // 25} 0 {item}{i} 1\n" for i in range(375)]
        (tmp_path / name).write_text("".join([*lines, f"0 0 {item}200 0\n"]))
    return tmp_path


def run(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.fixture
def index(folder, capsys):
    assert run("build", "vectors.npy", "index", "-q") == 0
    capsys.readouterr()
    return folder / "index"


def expected_tuning():
    ranker = diffusion.Reranker().fit(np.load("vectors.npy"))
    return ranker, ranker.tune(np.load("queries.npy"), np.load("relevant.npy"))


def test_the_index_is_written_anew(index, capsys):
    ranker, tuning = expected_tuning()
    assert tuning.parameters["granularity"] == "instance"
    assert run("tune", "index", "queries.npy", "qrels", "-q") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tuning}\nindex: written anew; Graph(375 nodes")
    loaded = diffusion.load("index", verify=True)
    assert loaded.set_params(progress=False).get_params() == ranker.get_params()
    assert (loaded.graph_.W != ranker.graph_.W).nnz == 0


def test_a_dry_run_writes_nothing(index, capsys):
    before = (index / "manifest.json").read_bytes()
    assert run("tune", "index", "queries.npy", "relevant.npy", "--dry-run", "-q") == 0
    assert capsys.readouterr().out == f"{expected_tuning()[1]}\n"
    assert (index / "manifest.json").read_bytes() == before


def test_json_has_all_settings(index, capsys):
    _, tuning = expected_tuning()
    assert run("tune", "index", "queries.npy", "qrels", "--json", "-q") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["gain"] == tuning.gain
    assert facts["after"] == tuning.after._asdict()
    assert len(facts["candidates"]) == 27
    assert facts["candidates"][0]["setting"] == facts["after"]
    assert diffusion.load("index").granularity == tuning.after.granularity


def test_ids_and_names(folder, capsys):
    assert run("build", "vectors.npy", "index", "--ids", "ids.txt", "-q") == 0
    assert run("tune", "index", "queries.npy", "named.qrels", "--dry-run", "-q") == 0
    assert str(expected_tuning()[1]) in capsys.readouterr().out
    (folder / "asked.txt").write_text("".join(f"item{i}\n" for i in range(0, 375, 25)))
    assert run("tune", "index", "asked.txt", "named.qrels", "--dry-run", "-q") == 0
    assert capsys.readouterr().out.startswith("changed to granularity='instance'")


def test_integers_in_a_text_file_are_ids(index, folder, capsys):
    (folder / "asked.txt").write_text("".join(f"{i}\n" for i in range(0, 375, 25)))
    assert run("tune", "index", "asked.txt", "qrels", "--dry-run", "-q") == 0
    assert capsys.readouterr().out.startswith("changed to granularity='instance'")


def test_hits_of_an_index_without_vectors(folder, capsys):
    X, Q = np.load("vectors.npy"), np.load("queries.npy")
    scores, ids = diffusion.nearest_neighbors(X, 60)
    diffusion.Reranker().fit_neighbors(scores, ids).save("lists")
    scores, ids = diffusion.expansion.search(
        *(V / np.linalg.norm(V, axis=1, keepdims=True) for V in (Q, X)), 100
    )
    np.savez("hits.npz", scores=scores, ids=ids)
    assert run("tune", "lists", "hits.npz", "qrels", "-q") == 0
    assert "'category' was not tried" in capsys.readouterr().out
    assert diffusion.load("lists").granularity == "instance"


def test_pairs(index, folder, capsys):
    np.save("pairs.npy", np.arange(0, 375, 25) + 12)
    assert run("tune", "index", "queries.npy", "pairs.npy", "--incomplete", "-q") == 0
    assert "points of discounted gain" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("queries.npy", "nothing"), "error: nothing: cannot be read"),
        (("nothing.npy", "qrels"), "error: nothing.npy: "),
        (("vectors.npy", "qrels"), "error: qrels: expected a relevant item for each query, none"),
        (("queries.npy", "relevant.npy", "-k", "0"), "error: k: expected an integer"),
        (("queries.npy", "bad.qrels"), "error: bad.qrels: line 1: query: expected a row"),
        (("bad.npy", "qrels"), "error: bad.npy: expected"),
    ],
)
def test_errors_name_the_file(index, folder, capsys, arguments, message):
    (folder / "bad.qrels").write_text("99 0 1 1\n")
    np.save("bad.npy", np.ones((15, 3)))
    before = (index / "manifest.json").read_bytes()
    assert run("tune", "index", *arguments, "-q") == 2
    assert message in capsys.readouterr().err
    assert (index / "manifest.json").read_bytes() == before
