from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError, storage
from diffusion.graph.graph import graph_layout
from diffusion.index_state import INDEX
from diffusion.storage import directory
from diffusion.storage.lock import lock_directory, unlock
from tests.support.forgery import change_manifest


@pytest.fixture
def ranker(vectors):
    return diffusion.Reranker(k=6, alpha=0.9, query_k=4, solver=diffusion.CG(tol=1e-8)).fit(vectors)


@pytest.fixture
def index(ranker, tmp_path):
    ranker.save(tmp_path / "index")
    return tmp_path / "index"


def files(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_round_trip(ranker, index, vectors):
    loaded = diffusion.load(index, verify=True)
    assert loaded.get_params() == ranker.get_params()
    assert (loaded.graph_.W.toarray() == ranker.graph_.W.toarray()).all()
    assert repr(loaded.graph_) == repr(ranker.graph_)
    for mine, theirs in zip(loaded.search(vectors), ranker.search(vectors), strict=True):
        assert (mine == theirs).all()
    for name in graph_layout(1, 1, 1):
        original, stored = getattr(ranker.graph_, name), getattr(loaded.graph_, name)
        assert original.dtype == stored.dtype
        assert (original == stored).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"neighbors": diffusion.IVF(nlist=3, nprobe=2)},
        {"neighbors": diffusion.HNSW(m=8)},
        {"metric": "euclidean", "affinity": "gaussian"},
        {"metric": "inner_product"},
    ],
    ids=["ivf", "hnsw", "euclidean", "inner_product"],
)
def test_round_trip_of_every_kind(vectors, tmp_path, parameters):
    ranker = diffusion.Reranker(k=6, **parameters).fit(vectors)
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    for mine, theirs in zip(loaded.search(vectors), ranker.search(vectors), strict=True):
        assert (mine == theirs).all()
    loaded.save(tmp_path / "again")
    again = diffusion.load(tmp_path / "again", verify=True)
    assert (again.search(vectors)[1] == ranker.search(vectors)[1]).all()


def test_round_trip_without_vectors(tmp_path):
    ranker = diffusion.Reranker(k=2).fit_neighbors([[0.9], [0.9], [0.1]], [[1], [0], [0]])
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    assert loaded.rerank([1.0], [0], k=3)[1].tolist() == [0, 1, -1]
    with pytest.raises(DiffusionError, match="holds no vectors"):
        loaded.search([[1.0]])


def test_loading_maps_and_reads_nothing(index, monkeypatch):
    loaded = diffusion.load(index)
    for array in (loaded.graph_.indices, loaded.graph_.weights, loaded.fitted().index.vectors):
        assert isinstance(array.base, np.memmap)
    # With every array's content gone but its size and header kept, loading still succeeds.
    for file in index.rglob("*.npy"):
        data = file.read_bytes()
        file.write_bytes(data[:128] + bytes(len(data) - 128))
    diffusion.load(index)
    with pytest.raises(DiffusionError, match="altered, its SHA-256"):
        diffusion.load(index, verify=True)


def test_a_loaded_index_cannot_write_to_disk(index):
    before = files(index)
    diffusion.load(index).graph_.weights[:] = 7
    assert files(index) == before


def test_saving_over_itself_and_over_another(ranker, index, vectors):
    loaded = diffusion.load(index)
    loaded.save(index)
    assert (
        diffusion.load(index, verify=True).search(vectors)[1] == loaded.search(vectors)[1]
    ).all()
    diffusion.Reranker(k=3).fit(vectors[:50]).save(index)
    assert diffusion.load(index, verify=True).n_items_ == 50
    assert len(list(index.glob("arrays-*"))) == 1
    # What was mapped before it was replaced still answers.
    assert (loaded.search(vectors)[1] == ranker.search(vectors)[1]).all()


