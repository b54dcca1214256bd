"""The page of a search: what it shows beside what the library answers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import diffusion
from diffusion import DiffusionError
from features.index.page import write_search_page
from features.index.photos import first_stage
from tests.support.pages import Page, pixels_of
from tests.support.photos import pattern, png

SHOWN = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a photo for each of the items, and two queries."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(80):
        (folder / f"{number:02}.png").write_bytes(png(pattern(24, 36, number)))
    for number in range(2):
        (folder / f"query{number}.png").write_bytes(png(pattern(300, 200, 100 + number)))
    return folder


@pytest.fixture(scope="module")
def collection():
    """A ranker of two noisy arcs, and queries at their ends: diffusion follows the arcs."""
    rng = np.random.default_rng(3)
    angle = np.tile(np.linspace(0, 2.4, 40), 2)
    side = np.repeat([0.0, 0.35], 40)
    X = np.stack([np.cos(angle), np.sin(angle), side], axis=1) + 0.02 * rng.random((80, 3))
    return diffusion.Reranker(k=6, affinity="cosine").fit(X), X[[0, 79]] + [0, 0, 0.15]


def written(folder, collection, path, name_of=lambda item: f"{item:02}.png", **how):
    ranker, vectors = collection
    queries = [str(folder / f"query{number}.png") for number in range(2)]
    path_of = lambda name: folder / name  # noqa: E731
    missing = write_search_page(path, ranker, queries, vectors, name_of, path_of, **how)
    return missing, Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(folder, collection, tmp_path_factory):
    missing, page = written(folder, collection, tmp_path_factory.mktemp("page") / "p.html")
    assert missing == []
    return page


def names_of(page, number, side):
    """The names of the results of a query, at the settings of the index."""
    data, _ = page.stored()
    return [data["items"][item] for item in data["queries"][number]["answers"][data["own"]][side]]


def test_the_results_are_those_of_the_library(page, folder, collection):
    ranker, queries = collection
    data, _ = page.stored()
    assert [query["name"] for query in data["queries"]] == [
        str(folder / f"query{number}.png") for number in range(2)
    ]
    for number, q in enumerate(queries):
        near = np.argsort(-(ranker.fitted().index.vectors @ q), kind="stable")[:SHOWN]
        assert names_of(page, number, "before") == [f"{item:02}.png" for item in near]
        found = ranker.search(q, SHOWN)[1]
        assert names_of(page, number, "after") == [f"{item:02}.png" for item in found]
        for item, told in data["queries"][number]["explanations"].items():
            expected = ranker.explain(q, int(data["items"][int(item)][:2]), n_chains=1)
            chain = [data["items"][step] for step in told["chains"][0]["ids"]]
            assert chain == [f"{step:02}.png" for step in expected.chains[0].ids]


def test_every_photo_is_in_the_page_once_and_small(page, folder):
    data, pictures = page.stored()
    assert len(set(data["items"])) == len(data["items"]) > SHOWN
    assert len(pictures) == 2 + len(data["items"])
    assert len(set(pictures)) == len(pictures)
    for name, picture in zip(["query0.png", "query1.png", *data["items"]], pictures, strict=True):
        assert len(picture) < 40_000
        pixels = pixels_of(picture)
        with Image.open(folder / name) as image:
            factor = min(1, 224 / max(image.size))
            assert pixels.shape[:2] == tuple(round(factor * side) for side in image.size[::-1])
            small = image.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
        assert np.abs(pixels.astype(int) - np.asarray(small)).mean() < 30


def test_missing_photos_are_named_and_have_no_picture(folder, collection, tmp_path):
    gone = int(collection[0].search(collection[1][0], 1)[1][0])
    names = {gone: "<b>&\udcff\n.png"}
    name_of = lambda item: names.get(item, f"{item:02}.png")  # noqa: E731
    missing, page = written(folder, collection, tmp_path / "p.html", name_of)
    assert missing == ["<b>&\udcff\n.png"]
    data, pictures = page.stored()
    assert pictures.index("") == 2 + data["items"].index(r"<b>&\udcff\n.png")
    assert pictures.count("") == 1
    assert not page.attributes("b")


def test_items_may_have_the_same_name(folder, collection, tmp_path):
    _, page = written(folder, collection, tmp_path / "p.html", lambda item: "00.png")
    data, pictures = page.stored()
    assert len(pictures) == 2 + len(data["items"])


def test_no_photo_at_all_is_an_error(folder, collection, tmp_path):
    with pytest.raises(DiffusionError, match=r"none of the \d+ photos .* such as a/\d+\.png"):
        written(folder, collection, tmp_path / "p.html", name_of=lambda item: f"a/{item}.png")
    assert not list(tmp_path.iterdir())


def test_what_no_chain_carried_and_what_the_first_stage_does_not_list(folder, collection, tmp_path):
    vectors = np.asarray(collection[0].fitted().index.vectors)
    nothing = diffusion.Columns(size=2, keep=1)
    ranker = diffusion.Reranker(k=20, query_k=1, solver=nothing).fit(vectors)
    _, page = written(folder, (ranker, collection[1]), tmp_path / "p.html")
    told = [each for q in page.stored()[0]["queries"] for each in q["explanations"].values()]
    assert any(not each["reached"] and not each["chains"] for each in told)

    class Short:
        def search(self, Q, k):
            assert k <= 12
            scores = Q @ vectors.T
            ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(scores, ids, axis=1), ids

    ranker = diffusion.Reranker(k=6, query_k=6, affinity="cosine").fit(vectors, index=Short())
    _, page = written(folder, (ranker, collection[1]), tmp_path / "p.html", k=12)
    data, _ = page.stored()
    assert any(0 in query["answers"][data["own"]]["was"] for query in data["queries"])
    told = [each for query in data["queries"] for each in query["explanations"].values()]
    assert any(each["first_rank"] is None for each in told)


def test_the_first_stage_of_a_small_collection_lists_every_copy():
    X = np.eye(4)[[0, 0, 1, 1, 2]] + 0.1
    ranker = diffusion.Reranker(k=2).fit(X)
    assert sorted(first_stage(ranker, X[:1], 5)[0].tolist()) == [0, 1, 2, 3, 4]


def test_a_small_collection(folder, tmp_path):
    X = np.eye(4)[[0, 0, 1, 1, 2]] + 0.1
    ranker = diffusion.Reranker(k=2, affinity="cosine").fit(X)
    missing, page = written(folder, (ranker, X[:2]), tmp_path / "p.html")
    assert missing == []
    for number in range(2):
        for side in ("before", "after"):
            assert sorted(names_of(page, number, side)) == [f"{item:02}.png" for item in range(5)]
