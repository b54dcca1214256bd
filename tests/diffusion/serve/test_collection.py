"""The collection that is served: views, updates and refreshes, against fits of the same items."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import threading
import weakref

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError
from diffusion.index_state import save_state
from diffusion.serve import collection as served
from diffusion.serve.collection import (
    Collection,
    NotSavedError,
    ReadOnlyError,
    UnchangeableError,
    View,
)
from diffusion.serve.names import Names
from diffusion.solvers import CG
from diffusion.storage import fingerprint
from tests.support import collections as model

SETTINGS = {
    "k": 7,
    "solver": CG(tol=1e-9, max_iter=500),
    "affinity": diffusion.Context(scales=(2, 4, 7), size=9),
}


def made(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((4, model.DIMENSION))
    return centres[rng.integers(0, 4, n)] + 0.5 * rng.standard_normal((n, model.DIMENSION))


@pytest.fixture
def items() -> model.Collection:
    items = model.Collection(**SETTINGS)
    items.add([f"item {i}" for i in range(40)], made(40))
    return items


@pytest.fixture
def path(items, tmp_path):
    items.fitted().save(tmp_path / "index")
    return tmp_path / "index"


def assert_is(view: View, items: model.Collection) -> None:
    model.assert_same(view.ranker, items.fitted())


def answers(ranker: diffusion.Reranker) -> list:
    scores, ids = ranker.search(made(3, seed=9), 10)
    return [scores.tolist(), ids.tolist()]


# --- views ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parameters"),
    [
        ({}, {}),
        ({"query_k": 3}, {"query_k": 3}),
        ({"weight": 2.0}, {"score": diffusion.Fusion(weight=2.0)}),
        ({"cautious": True}, {"cautious": True}),
        (
            {"query_k": 2, "weight": 0.0, "cautious": True},
            {"query_k": 2, "score": diffusion.Fusion(weight=0.0), "cautious": True},
        ),
    ],
)
def test_a_view_answers_as_a_fit_with_its_parameters(path, given, parameters):
    view = Collection(path).view(**given)
    fitted = diffusion.Reranker(**SETTINGS, **parameters).fit(made(40), ids=view.ranker.ids_)
    assert answers(view.ranker) == answers(fitted)


def test_the_parameters_of_the_index_are_the_default_and_stay(tmp_path):
    own = {"query_k": 4, "score": diffusion.Fusion(weight=1.5), "cautious": True}
    ranker = diffusion.Reranker(**SETTINGS, **own).fit(made(40))
    ranker.save(tmp_path / "index")
    collection = Collection(tmp_path / "index")
    before = answers(collection.view().ranker)
    assert answers(collection.view(query_k=1, weight=0.1, cautious=False).ranker) != before
    assert answers(collection.view().ranker) == before == answers(ranker)
    assert collection.info()["weight"] == 1.5
    collection.view(query_k=1, cautious=False)
    assert collection.update(remove=[0]).ranker.get_params()["query_k"] == 4
    assert diffusion.load(tmp_path / "index").cautious


def test_views_of_the_same_parameters_are_the_same_and_few_are_kept(path):
    collection = Collection(path)
    assert collection.view(query_k=3) is collection.view(3, None, None)
    first = collection.view(query_k=1)
    for query_k in range(2, 200):
        collection.view(query_k=query_k)
    assert collection.view(query_k=1) is not first


@pytest.mark.parametrize(
    "given", [{"query_k": 0}, {"query_k": True}, {"weight": -1.0}, {"cautious": 1}]
)
def test_parameters_that_are_impossible_are_named(path, given):
    with pytest.raises(DiffusionError, match=f"^{next(iter(given))}: expected"):
        Collection(path).view(**given)


@pytest.mark.parametrize("given", [{"weight": 1.0}, {"cautious": True}])
def test_without_a_fusion_there_is_no_weight(tmp_path, given):
    diffusion.Reranker(affinity="cosine").fit(made(40)).save(tmp_path / "index")
    collection = Collection(tmp_path / "index")
    assert collection.info()["weight"] is None
    with pytest.raises(DiffusionError, match=f"^{next(iter(given))}: only a fusion"):
        collection.view(**given)


# --- updates --------------------------------------------------------------------------------------


def test_updates_through_two_processes_are_those_of_one_collection(path, items):
    """A state has one number, whoever saved it, and whoever opens it."""
    pair = [Collection(path), Collection(path)]
    rng = np.random.default_rng(3)
    assert [each.view().version for each in pair] == [1, 1]
    for step in range(8):
        gone = rng.choice(items.ids, 3, replace=False).tolist()
        new = [f"new {step} {i}" for i in range(rng.integers(0, 5))] + gone[: step % 3]
        vectors = made(len(new), seed=step)
        items.remove(gone)
        items.add(new, vectors)
        view = pair[step % 2].update(ids=new, vectors=vectors, remove=gone)
        assert view.version == step + 2
        assert pair[1 - step % 2].refresh() == (step % 2 == 0 or step > 0)
        for each in pair:
            assert each.view().version == step + 2
            assert_is(each.view(), items)
        assert [each.refresh() for each in pair] == [False, False]
    model.assert_same(diffusion.load(path, verify=True), items.fitted())


def test_an_item_is_replaced_at_once(path, items):
    vectors = made(2, seed=5)
    view = Collection(path).update(ids=["item 3", "x"], vectors=vectors, remove=["item 3"])
    items.remove(["item 3"])
    items.add(["item 3", "x"], vectors)
    assert_is(view, items)


@pytest.mark.parametrize("ids", [[f"item {i}" for i in range(12)], [f"new {i}" for i in range(12)]])
def test_all_items_are_replaced_at_once(path, items, ids):
    vectors = made(12, seed=5)
    view = Collection(path).update(ids=ids, vectors=vectors, remove=items.ids)
    fresh = model.Collection(**SETTINGS)
    fresh.add(ids, vectors)
    assert_is(view, fresh)
    model.assert_same(diffusion.load(path), fresh.fitted())


def test_items_without_ids_are_numbered(tmp_path):
    diffusion.Reranker(**SETTINGS).fit(made(20)).save(tmp_path / "index")
    collection = Collection(tmp_path / "index")
    view = collection.update(vectors=made(2, seed=1), remove=[19])
    assert view.ranker.ids_.tolist() == [*range(19), 20, 21]
    view = collection.update(vectors=made(9, seed=2), remove=view.ranker.ids_)
    assert view.ranker.ids_.tolist() == list(range(9))
    assert view.ranker.search(made(9, seed=2)[4], 1)[1].tolist() == [4]


NAN = [[float("nan")] * model.DIMENSION]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "vectors: expected"),
        ({"ids": ["x"]}, "vectors: expected"),
        ({"ids": ["x"], "remove": ["item 1"]}, "vectors: expected"),
        ({"vectors": made(1)}, "ids: "),
        ({"ids": ["x"], "vectors": made(2)}, "ids: expected 2 ids"),
        ({"ids": ["x", "x"], "vectors": made(2)}, "ids: .*'x'"),
        ({"ids": ["item 3"], "vectors": made(1)}, "ids: .*'item 3'"),
        ({"ids": [3], "vectors": made(1)}, "ids: .*str"),
        ({"ids": ["x"], "vectors": made(1)[:, :3]}, "vectors: .*dimension 5"),
        ({"ids": ["x"], "vectors": NAN}, "vectors: .*row 0"),
        ({"ids": ["x"], "vectors": NAN, "remove": ["item 1"]}, "vectors: .*row 0"),
        ({"ids": ["x"], "vectors": [["a"] * 5]}, "vectors: "),
        ({"remove": ["nobody"]}, "remove: .*'nobody'"),
        ({"remove": ["item 1", "item 1"]}, "remove: .*'item 1'"),
        ({"remove": [1]}, "remove: .*str"),
        ({"remove": [f"item {i}" for i in range(40)]}, "remove: .*at least one"),
        ({"remove": [f"item {i}" for i in range(40)], "vectors": made(3)}, "ids: "),
        (
            {"remove": [f"item {i}" for i in range(40)], "vectors": made(2), "ids": [1, 2]},
            "ids: .*str",
        ),
    ],
)
def test_what_is_impossible_changes_nothing(path, change, message):
    collection = Collection(path)
    view, manifest = collection.view(), (path / "manifest.json").read_bytes()
    with pytest.raises(DiffusionError, match=message) as error:
        collection.update(**change)
    assert type(error.value) is DiffusionError  # the caller is to blame
    assert collection.view() is view
    assert (path / "manifest.json").read_bytes() == manifest


def test_nothing_to_change_is_no_new_state(path):
    collection = Collection(path)
    view = collection.update(ids=[], vectors=np.empty((0, model.DIMENSION)), remove=[])
    assert view is collection.view()
    assert view.version == 1


def test_what_cannot_be_saved_has_not_happened(path, items):
    collection = Collection(path)
    before, view = sorted(path.rglob("*")), collection.view()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(NotSavedError, match="cannot be written"):
            collection.update(remove=["item 1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert collection.view() is view
    assert sorted(path.rglob("*")) == before
    items.remove(["item 1"])
    assert_is(collection.update(remove=["item 1"]), items)


def test_what_was_saved_is_used_even_if_it_cannot_be_opened(path, items, monkeypatch):
    def damaged(*_):
        raise DiffusionError("too many open files")

    collection = Collection(path)
    with monkeypatch.context() as patch:
        patch.setattr(served.storage, "read_manifest", damaged)
        view = collection.update(remove=["item 1"])
        with pytest.raises(DiffusionError, match="too many"):
            collection.refresh()
    items.remove(["item 1"])
    assert_is(view, items)
    assert collection.view() is view
    assert view.version == 2
    assert collection.refresh()  # from memory to disk
    assert collection.view().version == 2
    assert_is(collection.view(), items)


def test_no_update_is_lost_where_processes_update_at_the_same_time(path, items):
    """`flock` keeps collections of one process apart as those of several."""
    collections = [Collection(path) for _ in range(3)]
    added: dict[int, tuple[int, int]] = {}

    def add(number: int) -> None:
        for step in range(3):
            vectors = made(1, seed=10 * number + step)
            view = collections[number].update(ids=[f"{number} {step}"], vectors=vectors)
            added[view.version] = number, step

    threads = [threading.Thread(target=add, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == list(range(2, 11))
    for _, (number, step) in sorted(added.items()):
        items.add([f"{number} {step}"], made(1, seed=10 * number + step))
    for collection in collections:
        collection.refresh()
        assert collection.view().version == 10
        assert_is(collection.view(), items)


def test_searches_beside_updates_answer_from_the_state_that_they_name(path, items):
    collection = Collection(path)
    expected = {1: answers(collection.view().ranker)}
    seen: list[tuple[int, list]] = []
    done, answered = threading.Event(), threading.Semaphore(0)

    def search() -> None:
        while not done.is_set():
            view = collection.view()
            seen.append((view.version, answers(view.ranker)))
            answered.release()

    searching = threading.Thread(target=search)
    searching.start()
    for step in range(5):
        view = collection.update(remove=[f"item {step}"])
        expected[view.version] = answers(view.ranker)
        while seen[-1:] == [] or seen[-1][0] < view.version:
            answered.acquire()
    done.set()
    searching.join()
    items.remove([f"item {step}" for step in range(5)])
    assert_is(collection.view(), items)
    assert {version for version, _ in seen} == {1, 2, 3, 4, 5, 6}
    assert len({json.dumps(answer) for answer in expected.values()}) > 1
    for version, answer in seen:
        assert answer == expected[version]


def test_a_view_outlives_its_state(path):
    collection = Collection(path)
    view = collection.view()
    before = answers(view.ranker)
    collection.update(remove=["item 1"])
    shutil.rmtree(path)
    assert answers(view.ranker) == before


def test_a_state_is_let_go_with_its_last_view(path):
    collection = Collection(path)
    view = collection.view(query_k=3)
    ranker = weakref.ref(view.ranker)
    gc.disable()  # what waits for a collection of garbage would keep its files mapped
    try:
        collection.update(ids=["new"], vectors=made(1, seed=5))
        assert ranker() is not None
        del view
        assert ranker() is None
    finally:
        gc.enable()


def test_names_are_let_go_with_the_last_that_uses_them():
    names = Names(["one", "two"])
    assert names.containing("w").tolist() == [False, True]
    kept = weakref.ref(names)
    gc.disable()
    try:
        del names
        assert kept() is None
    finally:
        gc.enable()


# --- what others do -------------------------------------------------------------------------------


def test_what_the_command_saves_is_taken_up(path, items):
    collection = Collection(path, read_only=True)
    ranker = diffusion.load(path)
    ranker.remove(["item 7"]).save(path)
    assert collection.refresh()
    items.remove(["item 7"])
    assert_is(collection.view(), items)


def test_a_number_that_was_given_is_kept_by_those_who_do_not_count(path):
    """A later process goes on from it; saving again writes the same bytes."""
    collection = Collection(path)
    for item in (1, 2, 3):
        version = collection.update(remove=[f"item {item}"]).version
    assert version == 4
    contents = []
    for _ in range(2):
        diffusion.load(path).save(path)
        manifest = json.loads((path / "manifest.json").read_text())
        arrays = manifest.pop("arrays").values()
        contents.append([{**manifest, "checksum": None}, [entry["sha256"] for entry in arrays]])
    assert contents[0] == contents[1]
    assert Collection(path).view().version == 4
    assert collection.refresh()
    assert collection.view().version == 5
    assert collection.update(remove=["item 4"]).version == 6
    assert Collection(path).view().version == 6


def test_a_library_that_never_serves_counts_nothing(path):
    diffusion.load(path).remove(["item 1"]).save(path)
    assert "updates" not in json.loads((path / "manifest.json").read_text())


@pytest.mark.parametrize("number", [-3, 1.5, "7", None, True, [9]])
def test_a_forged_number_is_no_number(path, number):
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    checksum = fingerprint({**manifest, "updates": number})
    forged = {**manifest, "updates": number, "checksum": checksum}
    (path / "manifest.json").write_text(json.dumps(forged))
    collection = Collection(path)
    assert collection.view().version == 1
    assert collection.update(remove=["item 1"]).version == 2


def test_an_index_that_was_put_in_its_place_is_a_later_version(path, items, tmp_path):
    collection = Collection(path)
    collection.update(remove=["item 1"])
    collection.update(remove=["item 2"])
    items.fitted().save(tmp_path / "other")
    shutil.rmtree(path)
    with pytest.raises(DiffusionError, match=r"manifest\.json"):
        collection.refresh()
    assert collection.view().version == 3
    with pytest.raises(NotSavedError, match=r"manifest\.json"):
        collection.update(remove=["item 3"])
    assert not path.exists()
    (tmp_path / "other").rename(path)
    assert collection.refresh()
    assert collection.view().version == 4
    assert_is(collection.view(), items)


def test_the_same_state_is_not_opened_again(path):
    collection = Collection(path)
    view = collection.view()
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()
    manifest.write_bytes(content)
    assert not collection.refresh()
    assert collection.view() is view


def test_a_save_within_one_tick_of_the_clock_is_seen(path):
    collection, other = Collection(path), Collection(path)
    status = os.stat(path / "manifest.json")
    other.update(remove=["item 1"])
    os.utime(path / "manifest.json", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert collection.refresh()


def test_a_damaged_state_is_not_taken_up(path, items):
    collection = Collection(path)
    view, manifest = collection.view(), path / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content[:100])
    for _ in range(2):
        with pytest.raises(DiffusionError, match="truncated"):
            collection.refresh()
    assert collection.view() is view
    manifest.write_bytes(content)
    assert not collection.refresh()
    assert_is(collection.update(remove=[]), items)


# --- which indexes --------------------------------------------------------------------------------


def test_info_is_json_and_true(path):
    info = Collection(path).info()
    ranker = diffusion.load(path)
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    parameters = info.pop("parameters")
    assert (parameters["query_k"], parameters["cautious"], parameters["k"]) == (10, False, 7)
    assert info == {
        "version": 1,
        "items": 40,
        "dimension": model.DIMENSION,
        "metric": "cosine",
        "ids": "str",
        "edges": ranker.graph_.n_edges,
        "solver": "cg",
        "weight": 0.75,
        "photos": False,
        "read_only": False,
        "read_only_because": None,
    }


def test_a_collection_to_read_only(path):
    collection = Collection(path, read_only=True)
    info = collection.info()
    assert (info["read_only"], info["read_only_because"]) == (True, "this service is read-only")
    with pytest.raises(ReadOnlyError, match="read-only"):
        collection.update(remove=["item 1"])


@pytest.mark.parametrize(
    ("part", "photos", "how"),
    [
        ("images", True, "features index PHOTOS INDEX"),
        ("qdrant", False, "QdrantReranker.sync"),
        ("other", False, "its part 'other' is updated by what wrote it"),
    ],
)
def test_an_index_with_a_part_is_updated_by_what_wrote_it(path, part, photos, how):
    state = diffusion.load(path).state().with_part(part, {"folder": "x"}, {})
    save_state(path, state)
    collection = Collection(path)
    assert collection.info()["photos"] == photos
    assert collection.info()["read_only"]
    with pytest.raises(UnchangeableError, match=how):
        collection.update(remove=["item 1"])


@pytest.mark.parametrize("given", ["lists", "index"])
def test_an_index_without_vectors_is_for_hits_only(tmp_path, given):
    X = made(40).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    ranker = diffusion.Reranker(**SETTINGS)
    if given == "lists":
        ranker.fit_neighbors(*diffusion.neighbors.nearest_neighbors(X, 7))
    else:
        ranker.fit(X, index=Given(X))
    ranker.save(tmp_path / "index")
    collection = Collection(tmp_path / "index")
    hits = np.array([[1.0, 0.5]]), np.array([[3, 4]])
    found, expected = collection.view().ranker.rerank(*hits), ranker.rerank(*hits)
    assert found[1].tolist() == expected[1].tolist()
    with pytest.raises(UnchangeableError, match="without its vectors"):
        collection.update(remove=[1])


class Given:
    """An index of the caller's."""

    def __init__(self, X):
        self.X = X

    def search(self, Q, k):
        scores = Q @ self.X.T
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, ids, axis=1), ids


def test_what_cannot_be_served(tmp_path):
    with pytest.raises(DiffusionError, match=r"expected an index, found no manifest\.json"):
        Collection(tmp_path / "nothing")
    regional = diffusion.RegionalReranker(k=5)
    regional.fit(made(60), np.repeat(np.arange(20), 3))
    regional.save(tmp_path / "regional")
    with pytest.raises(DiffusionError, match="by their regions cannot be served"):
        Collection(tmp_path / "regional")