@pytest.mark.parametrize("step", range(12))
def test_a_save_interrupted_anywhere_leaves_the_old_index_whole(
    ranker, index, vectors, monkeypatch, step
):
    before = ranker.search(vectors)[1]
    calls = iter(range(1000))

    def failing(function):
        def wrapper(*args, **kwargs):
            if next(calls) == step:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    with pytest.raises(KeyboardInterrupt):
        diffusion.Reranker(k=3).fit(vectors[:50]).save(index)
    monkeypatch.undo()
    left = diffusion.load(index, verify=True)
    if left.n_items_ == 120:
        assert (left.search(vectors)[1] == before).all()
    else:  # interrupted after the commit: the new one, whole
        assert step > 9
        assert left.n_items_ == 50
    # The next save clears what the interrupted one left.
    ranker.save(index)
    assert len(list(index.glob("arrays-*"))) == 1
    assert not list(index.glob(".*"))


def test_a_killed_process_leaves_the_old_index_whole(ranker, index, vectors):
    # What a kill leaves: a new folder, half of its arrays, and a manifest written aside.
    (index / "arrays-deadbeef").mkdir()
    (index / "arrays-deadbeef" / "vectors.npy").write_bytes(b"half")
    assert (
        diffusion.load(index, verify=True).search(vectors)[1] == ranker.search(vectors)[1]
    ).all()
    ranker.save(index)
    assert not (index / "arrays-deadbeef").exists()


def test_settings_changed_after_fitting_are_not_saved(ranker, tmp_path):
    ranker.set_params(k=99, alpha=0.1)
    ranker.save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    assert (loaded.k, loaded.alpha) == (6, 0.9)


def edit(manifest_path, change, *, sign=True):
    manifest = json.loads(manifest_path.read_text())
    change(manifest)
    if sign:
        rest = {key: value for key, value in manifest.items() if key != "checksum"}
        text = json.dumps(rest, sort_keys=True)
        manifest["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    manifest_path.write_text(json.dumps(manifest))


def test_refuses_a_truncated_index(index):
    file = next(index.rglob("vectors.npy"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DiffusionError, match=r"vectors\.npy: truncated or altered, expected"):
        diffusion.load(index)


def test_refuses_a_missing_array(index):
    next(index.rglob("graph_order.npy")).unlink()
    with pytest.raises(DiffusionError, match=r"graph_order\.npy: cannot be read"):
        diffusion.load(index)


def test_refuses_an_altered_header(index):
    file = next(index.rglob("graph_weights.npy"))
    file.write_bytes(file.read_bytes().replace(b"<f4", b"<i4"))
    with pytest.raises(DiffusionError, match="altered, expected <f4"):
        diffusion.load(index)
    whole = file.read_bytes()
    for damaged in (bytes(len(whole)), whole.replace(b"}", b"{", 1)):
        file.write_bytes(damaged)
        with pytest.raises(DiffusionError, match=r"altered, not a \.npy file"):
            diffusion.load(index)


def test_refuses_pickles(index):
    file = next(index.rglob("graph_weights.npy"))
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    edit(
        index / "manifest.json",
        lambda m: m["arrays"]["graph_weights"].update(bytes=file.stat().st_size),
    )
    with pytest.raises(DiffusionError, match=r"not a \.npy file"):
        diffusion.load(index)


def test_refuses_a_truncated_manifest(index):
    manifest = index / "manifest.json"
    manifest.write_text(manifest.read_text()[:-40])
    with pytest.raises(DiffusionError, match=r"manifest\.json: truncated or altered"):
        diffusion.load(index)


def test_refuses_an_altered_manifest(index):
    edit(index / "manifest.json", lambda m: m["parameters"].update(k=1), sign=False)
    with pytest.raises(DiffusionError, match="altered, its checksum does not match"):
        diffusion.load(index)


def test_refuses_a_newer_version(index):
    edit(index / "manifest.json", lambda m: m.update(version=4))
    with pytest.raises(DiffusionError, match="of version 4, this library reads version 1, 2 or 3"):
        diffusion.load(index)


def test_refuses_a_foreign_manifest(index):
    edit(index / "manifest.json", lambda m: m.update(format="npm package"))
    with pytest.raises(DiffusionError, match="foreign"):
        diffusion.load(index)


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/secret.npy", "arrays-x/../../s.npy"])
def test_refuses_files_outside_the_index(index, name):
    edit(index / "manifest.json", lambda m: m["arrays"]["vectors"].update(file=name))
    with pytest.raises(DiffusionError, match="altered, its arrays"):
        diffusion.load(index)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("parameters"),
        lambda m: m["parameters"].update(k="fifty", solver={"name": "magic"}),
        lambda m: m["arrays"].pop("graph_indices"),
        lambda m: m["arrays"].update(vectors={"file": 3}),
        lambda m: m.update(arrays=[]),
    ],
)
def test_refuses_a_manifest_that_describes_no_index(index, change):
    edit(index / "manifest.json", change)
    with pytest.raises(DiffusionError, match="altered"):
        diffusion.load(index)


