from __future__ import annotations

import errno
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import diffusion
from diffusion import CustomTransfer, DiffusionError, Reranker
from diffusion.cluster import stages
from diffusion.cluster.build import build_sharded
from diffusion.cluster.executors import open_executor


def write_shards(folder, array, cuts):
    folder.mkdir(parents=True, exist_ok=True)
    for p, (a, b) in enumerate(pairwise(cuts)):
        np.save(folder / f"part-{p}.npy", array[a:b])
    return folder


def made_lists(rng, n, k, metric="cosine"):
    """Lists of clustered vectors with ties, cut short here and there, and one item without any."""
    X = rng.standard_normal((max(1, n // 20), 6))[rng.integers(0, max(1, n // 20), n)]
    X = X + 0.4 * rng.standard_normal(X.shape)
    scores, ids = diffusion.nearest_neighbors(X, k, metric=metric)
    scores = np.round(scores, 2).astype(np.float32)
    short = rng.integers(k // 2, 3 * k, n)
    short[n // 2] = 0
    ids[np.arange(k)[None] >= short[:, None]] = -1
    return scores, ids


def built(tmp_path, scores, ids, cuts, ranker=None, *, where="threads:2", **options):
    both = {"scores": scores, "ids": ids}
    files = tuple(write_shards(tmp_path / name, array, cuts) for name, array in both.items())
    options = {"shards": len(cuts) - 1, **options}
    with open_executor(where) as executor:
        build_sharded(files, tmp_path / "index", ranker, executor=executor, **options)
    return diffusion.load(tmp_path / "index", verify=True)


CUTS = {"one": [0, 300], "two": [0, 120, 300], "seven": [0, 1, 40, 40, 100, 200, 299, 300]}
KINDS = {
    "context": {},
    "unscaled": {"affinity": diffusion.affinity.Context((3, 6), 20, scaling=0.0)},
    "cosine": {"affinity": "cosine", "k": 12},
    "gaussian": {"affinity": "gaussian", "k": 12, "metric": "euclidean"},
    "product": {"affinity": "cosine", "k": 12, "metric": "inner_product"},
}


def check_equal(found, expected, rng):
    """Compare two Rerankers by item: graph, affinity and answers."""
    np.testing.assert_array_equal(found.graph_.W.toarray(), expected.graph_.W.toarray())
    for name in ("degrees", "components"):
        one, other = getattr(found.graph_, name), getattr(expected.graph_, name)
        np.testing.assert_array_equal(one, other)
    assert repr(found.graph_) == repr(expected.graph_)
    assert found.get_params().keys() == expected.get_params().keys()
    n = found.n_items_
    rows = rng.permutation(n)[:20]
    ids0 = np.array([rng.permutation(n)[: min(n, 15)] for _ in rows])
    scores0 = -np.sort(rng.random(ids0.shape).astype(np.float32), axis=1)
    scores0 = scores0 if found.metric == "euclidean" else 2 + scores0
    scores, ids = found.rerank(scores0, ids0, k=10)
    others, other_ids = expected.rerank(scores0, ids0, k=10)
    np.testing.assert_allclose(scores, others, rtol=1e-5, atol=1e-6)
    # Only where scores are equal but for rounding.
    assert (ids != other_ids).mean() < 0.05


@pytest.mark.parametrize(
    ("kind", "cuts"),
    [
        ("context", "one"),
        ("context", "seven"),
        ("unscaled", "two"),
        ("cosine", "seven"),
        ("gaussian", "two"),
        ("product", "seven"),
    ],
)
def test_the_index_equals_that_of_one_process(tmp_path, rng, kind, cuts):
    ranker = Reranker(**KINDS[kind])
    scores, ids = made_lists(rng, 300, 12, ranker.metric)
    found = built(tmp_path, scores, ids, CUTS[cuts], ranker)
    expected = Reranker(**KINDS[kind]).fit_neighbors(scores, ids)
    check_equal(found, expected, rng)
    own, other = found.state(), expected.state()
    assert json.loads(json.dumps(own.parameters)) == json.loads(json.dumps(other.parameters))
    assert own.sizes == other.sizes
    assert own.arrays.keys() == other.arrays.keys()
    assert {a: v.dtype for a, v in own.arrays.items()} == {
        a: v.dtype for a, v in other.arrays.items()
    }
    assert not (tmp_path / "index.build").exists()


def test_search_and_names_equal_those_of_one_process(tmp_path, rng):
    X = rng.standard_normal((15, 8))[rng.integers(0, 15, 150)] + 0.3 * rng.standard_normal((150, 8))
    X[[3, 77]] = 0
    scores, ids = diffusion.nearest_neighbors(X, 60)
    write_shards(tmp_path / "vectors", X, [0, 50, 150])
    names = [f"item {i}" for i in range(150)]
    options = {"vectors": tmp_path / "vectors", "item_ids": names, "shards": 4}
    found = built(tmp_path, scores, ids, [0, 75, 150], **options)
    named = np.where(ids >= 0, np.array(names)[ids], "")
    expected = Reranker().fit_neighbors(scores, named, X, item_ids=names)
    np.testing.assert_array_equal(found.graph_.W.toarray(), expected.graph_.W.toarray())
    one, other = found.search(X[:20], k=10), expected.search(X[:20], k=10)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert (one[1] != other[1]).mean() < 0.05
    assert one[1][0, 0].startswith("item ")
    assert found.state().parameters == expected.state().parameters
    # It is an index like others.
    found.add(X[:2] + 0.01, ids=["one", "two"])
    expected.add(X[:2] + 0.01, ids=["one", "two"])
    np.testing.assert_array_equal(found.graph_.W.toarray(), expected.graph_.W.toarray())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("neighbors", ["auto", diffusion.IVF(nlist=9, nprobe=9)])
def test_from_vectors_alone(tmp_path, rng, metric, neighbors):
    """Lists that are exact, and the index that is made of them."""
    X = rng.standard_normal((12, 8))[rng.integers(0, 12, 200)] + 0.3 * rng.standard_normal((200, 8))
    X[3] = 0
    options = {"metric": metric, "neighbors": neighbors}
    vectors = write_shards(tmp_path / "vectors", X, [0, 80, 200])
    with open_executor("threads:2") as executor:
        reports = build_sharded(
            None,
            tmp_path / "index",
            Reranker(**options),
            executor=executor,
            vectors=vectors,
            shards=3,
        )
    assert {"search", "edges", "matrix"} <= {report.name for report in reports}
    assert not (tmp_path / "index.build").exists()
    found = diffusion.load(tmp_path / "index", verify=True)
    expected = Reranker(**options).fit(X)
    W, other = found.graph_.W.toarray(), expected.graph_.W.toarray()
    # Scores are equal but for rounding, and so are ranks but for near ties.
    assert (np.abs(W - other) > 1e-5).mean() < 0.01
    one, two = found.search(X[:20], k=10), expected.search(X[:20], k=10)
    assert (one[1] != two[1]).mean() < 0.05
    assert found.state().sizes["dimension"] == 8


def test_neither_lists_nor_vectors(tmp_path):
    with (
        open_executor("threads:1") as executor,
        pytest.raises(DiffusionError, match="lists: expected neighbour lists, or vectors"),
    ):
        build_sharded(None, tmp_path / "index", executor=executor)


class InterruptedTaskError(Exception):
    """Raised in the place of a task."""


@pytest.mark.parametrize("kind", ["context", "gaussian"])
def test_a_build_that_is_interrupted_again_and_again_goes_on(tmp_path, rng, monkeypatch, kind):
    """Each call is interrupted after a few tasks more; what was finished is not run again."""
    ranker = Reranker(**KINDS[kind])
    scores, ids = made_lists(rng, 60, 12, ranker.metric)
    run, drop, ran, left = stages.run_stage, stages.Stages.drop, [], [0]

    def count(label):
        if not left[0]:
            raise InterruptedTaskError
        left[0] -= 1
        ran.append(label)

    def counted(executor, name, task, arguments, **options):
        for each in arguments:
            if not Path(each[0]).exists():
                count(each[0])
                run(executor, name, task, [each], **options)
        return run(executor, name, task, arguments, **options)

    def dropped(self, *names):
        if not all(map(self.dropped, names)):
            count("drop")
        drop(self, *names)

    monkeypatch.setattr(stages, "run_stage", counted)
    monkeypatch.setattr(stages.Stages, "drop", dropped)
    files = [
        write_shards(tmp_path / "scores", scores, [0, 25, 60]),
        write_shards(tmp_path / "ids", ids, [0, 25, 60]),
    ]
    calls = 0
    while calls < 100:
        calls, left[0] = calls + 1, 5
        try:
            with open_executor("threads:1") as executor:
                build_sharded(tuple(files), tmp_path / "index", ranker, executor=executor, shards=2)
        except InterruptedTaskError:
            assert not (tmp_path / "index").exists()
        else:
            break
    assert calls > 8
    tasks = [label for label in ran if label != "drop"]
    assert len(tasks) == len(set(tasks))
    found = diffusion.load(tmp_path / "index", verify=True)
    assert not (tmp_path / "index.build").exists()
    check_equal(found, Reranker(**KINDS[kind]).fit_neighbors(scores, ids), rng)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["context", "cosine"])
def test_tasks_run_in_other_processes(tmp_path, rng, kind):
    scores, ids = made_lists(rng, 90, 12)
    ranker = Reranker(**KINDS[kind])
    found = built(tmp_path, scores, ids, [0, 30, 60, 90], ranker, where="processes:2")
    check_equal(found, Reranker(**KINDS[kind]).fit_neighbors(scores, ids), rng)


def test_results_of_other_settings_are_not_taken(tmp_path, rng, monkeypatch):
    scores, ids = made_lists(rng, 60, 12)

    def stop(*_):
        raise InterruptedTaskError

    with monkeypatch.context() as patch:
        patch.setattr(stages.Stages, "drop", stop)
        with pytest.raises(InterruptedTaskError):
            built(tmp_path, scores, ids, [0, 30, 60], Reranker(k=5))
    assert list((tmp_path / "index.build").iterdir())
    found = built(tmp_path, scores, ids, [0, 30, 60], Reranker(k=8))
    check_equal(found, Reranker(k=8).fit_neighbors(scores, ids), rng)


def test_scores_and_ids_in_one_folder(tmp_path, rng):
    scores, ids = made_lists(rng, 60, 12)
    folder = tmp_path / "lists"
    folder.mkdir()
    for p, (a, b) in enumerate([(0, 25), (25, 25), (25, 60)]):
        np.save(folder / f"ids_{p:04d}.npy", ids[a:b])
        np.save(folder / f"scores_{p:04d}.npy", scores[a:b])
    with open_executor("threads:1") as executor:
        build_sharded(folder, tmp_path / "index", executor=executor)
        check_equal(diffusion.load(tmp_path / "index"), Reranker().fit_neighbors(scores, ids), rng)
        np.save(folder / "ids_0002.npy", ids[25:, :3])
        with pytest.raises(DiffusionError, match=r"ids_0002\.npy: expected lists .*\(35, 3\)"):
            build_sharded(folder, tmp_path / "index", executor=executor)
        (folder / "ids_0001.npy").unlink()
        with pytest.raises(DiffusionError, match="no ids of number 1"):
            build_sharded(folder, tmp_path / "index", executor=executor)
        with pytest.raises(DiffusionError, match="nowhere"):
            build_sharded(tmp_path / "nowhere", tmp_path / "index", executor=executor)


@pytest.mark.parametrize("n", [1, 5])
def test_few_items_and_more_shards(tmp_path, rng, n):
    scores, ids = made_lists(rng, n, 3)
    found = built(tmp_path, scores, ids, [0, n], shards=6)
    check_equal(found, Reranker().fit_neighbors(scores, ids), rng)


def test_lists_of_any_form(tmp_path, rng):
    """Lists with the item itself, out of order, and of int64, are taken as fit_neighbors does."""
    scores, ids = made_lists(rng, 60, 12)
    ids = np.concatenate([np.arange(60)[:, None], ids], axis=1).astype(np.int64)
    scores = np.concatenate([np.full((60, 1), 0.3), scores], axis=1)
    found = built(tmp_path, scores, ids, [0, 20, 60])
    check_equal(found, Reranker().fit_neighbors(scores, ids), rng)


def test_bad_lists_are_named(tmp_path, rng):
    scores, ids = made_lists(rng, 60, 12)
    wrong = ids.copy()
    wrong[45, 2] = 60
    with pytest.raises(DiffusionError, match=r"ids from row 30 on: .*60.*15"):
        built(tmp_path, scores, wrong, [0, 30, 60])
    with pytest.raises(DiffusionError, match="scores: expected 12 for each item"):
        built(tmp_path, scores[:, :5], ids, [0, 30, 60])
    with pytest.raises(DiffusionError, match="transfer: a CustomTransfer"):
        built(tmp_path, scores, ids, [0, 60], Reranker(transfer=CustomTransfer(np.exp)))
    with pytest.raises(DiffusionError, match="shards"):
        built(tmp_path, scores, ids, [0, 30, 60], shards=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    files = tmp_path / "scores", tmp_path / "ids"
    with open_executor("threads:1") as executor, pytest.raises(DiffusionError, match="other"):
        build_sharded(files, tmp_path / "other", executor=executor)


@pytest.mark.parametrize(
    "place", ["diffusion.cluster.final.create", "diffusion.cluster.build.save"]
)
def test_a_disk_that_is_full_between_tasks_is_one_error(place, tmp_path, rng, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

    X = rng.standard_normal((60, 4))
    write_shards(tmp_path / "vectors", X, [0, 30, 60])
    arguments = {"vectors": tmp_path / "vectors", "shards": 2}
    with open_executor("threads:1") as executor:
        with monkeypatch.context() as patch:
            patch.setattr("diffusion.cluster.final.create", full)
            with pytest.raises(DiffusionError, match=r"index\.build.*No space left") as error:
                build_sharded(None, tmp_path / "index", executor=executor, **arguments)
        assert str(error.value).endswith("what is finished is kept")
        assert not (tmp_path / "index").exists()
        build_sharded(None, tmp_path / "index", executor=executor, **arguments)
    assert len(diffusion.load(tmp_path / "index", verify=True).ids_) == 60
