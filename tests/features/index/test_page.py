"""The page of a search: what it shows beside what the library answers."""

from __future__ import annotations

import re

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError
from features.index.page import write_search_page
from tests.support.pages import Page
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


def moves(page):
    """The moves that the page tells, by list."""
    found = []
    for text in page.texts:
        text = text.strip()
        if text in ("Before: the first stage", "After diffusion"):
            found.append([])
        elif found and re.fullmatch(r"(new: )?[\d–]+( → [\d–]+)?", text):
            found[-1].append(text)
    return found


def test_the_moves_are_those_of_the_two_rankings(page, collection):
    ranker, queries = collection
    told = moves(page)
    assert len(told) == 4
    kinds = set()
    for number, q in enumerate(queries):
        vectors = ranker.fitted().index.vectors
        first = np.argsort(-(vectors @ q), kind="stable").tolist()
        last = ranker.search(q, 80)[1].tolist()
        before = []
        for rank, item in enumerate(first[:SHOWN], 1):
            other = last.index(item) + 1
            before.append(f"{rank}" if other == rank else f"{rank} → {other}")
        after = []
        for rank, item in enumerate(last[:SHOWN], 1):
            other = first.index(item) + 1
            new = "new: " if other > SHOWN else ""
            after.append(f"{rank}" if other == rank else f"{new}{other} → {rank}")
            kinds.add("new" if new else "up" if other > rank else "down")
        assert told[2 * number : 2 * number + 2] == [before, after]
    assert kinds == {"new", "up", "down"}
    classes = [element.get("class") for element in page.attributes("li")]
    news = sum("new" in move for moved in told for move in moved)
    assert classes.count("new") == news == classes.count("gone") > 0
    text = " ".join(" ".join(page.texts).split())
    for after in told[1::2]:
        count = sum(move.startswith("new") for move in after)
        assert f"Of the first 12 results, {count} are new" in text


def test_each_new_photo_has_its_chain(page, collection, folder):
    ranker, queries = collection
    # In the order of the page: the photos after the queries are the items, by first use.
    shown = [use["href"] for use in page.attributes("use")]
    labels = [svg.get("aria-label") for svg in page.attributes("svg") if "aria-label" in svg]
    key_of = dict(zip(labels, shown, strict=True))
    at = 0
    for number, q in enumerate(queries):
        at += 1 + 2 * SHOWN  # the query and both lists
        for rank, item in enumerate(ranker.search(q, SHOWN)[1].tolist(), 1):
            explanation = ranker.explain(q, item, n_chains=1)
            if explanation.first_rank <= SHOWN:
                continue
            photos = [f"{i:02}.png" for i in explanation.chains[0].ids]
            assert labels[at : at + 1 + len(photos)] == [
                str(folder / f"query{number}.png"),
                *photos,
            ]
            assert shown[at] == f"#query{number}"
            assert shown[at + len(photos)] == key_of[f"{item:02}.png"]
            assert f"Place {rank}" in page.texts
            at += 1 + len(photos)
    assert at == len(shown)


def test_every_photo_is_in_the_page_once_and_small(page):
    images = page.attributes("image")
    ids = [image["id"] for image in images]
    used = {use["href"][1:] for use in page.attributes("use")}
    assert len(ids) == len(set(ids))
    assert set(ids) == used
    assert {"query0", "query1"} <= used
    for image in images:
        assert image["href"].startswith("data:image/jpeg;base64,")
        assert len(image["href"]) < 40_000


def test_the_page_needs_nothing_from_elsewhere_and_reads_in_the_dark(page):
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "img", "object"}
    assert "url(" not in page.style
    assert page.style.count("prefers-color-scheme: dark") == 2
    assert "@media (max-width" in page.style


def test_names_are_escaped_and_missing_photos_have_a_frame(folder, collection, tmp_path):
    gone = int(collection[0].search(collection[1][0], 1)[1][0])
    names = {gone: "<b>&\udcff\n.png"}
    name_of = lambda item: names.get(item, f"{item:02}.png")  # noqa: E731
    missing, page = written(folder, collection, tmp_path / "p.html", name_of)
    assert missing == ["<b>&\udcff\n.png"]
    assert r"<b>&\udcff\n.png" in page.texts
    assert not page.attributes("b") or all("aria-hidden" in b for b in page.attributes("b"))
    assert page.texts.count("no photo") == 1


def test_no_photo_at_all_is_an_error(folder, collection, tmp_path):
    with pytest.raises(DiffusionError, match=r"there is no such photo, nor any of the \d+ others"):
        written(folder, collection, tmp_path / "p.html", name_of=lambda item: f"a/{item}.png")
    assert not list(tmp_path.iterdir())


def test_photos_that_no_chain_carried_or_that_the_first_stage_does_not_list(
    folder, collection, tmp_path
):
    vectors = np.asarray(collection[0].fitted().index.vectors)
    nothing = diffusion.Columns(size=2, keep=1)
    ranker = diffusion.Reranker(k=20, query_k=1, solver=nothing).fit(vectors)
    _, page = written(folder, (ranker, collection[1]), tmp_path / "p.html")
    assert "Diffusion does not reach it: its neighbourhood is similar to the query's." in page.texts

    class Short:
        def search(self, Q, k):
            assert k <= 12
            scores = Q @ vectors.T
            ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(scores, ids, axis=1), ids

    ranker = diffusion.Reranker(k=6, query_k=6, affinity="cosine").fit(vectors, index=Short())
    _, page = written(folder, (ranker, collection[1]), tmp_path / "p.html", k=12)
    assert any(move.startswith("new: – → ") for told in moves(page) for move in told)
    assert any("not listed by the first stage" in text for text in page.texts)


def test_a_small_collection(folder, tmp_path):
    X = np.eye(4)[[0, 0, 1, 1, 2]] + 0.1
    ranker = diffusion.Reranker(k=2, affinity="cosine").fit(X)
    missing, page = written(folder, (ranker, X[:2]), tmp_path / "p.html")
    assert missing == []
    assert [len(told) for told in moves(page)] == [5, 5, 5, 5]
    assert "How the new photos were reached" not in page.texts