def test_refuses_what_is_no_index(tmp_path):
    with pytest.raises(DiffusionError, match="expected an index"):
        diffusion.load(tmp_path)
    with pytest.raises(DiffusionError, match="expected an index"):
        diffusion.load(tmp_path / "nothing")


def test_never_touches_what_is_not_an_index(ranker, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DiffusionError, match="expected an index or an empty directory"):
        ranker.save(tmp_path)
    with pytest.raises(DiffusionError, match="expected a directory, this is a file"):
        ranker.save(tmp_path / "thesis.txt")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"format": "npm package"}')
    with pytest.raises(DiffusionError, match="expected an index or an empty directory"):
        ranker.save(tmp_path / "other")
    assert set(os.listdir(tmp_path)) == {"thesis.txt", "other"}


def test_a_save_mends_a_damaged_index(ranker, index, vectors):
    (index / "manifest.json").write_text("{")
    ranker.save(index)
    assert (diffusion.load(index).search(vectors)[1] == ranker.search(vectors)[1]).all()


def test_an_index_may_be_moved(index, tmp_path, ranker, vectors):
    shutil.move(index, tmp_path / "elsewhere")
    loaded = diffusion.load(tmp_path / "elsewhere")
    assert (loaded.search(vectors)[1] == ranker.search(vectors)[1]).all()


