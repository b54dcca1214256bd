"""Queries of a large index: memory and reads do not grow with it, and what is read is checked."""

from __future__ import annotations

import gc
import shutil
import tracemalloc

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError
from diffusion.storage import contents
from tests.support.forgery import array_file, change_array

NAN = float("nan")
N = 400
KINDS = {
    "context": {"solver": "local"},
    "uncertified": {"solver": diffusion.Local(certify=0)},
    "cosine": {"affinity": "cosine", "solver": "local"},
    "ivf": {"solver": "local", "neighbors": diffusion.IVF(nlist=16, nprobe=2)},
}


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Let every index be as large as those that are not checked whole."""
    monkeypatch.setattr(contents, "SMALL", -1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return indexes of points on a circle, which are near those beside them."""
    angle = np.random.default_rng(0).permutation(N) * 2 * np.pi / N
    X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    folder = tmp_path_factory.mktemp("saved")
    for kind, parameters in KINDS.items():
        diffusion.Reranker(**{"k": 6, "query_k": 4, **parameters}).fit(X).save(folder / kind)
    return folder, X


@pytest.fixture
def index(saved, tmp_path):
    def copied(kind):
        shutil.copytree(saved[0] / kind, tmp_path / kind)
        return tmp_path / kind

    return copied


def everywhere(value):
    def change(array):
        array[:] = value

    return change


def alike(array):
    array[:] = array[0]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_a_small_index(saved, kind, monkeypatch):
    large = diffusion.load(saved[0] / kind)
    answers = large.search(saved[1][:9], k=20)
    assert not large.graph_.contents.checked
    monkeypatch.setattr(contents, "SMALL", 1 << 30)
    small = diffusion.load(saved[0] / kind)
    for own, other in zip(answers, small.search(saved[1][:9], k=20), strict=True):
        assert (own == other).all()
    assert small.graph_.contents.checked


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        *(("context", "graph_starts", everywhere(value)) for value in (-1, 2**62)),
        *(("context", "graph_stops", everywhere(value)) for value in (-1, 2**62)),
        *(("context", "graph_indices", everywhere(value)) for value in (-1, N)),
        *(("context", "graph_weights", everywhere(value)) for value in (NAN, -0.5, 1.5)),
        *(("context", "graph_order", change) for change in (everywhere(N), everywhere(-1), alike)),
        *(("context", "graph_position", change) for change in (everywhere(-1), everywhere(N))),
        ("context", "graph_position", alike),
        *(("context", "solver_roots", everywhere(value)) for value in (0, NAN, 1e9)),
        *(("context", "solver_largest", everywhere(value)) for value in (0, NAN)),
        *(("context", "affinity_ids", everywhere(value)) for value in (-2, N)),
        *(("context", "affinity_reach", everywhere(value)) for value in (NAN, np.inf)),
        *(("context", "affinity_local_scale", everywhere(value)) for value in (NAN, -np.inf)),
        *(("context", "affinity_starts", everywhere(value)) for value in (-1, 2**62)),
        *(("context", "affinity_stops", everywhere(value)) for value in (-1, 2**62)),
        ("context", "affinity_holders", everywhere(2**32 - 1)),
        ("context", "affinity_holders_high", everywhere(255)),
        ("context", "affinity_ranks", everywhere(1)),
        ("uncertified", "graph_order", alike),
        ("uncertified", "solver_roots", everywhere(NAN)),
        ("cosine", "graph_order", alike),
        ("ivf", "vectors", everywhere(NAN)),
        ("ivf", "ivf_ids", everywhere(N)),
        *(("ivf", "ivf_starts", everywhere(value)) for value in (-1, 2**62)),
        ("ivf", "ivf_centroids", everywhere(NAN)),
        ("ivf", "ivf_groups", everywhere(-1)),
    ],
)
def test_what_a_query_reads_is_checked(saved, index, kind, name, change):
    path = index(kind)
    change_array(path, name, change)
    ranker = diffusion.load(path, verify=True)
    said = name.removeprefix("graph_").removeprefix("affinity_").removeprefix("solver_")
    said = said.replace("starts", "st(art|op)s")
    said = {"holders_high": "holders", "order": "(order|position)"}.get(said, said)
    for _ in range(2):
        with pytest.raises(DiffusionError, match=rf"{kind}.*altered, {said}: expected"):
            ranker.search(saved[1][:1])