def test_replacing_writes_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")

    def write_half():
        with storage.replacing(target, "w") as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_replacing_writes_what_a_link_points_to(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with storage.replacing(tmp_path / "link.txt", "w") as file:
        file.write("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_replacing_writes_to_a_pipe_and_not_over_a_directory(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(
        target=lambda: got.append((tmp_path / "pipe").read_text()), daemon=True
    )
    reader.start()
    with storage.replacing(tmp_path / "pipe", "w") as file:
        file.write("through")
    reader.join(10)
    assert got == ["through"]
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError), storage.replacing(tmp_path / "folder"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_saves_and_loads_of_one_path_at_once(tmp_path):
    path = tmp_path / "index"
    storage.save(path, INDEX, {"who": 0}, {"a": np.zeros(1)})
    errors, running = [], threading.Event()
    running.set()

    def guarded(step):
        try:
            while running.is_set():
                step()
        except BaseException as error:
            errors.append(error)

    def saver(who):
        arrays = {name: np.full(10 * who, who) for name in "abc"}
        return lambda: storage.save(path, INDEX, {"who": who}, arrays)

    def read():
        stored = storage.load(path, INDEX, verify=True)
        assert all((array == stored.manifest["who"]).all() for array in stored.arrays.values())

    steps = (saver(1), saver(2), saver(3), read)
    threads = [threading.Thread(target=guarded, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    threads[0].join(1.5)
    running.clear()
    for thread in threads:
        thread.join()
    assert not errors
    storage.load(path, INDEX, verify=True)
    assert len(os.listdir(path)) == 2  # one folder and the manifest, no lock file


def test_load_follows_a_save_that_comes_between(tmp_path, monkeypatch):
    storage.save(tmp_path / "index", INDEX, {}, {"a": np.zeros(3)})
    open_arrays = directory._open_arrays

    def late(*arguments):
        monkeypatch.undo()
        storage.save(tmp_path / "index", INDEX, {}, {"a": np.ones(4)})
        return open_arrays(*arguments)

    monkeypatch.setattr(directory, "_open_arrays", late)
    assert storage.load(tmp_path / "index", INDEX).arrays["a"].tolist() == [1] * 4


def test_a_save_waits_for_another(tmp_path):
    path = tmp_path / "index"
    lock = lock_directory(path)
    other = threading.Thread(target=storage.save, args=(path, INDEX, {}, {"a": np.ones(2)}))
    other.start()
    other.join(0.2)
    assert other.is_alive()
    path.rmdir()  # as a failed first save does
    unlock(lock)
    other.join(10)
    assert storage.load(path, INDEX, verify=True).arrays["a"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["arrays-of-mine", "arrays-deadbeef", "arrays-DEADBEEF"])
def test_a_save_keeps_foreign_folders(ranker, index, tmp_path, name):
    for path in (index, tmp_path / "other"):
        (path / name).mkdir(parents=True)
        (path / name / "thesis.txt").write_text("precious")
    ranker.save(index)
    assert (index / name / "thesis.txt").read_text() == "precious"
    with pytest.raises(DiffusionError, match=f"found '{name}'"):
        ranker.save(tmp_path / "other")


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '["diffusion-rerank index"]', "{}", "{ // mine", "", "[" * 10**5]
)
@pytest.mark.parametrize("beside", [None, "app.js"])
def test_a_save_never_replaces_a_foreign_manifest(tmp_path, text, beside):
    (tmp_path / "manifest.json").write_text(text)
    if beside:
        (tmp_path / beside).write_text("mine")
    with pytest.raises(DiffusionError, match=r"found 'manifest\.json'"):
        storage.save(tmp_path, INDEX, {}, {"a": np.ones(2)})
    assert (tmp_path / "manifest.json").read_text() == text


def test_a_save_mends_a_cut_manifest_beside_other_files(index, ranker):
    (index / "notes.txt").write_text("mine")
    manifest = index / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    ranker.save(index)
    diffusion.load(index, verify=True)
    assert (index / "notes.txt").read_text() == "mine"


def test_a_save_clears_what_a_killed_first_save_left(tmp_path):
    (tmp_path / ".manifest.json.0123abcd.tmp").write_text('{"form')
    (tmp_path / "arrays-0123abcd").mkdir()
    (tmp_path / "arrays-0123abcd" / "a.npy").write_bytes(b"half")
    storage.save(tmp_path, INDEX, {}, {"a": np.ones(2)})
    assert len(os.listdir(tmp_path)) == 2
    storage.load(tmp_path, INDEX, verify=True)


def test_a_failed_first_save_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        storage.save(tmp_path / "a" / "index", INDEX, {}, {"a": np.array([{}])})
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="Object arrays"):
        storage.save(tmp_path / "mine", INDEX, {}, {"a": np.array([{}])})
    assert os.listdir(tmp_path) == ["mine"]


def test_refuses_a_deeply_nested_manifest(index):
    (index / "manifest.json").write_text("[" * 10**5)
    with pytest.raises(DiffusionError, match="truncated or altered"):
        diffusion.load(index)


@pytest.mark.parametrize("path", [3, None, 2.5])
def test_refuses_what_is_no_path(path):
    with pytest.raises(DiffusionError, match="path: expected"):
        storage.load(path, INDEX)
    with pytest.raises(DiffusionError, match="path: expected"):
        storage.save(path, INDEX, {}, {})


def test_numpy_scalars_are_stored_as_numbers(tmp_path):
    content = {"k": np.int64(3), "alpha": np.float32(0.5), "more": [np.bool_(True)]}
    storage.save(tmp_path, INDEX, content, {"a": np.ones(2)})
    manifest = storage.load(tmp_path, INDEX, verify=True).manifest
    assert (manifest["k"], manifest["alpha"], manifest["more"]) == (3, 0.5, [True])
    with pytest.raises(TypeError, match="no JSON value"):
        storage.save(tmp_path, INDEX, {"k": object()}, {})


# --- an index written by hand, as earlier versions wrote them -------------------------------------


def test_reads_an_index_that_an_earlier_version_wrote(tmp_path):
    # Two pairs of items, and an item without an edge: every file spelled out.
    arrays = {
        "graph_indptr": np.array([0, 1, 2, 3, 4, 4], np.int64),
        "graph_indices": np.array([1, 0, 3, 2], np.int32),
        "graph_weights": np.ones(4, np.float32),
        "graph_order": np.arange(5, dtype=np.int32),
        "graph_position": np.arange(5, dtype=np.int32),
        "graph_degrees": np.array([1.0, 1, 1, 1, 0]),
        "graph_components": np.array([0, 0, 1, 1, 2], np.int32),
        "affinity_scale": np.ones(1),
        "vectors": np.eye(5, dtype=np.float32)[[0, 0, 1, 1, 2]],
    }
    folder = tmp_path / "arrays-00c0ffee"
    folder.mkdir()
    entries = {}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        content = (folder / f"{name}.npy").read_bytes()
        entries[name] = {
            "file": f"arrays-00c0ffee/{name}.npy",
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    manifest = {
        "format": "diffusion-rerank index",
        "version": 1,
        "library": "0.0.0",
        "parameters": {
            "k": 1,
            "query_k": 2,
            "gamma": 3.0,
            "metric": "cosine",
            "affinity": "cosine",
            "score": None,
            "solver": {"name": "cg", "tol": 1e-6, "max_iter": 100},
            "transfer": {"name": "regularized_laplacian", "alpha": 0.5},
            "neighbors": {"name": "exact"},
        },
        "sizes": {"items": 5, "dimension": 5, "edges": 2, "components": 3, "isolated": 1},
        "arrays": entries,
    }
    text = json.dumps(manifest, sort_keys=True)
    manifest["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    loaded = diffusion.load(tmp_path, verify=True)
    assert (loaded.k, loaded.alpha, loaded.solver) == (1, 0.5, diffusion.CG(1e-6, 100))
    scores, ids = loaded.search([0.0, 1, 0, 0, 0], k=2)
    # An observation of ones on both items of a pair of weight 1: they keep what they have.
    assert ids.tolist() == [2, 3]
    np.testing.assert_allclose(scores, scores[0])
    loaded.save(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["version"] == 3


def test_an_index_from_before_local_scaling_answers_as_it_did(vectors, tmp_path):
    ranker = diffusion.Reranker(k=10, affinity=diffusion.Context(scaling=0)).fit(vectors[20:])
    ranker.save(tmp_path / "old")

    def before(manifest):
        del manifest["parameters"]["affinity"]["scaling"]
        manifest["version"] = 2

    change_manifest(tmp_path / "old", before)
    loaded = diffusion.load(tmp_path / "old", verify=True)
    assert loaded.affinity == diffusion.Context(scaling=0)
    expected = ranker.search(vectors[:20], 10)
    np.testing.assert_array_equal(loaded.search(vectors[:20], 10)[0], expected[0])
    loaded.add(vectors[:5])
    loaded.save(tmp_path / "new")
    again = diffusion.load(tmp_path / "new", verify=True)
    assert again.affinity == diffusion.Context(scaling=0)
    fresh = diffusion.Reranker(k=10, affinity=again.affinity)
    fresh.fit(np.concatenate([vectors[20:], vectors[:5]]))
    np.testing.assert_array_equal(
        again.search(vectors[:20], 10)[1], fresh.search(vectors[:20], 10)[1]
    )


# --- writing piece by piece -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 2), (0, 2), (0,), ()])
def test_created_arrays_are_written_in_place(tmp_path, shape):
    with storage.writing(tmp_path / "out", INDEX) as new:
        array = new.create("a", np.float32, shape)
        array[...] = 7
        new.add("b", np.arange(3))
        assert not (tmp_path / "out" / "manifest.json").exists()
        new.commit({"kind": "test"})
    stored = storage.load(tmp_path / "out", INDEX, verify=True)
    assert stored.manifest["kind"] == "test"
    assert (stored.arrays["a"] == np.full(shape, 7, np.float32)).all()
    assert (stored.arrays["a"].shape, stored.arrays["a"].dtype) == (shape, np.float32)
    assert stored.arrays["b"].tolist() == [0, 1, 2]


def test_what_is_not_committed_is_not_kept(tmp_path):
    def interrupted():
        with storage.writing(tmp_path / "out", INDEX) as new:
            new.add("a", np.zeros(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []
    storage.save(tmp_path / "out", INDEX, {"who": 1}, {"a": np.ones(2)})
    before = files(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with storage.writing(tmp_path / "out", INDEX) as new:
        new.add("a", np.zeros(3))
    assert files(tmp_path) == before


def test_a_full_disk_is_found_when_an_array_is_created(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)

    def write():
        with (
            storage.claimed(tmp_path / "out", INDEX),
            storage.writing(tmp_path / "out", INDEX) as n,
        ):
            n.create("a", np.float32, (1000, 1000))

    with pytest.raises(DiffusionError, match=r"out: cannot be written \(No space left"):
        write()
    assert os.listdir(tmp_path) == []


# --- claims ---------------------------------------------------------------------------------------

PASS = storage.Format("test pass", 3, "a pass", frozenset({"page.html", "partial"}))


def test_a_claimed_directory_is_recognised_after_an_interruption(tmp_path):
    out = tmp_path / "out"

    def work(finish):
        with storage.claimed(out, PASS):
            shards = storage.Shards(out / "partial")
            shards.write("0" * 64, {"a": np.ones(3)})
            (out / ".page.html.01234567.tmp").write_text("half")
            if not finish:
                raise KeyboardInterrupt
            with storage.writing(out, PASS) as new:  # the lock is this thread's already
                new.add("a", np.ones(3))
                new.commit({})
            shards.discard()

    with pytest.raises(KeyboardInterrupt):
        work(finish=False)
    assert (out / "partial" / f"{'0' * 64}.npz").exists()
    with pytest.raises(DiffusionError, match="expected a pass, this one is not finished"):
        storage.load(out, PASS)
    storage.check_target(out, PASS)
    with pytest.raises(DiffusionError, match=r"expected an index or an empty .* found 'manifest"):
        storage.check_target(out, INDEX)
    work(finish=True)
    assert storage.load(out, PASS).arrays["a"].tolist() == [1, 1, 1]
    assert len(os.listdir(out)) == 2
    storage.check_target(out, PASS, accepts=lambda manifest: manifest["version"] == 3)
    with pytest.raises(DiffusionError, match=r"expected a pass or an empty .* found 'manifest"):
        storage.check_target(out, PASS, accepts=lambda manifest: "objects" in manifest)


def test_a_claim_that_nothing_came_of_leaves_nothing(tmp_path):
    def refused(path):
        with storage.claimed(path, PASS):
            raise ValueError("refused")

    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "a" / "b", tmp_path / "empty"):
        with pytest.raises(ValueError, match="refused"):
            refused(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]


def test_a_claim_takes_nothing_by_its_name_alone(tmp_path):
    for name in ("page.html", "partial", ".page.html.tmp", "manifest.json"):
        out = tmp_path / name.strip(".")
        out.mkdir()
        (out / name).write_text("mine")
        with (
            pytest.raises(DiffusionError, match=f"or an empty directory, found '{name}'"),
            storage.claimed(out, PASS),
        ):
            pass
        assert (out / name).read_text() == "mine"
    (tmp_path / "file").touch()
    with (
        pytest.raises(DiffusionError, match="expected a directory, this is a file"),
        storage.claimed(tmp_path / "file", PASS),
    ):
        pass


def test_a_claim_does_not_wait(tmp_path):
    def claim():
        try:
            with storage.claimed(tmp_path, PASS):
                pass
        except DiffusionError as error:
            got.append(str(error))

    got = []
    with storage.claimed(tmp_path, PASS):
        other = threading.Thread(target=claim)
        other.start()
        other.join()
    claim()
    assert got == [f"{tmp_path}: another process or thread is writing here"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_claim_of_what_cannot_be_written_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(DiffusionError, match=r"out: cannot be written \(Permission denied"),
        storage.claimed(tmp_path / "out", PASS),
    ):
        pass


def test_remove_deletes_what_is_ours(tmp_path):
    out = tmp_path / "out"
    storage.remove(out, PASS)
    storage.save(out, PASS, {}, {"a": np.ones(3)})
    (out / "page.html").touch()
    (out / "partial").mkdir()
    storage.remove(out, INDEX)
    assert len(os.listdir(out)) == 4
    (out / "notes.txt").write_text("mine")
    storage.remove(out, PASS)
    assert os.listdir(out) == ["notes.txt"]
    storage.remove(out, PASS)
    assert os.listdir(out) == ["notes.txt"]