@pytest.mark.parametrize("place", [0, N - 1])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("graph_starts", 7),
        ("graph_stops", 7),
        ("graph_indices", 7),
        ("graph_weights", 0.9),
        ("graph_order", 7),
        ("graph_position", 7),
        ("graph_degrees", NAN),
        ("graph_components", 99),
        ("solver_roots", 1e-30),
        ("affinity_local_scale", 1e30),
        ("affinity_starts", 7),
        ("affinity_stops", 7),
        ("affinity_holders", 7 << 16),
        ("affinity_reach", -1e30),
    ],
)
def test_one_wrong_value_gives_an_error_or_an_answer(saved, index, name, value, place):
    path = index("uncertified")

    def change(array):
        array[place * len(array) // N] = value

    change_array(path, name, change)
    ranker = diffusion.load(path)
    said = ""
    try:
        scores, ids = ranker.search(saved[1][:6], k=20)
    except DiffusionError as error:
        said = str(error)
    if said:
        assert "altered" in said
        return
    assert ((ids >= -1) & (ids < N)).all()
    assert np.isfinite(scores[ids >= 0]).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    for row in ids:
        assert len(set(row[row >= 0])) == (row >= 0).sum()


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    """Return indexes of points on a circle, each with the list of its first item."""
    folder, made = tmp_path_factory.mktemp("rings"), {}
    steps = np.array([d for step in range(1, 26) for d in (-step, step)])
    for n in (2_000, 20_000):
        ids = (np.arange(n)[:, None] + steps) % n
        scores = np.broadcast_to(1 - 1e-3 * np.arange(len(steps), dtype=np.float32), ids.shape)
        ranker = diffusion.Reranker(solver=diffusion.Local(certify=0))
        ranker.fit_neighbors(scores, ids).save(folder / str(n))
        made[folder / str(n)] = scores[0], ids[0]
    return made


def test_a_query_reads_only_what_is_near(rings, tmp_path):
    # What is far from the query is made impossible, and nobody sees it.
    (original, hits), path = list(rings.items())[1], tmp_path / "index"
    shutil.copytree(original, path)
    n = len(np.load(array_file(path, "graph_order")))
    far = np.abs((np.arange(n) + n // 2) % n - n // 2) > n // 4
    far_places = far[np.load(array_file(path, "graph_order"))]
    expected = diffusion.load(path).rerank(*hits)
    for name in ("ids", "reach", "local_scale", "starts", "stops"):
        change_array(path, f"affinity_{name}", spoilt(far))
    for name in ("starts", "stops", "order"):
        change_array(path, f"graph_{name}", spoilt(far_places))
    change_array(path, "solver_roots", spoilt(far_places))
    for name in ("degrees", "components", "position"):
        change_array(path, f"graph_{name}", spoilt(far))
    ranker = diffusion.load(path)
    for one, other in zip(ranker.rerank(*hits), expected, strict=True):
        assert (one == other).all()
    with pytest.raises(DiffusionError, match="altered"):
        ranker.diagnose()


def spoilt(rows):
    """Return a change that puts impossible values into some rows."""

    def change(array):
        array[rows] = NAN if array.dtype.kind == "f" else -9

    return change


def test_memory_does_not_grow_with_the_index(rings):
    few, many = (peak_of_queries(path, *hits) for path, hits in rings.items())
    assert many < few + 30_000  # less than two bytes per item


def peak_of_queries(path, scores, ids):
    """Return the memory that opening and querying an index takes."""
    diffusion.load(path).rerank(scores, ids)  # loops are compiled before
    gc.collect()
    tracemalloc.start()
    try:
        ranker = diffusion.load(path)
        for _ in range(3):
            ranker.rerank(scores, ids)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
