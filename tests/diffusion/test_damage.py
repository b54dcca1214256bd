"""Damaged and forged indexes: one clear error, or an answer; never a crash and never a hang."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import threading
import tracemalloc
import warnings

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError
from diffusion.storage import contents
from tests.support.forgery import array_file, change_array, change_manifest, sign
from tests.support.graphs import scattered

NAN = float("nan")

# A few items in two components, and one without an edge.
KINDS = {
    "context": {},
    "columns": {"solver": diffusion.Columns(size=20, keep=7)},
    "hybrid": {"solver": diffusion.Hybrid(rank=3, min_nodes=0)},
    "local": {"solver": "local"},
    "spectral": {"solver": diffusion.Spectral(rank=3, dense_nodes=4)},
    "sparse": {
        "solver": diffusion.Spectral(rank=3, dense_nodes=4, per_component=True, sparsity=0.3)
    },
    "gaussian": {"affinity": "gaussian", "metric": "euclidean"},
    "ivf": {"neighbors": diffusion.IVF(nlist=3, nprobe=2)},
    "hnsw": {"neighbors": diffusion.HNSW(m=2)},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return indexes of every kind, each with the queries that were asked of it."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 12))
    X = centres[np.repeat([0, 1, 2], [40, 40, 3])] + 0.6 * rng.standard_normal((83, 12))
    folder = tmp_path_factory.mktemp("saved")
    for kind, parameters in KINDS.items():
        diffusion.Reranker(**{"k": 6, "query_k": 4, **parameters}).fit(X).save(folder / kind)
    regional = diffusion.RegionalReranker(k=6, query_k=4)
    regional.fit(X, np.arange(83) // 2).save(folder / "regional")
    return folder, X[:5]


@pytest.fixture
def index(saved, tmp_path, request):
    def copied(kind):
        shutil.copytree(saved[0] / kind, tmp_path / kind)
        return tmp_path / kind

    return copied


def first(value):
    def change(array):
        array.reshape(-1)[0] = value

    return change


def last(value):
    def change(array):
        array.reshape(-1)[-1] = value

    return change


def middle(value):
    def change(array):
        array[len(array) // 2] = value

    return change


def swapped(array):
    array[[3, 4]] = array[[4, 3]]


def wide(value):
    def change(array):
        array[:] = value

    return change


FORGED = [
    *(("context", "graph_starts", change) for change in (first(-1), last(-(2**62)), middle(-5))),
    *(("context", "graph_stops", change) for change in (first(-1), last(10**6), middle(-5))),
    *(("context", "graph_stops", change) for change in (first(0), last(2**62))),
    *(("context", "graph_indices", change) for change in (first(83), middle(-1), last(2**31 - 1))),
    *(
        ("context", "graph_weights", change)
        for change in (first(NAN), last(-0.5), middle(1.5), first(np.inf))
    ),
    *(("context", "graph_order", change) for change in (first(83), last(-1))),
    *(("context", "graph_position", change) for change in (swapped, first(-1), last(10**9))),
    *(("context", "graph_degrees", change) for change in (first(NAN), last(-1))),
    *(("context", "graph_components", change) for change in (first(-1), last(83))),
    *(("context", "affinity_ids", change) for change in (wide(83), wide(-2))),
    *(("context", "affinity_reach", change) for change in (wide(NAN), wide(np.inf))),
    *(("context", "affinity_local_scale", change) for change in (first(NAN), last(-np.inf))),
    *(("context", "affinity_starts", change) for change in (first(-1), last(-(2**62)))),
    *(("context", "affinity_stops", change) for change in (first(-1), middle(10**9), last(0))),
    *(("context", "affinity_holders", change) for change in (first(2**32 - 1), last(83 << 16))),
    *(("context", "vectors", change) for change in (first(NAN), last(np.inf), middle(3))),
    *(("gaussian", "vectors", change) for change in (first(NAN), last(-np.inf))),
    ("gaussian", "center", first(NAN)),
    *(("columns", "solver_ids", change) for change in (wide(83), wide(-2))),
    ("columns", "solver_values", wide(NAN)),
    ("columns", "solver_residuals", wide(-1)),
    *(("hybrid", "solver_nodes", change) for change in (first(-1), last(83))),
    ("hybrid", "solver_vectors", last(NAN)),
    ("hybrid", "solver_eigenvalues", first(2)),
    *(("local", "solver_roots", change) for change in (first(0), last(NAN), middle(1e9))),
    ("local", "solver_largest", first(0)),
    *(("local", "graph_indices", change) for change in (wide(-1), wide(83))),
    *(("local", "graph_weights", change) for change in (wide(NAN), wide(-0.5), wide(1.5))),
    *(("local", f"graph_{name}", middle(-5)) for name in ("starts", "stops")),
    *(("spectral", "solver_nodes", change) for change in (first(-1), last(83))),
    *(("spectral", "solver_shapes", change) for change in (first(79), last(-1), first(2**62))),
    ("spectral", "solver_eigenvalues", last(NAN)),
    ("spectral", "solver_residuals", last(-1)),
    *(("spectral", "solver_small_indptr", change) for change in (first(1), middle(99), last(-1))),
    *(("spectral", "solver_small_indices", change) for change in (first(-1), last(83))),
    ("spectral", "solver_small_values", first(np.inf)),
    ("spectral", "solver_basis", first(NAN)),
    *(("sparse", "solver_basis_indptr", change) for change in (first(1), middle(-9), last(10**9))),
    *(("sparse", "solver_basis_indices", change) for change in (first(-1), last(3))),
    ("sparse", "solver_shapes", first(39)),
    *(("ivf", "ivf_ids", change) for change in (first(-1), last(83))),
    *(("ivf", "ivf_starts", change) for change in (first(-1), last(-5))),
    *(("ivf", "ivf_stops", change) for change in (first(0), middle(99), last(-1))),
    *(("ivf", "ivf_groups", change) for change in (first(-1), last(99))),
    ("ivf", "ivf_centroids", first(NAN)),
    ("ivf", "vectors", first(NAN)),
    *(("hnsw", "hnsw_levels", change) for change in (first(0), last(99))),
    *(("hnsw", "hnsw_links", change) for change in (first(-2), last(83))),
    ("hnsw", "hnsw_entry", first(-1)),
    *(("regional", "region_images", change) for change in (first(-1), last(42))),
    ("regional", "region_weights", first(NAN)),
    *(("regional", "image_numbers", change) for change in (first(-1), middle(3))),
]


def opened(index, **options):
    kind = diffusion.RegionalReranker if index.name == "regional" else diffusion
    return kind.load(index, **options)


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    FORGED,
    ids=[f"{number}-{kind}-{name}" for number, (kind, name, _) in enumerate(FORGED)],
)
def test_forged_arrays_are_found_on_first_use(saved, index, kind, name, change):
    path = index(kind)
    change_array(path, name, change)
    ranker = opened(path, verify=True)  # its checksums fit, and nothing else is read
    said = name.removeprefix("graph_").removeprefix("affinity_").removeprefix("solver_")
    for _ in range(2):
        with pytest.raises(DiffusionError, match=rf"{kind}.*altered, {said}: expected"):
            ranker.search(saved[1])


@pytest.mark.parametrize("change", [first(255), last(1)])
def test_forged_upper_bits_of_items_are_found(saved, index, change):
    path = index("context")
    change_array(path, "affinity_holders_high", change)
    with pytest.raises(DiffusionError, match="altered, holders: expected items from 0 to 82"):
        opened(path).search(saved[1])


@pytest.mark.parametrize("kind", [*KINDS, "regional"])
def test_whole_indexes_answer(saved, index, kind):
    one, two = opened(index(kind)), opened(saved[0] / kind)
    for own, other in zip(one.search(saved[1]), two.search(saved[1]), strict=True):
        assert (own == other).all()


# The arrays of rows that may have gaps: where they start and stop, and what they hold.
ROWS = [
    ("graph_starts", "graph_stops", "graph_indices", "graph_weights"),
    ("affinity_starts", "affinity_stops", "affinity_holders", "affinity_holders_high"),
    ("ivf_starts", "ivf_stops", "ivf_ids", "vectors"),
]


def scatter(path):
    """Scatter the rows of an index, with impossible values between them."""
    stored = json.loads((path / "manifest.json").read_text())["arrays"]
    families = [names for names in ROWS if set(names) <= set(stored)]
    for names in families:
        moved = scattered(*(np.load(array_file(path, name)) for name in names))
        for name, array in zip(names, moved, strict=True):
            change_array(path, name, lambda _, array=array: array)
    return families


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_gaps_answer_alike(saved, index, kind):
    path = index(kind)
    assert scatter(path)
    one, two = opened(path, verify=True), opened(saved[0] / kind)
    for own, other in zip(one.search(saved[1]), two.search(saved[1]), strict=True):
        assert (own == other).all()
    assert (one.graph_.W != two.graph_.W).nnz == 0
    again = path.with_name("again")
    one.save(again)
    for own, other in zip(opened(again).search(saved[1]), two.search(saved[1]), strict=True):
        assert (own == other).all()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("context", "graph_indices", 83),
        ("context", "graph_weights", NAN),
        ("context", "affinity_holders", 83 << 16),
        ("ivf", "ivf_ids", -1),
        ("ivf", "vectors", np.inf),
    ],
)
@pytest.mark.parametrize("block", [7, 1 << 18])
def test_values_in_rows_with_gaps_are_checked(saved, index, kind, name, value, block, monkeypatch):
    monkeypatch.setattr(contents, "_BLOCK", block)
    path = index(kind)
    (starts, stops, *_) = next(names for names in scatter(path) if name in names)
    starts, stops = (np.load(array_file(path, ends)) for ends in (starts, stops))
    opened(path).search(saved[1])
    row = int(np.flatnonzero(stops > starts)[-1])

    def change(array):
        array[stops[row] - 1] = value

    change_array(path, name, change)
    with pytest.raises(DiffusionError, match=rf"altered, (?:{name}|{name.partition('_')[2]}):"):
        opened(path).search(saved[1])


@pytest.mark.parametrize("kind", ["context", "ivf", "local"])
def test_offsets_of_an_earlier_version_are_read(saved, index, kind):
    path = index(kind)
    old = {"graph_": "graph_indptr", "affinity_": "affinity_indptr", "ivf_": "ivf_offsets"}
    for prefix, name in old.items():
        entries = json.loads((path / "manifest.json").read_text())["arrays"]
        if f"{prefix}stops" not in entries:
            continue
        change_array(path, f"{prefix}stops", lambda stops: np.append(0, stops))

        def rename(manifest, prefix=prefix, name=name):
            arrays = manifest["arrays"]
            arrays[name] = arrays.pop(f"{prefix}stops")
            del arrays[f"{prefix}starts"]

        change_manifest(path, rename)
    one, two = opened(path, verify=True), opened(saved[0] / kind)
    for own, other in zip(one.search(saved[1]), two.search(saved[1]), strict=True):
        assert (own == other).all()


def test_a_link_must_stay_on_its_level(saved, index):
    # A vector with links above the lowest level, which are made to lead to one that has none there.
    path = index("hnsw")
    levels = np.load(array_file(path, "hnsw_levels"))
    assert levels.max() > 1
    high, low = int(np.argmax(levels > 1)), int(np.argmax(levels == 1))
    place = int(np.cumsum(np.where(levels > 1, 4 + 2 * (levels - 1), 4))[high]) - 2

    def change(links):
        links[place] = low

    change_array(path, "hnsw_links", change)
    with pytest.raises(DiffusionError, match="hnsw_links: expected"):
        opened(path).search(saved[1])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("context", "graph_weights"),
        ("context", "affinity_holders"),
        ("columns", "solver_ids"),
        ("hybrid", "solver_vectors"),
        ("local", "solver_roots"),
        ("spectral", "solver_basis"),
        ("gaussian", "affinity_scale"),
        ("ivf", "ivf_centroids"),
        ("hnsw", "hnsw_levels"),
        ("regional", "region_weights"),
    ],
)
@pytest.mark.parametrize(
    "change",
    [lambda a: a[1:], lambda a: a.astype(np.int16), lambda a: a[None], lambda a: a[:0]],
    ids=["shorter", "of another type", "of more dimensions", "empty"],
)
def test_forged_shapes_and_types_are_found(saved, index, kind, name, change):
    path = index(kind)
    change_array(path, name, change)
    with pytest.raises(DiffusionError, match=f"{kind}.*altered"):
        opened(path).search(saved[1])


@pytest.mark.parametrize("value", [NAN, 0.0, -1.0, np.inf])
def test_a_forged_scale_is_found(index, value):
    path = index("gaussian")
    change_array(path, "affinity_scale", first(value))
    with pytest.raises(DiffusionError, match=r"altered.*scale"):
        opened(path)


@pytest.mark.parametrize("value", [-1, 0, 84, 10**18, "83", 83.0, True, None, [83], {}])
@pytest.mark.parametrize("name", ["items", "edges", "components", "dimension"])
def test_forged_sizes_are_found(saved, index, name, value):
    if (name, value) == ("dimension", None):
        return  # an index without vectors
    path = index("context")
    change_manifest(path, lambda m: m["sizes"].update({name: value}))
    with pytest.raises(DiffusionError, match=r"context.*altered"):
        opened(path).search(saved[1])


@pytest.mark.parametrize(
    "changed",
    [
        {"k": 10**18},
        {"k": -1},
        {"query_k": "many"},
        {"gamma": 10**400},
        {"metric": ["cosine"]},
        {"transfer": {"name": "regularized_laplacian", "alpha": 5}},
        {"transfer": {"name": "regularized_laplacian", "alpha": 10**400}},
        {"transfer": {"name": ["heat_kernel"]}},
        {"transfer": "heat_kernel"},
        {"transfer": None},
        {"solver": {"name": "cg", "tol": -1}},
        {"solver": {"name": "cg", "memory": 1}},
        {"solver": {"name": "chebyshev", "tol": 1e-300}},
        {"affinity": {"name": "context", "scales": [10**18]}},
        {"affinity": {"name": "context", "scales": []}},
        {"affinity": {"name": "context", "size": -1}},
        {"affinity": 7},
        {"score": {"name": "fusion", "weight": "heavy"}},
        {"neighbors": {"name": "hnsw", "m": 2**30}},
        {"neighbors": {"name": "ivf", "nprobe": 0}},
        {"neighbors": {"name": "auto", "recall": 0.98}},
        {"neighbors": []},
        {"neighbors_from": {"name": "given"}},
        {"recall": 1.5},
        {"recall": "high"},
    ],
    ids=repr,
)
def test_forged_parameters_are_found(index, changed):
    path = index("context")
    change_manifest(path, lambda m: m["parameters"].update(changed))
    with pytest.raises(DiffusionError, match=r"context.*altered"):
        opened(path)


@pytest.mark.parametrize("value", [[], "parameters", 3, None])
@pytest.mark.parametrize("name", ["parameters", "sizes"])
def test_forged_groups_of_the_manifest_are_found(index, name, value):
    path = index("context")
    change_manifest(path, lambda m: m.update({name: value}))
    with pytest.raises(DiffusionError, match=r"context.*altered"):
        opened(path)


MOST = 2**31 - 1
TRUNCATED = {"name": "truncated", "size": MOST, "truncation": "late", "tol": 1e-6, "max_iter": 9}


@pytest.mark.filterwarnings("ignore::diffusion.ConvergenceWarning")
@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("local", {"solver": {"name": "local", "certify": MOST}}),
        ("context", {"affinity": {"name": "context", "size": MOST}}),
        ("context", {"k": MOST, "query_k": MOST}),
        ("context", {"solver": {"name": "cg", "block_size": MOST}}),
        ("context", {"solver": TRUNCATED}),
        ("regional", {"solver": TRUNCATED}),
        ("regional", {"k": MOST, "query_k": MOST}),
        ("ivf", {"neighbors": {"name": "ivf", "nlist": MOST, "nprobe": MOST}}),
        ("hnsw", {"neighbors": {"name": "hnsw", "m": 2, "ef_search": MOST}}),
    ],
    ids=repr,
)
def test_huge_settings_take_no_memory(saved, index, kind, changed):
    """What is allocated is bounded by the collection, not by the settings of an index."""
    path = index(kind)
    change_manifest(path, lambda m: m["parameters"].update(changed))
    tracemalloc.start()
    scores, ids = opened(path).search(saved[1])
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()
    assert scores.shape == ids.shape


def test_an_index_of_the_format_of_faiss_is_refused(index):
    path = index("ivf")
    file = array_file(path, "ivf_ids")
    shutil.copy(file, file.with_name("faiss.npy"))

    def change(manifest):
        entry = dict(manifest["arrays"]["ivf_ids"])
        entry["file"] = entry["file"].replace("ivf_ids", "faiss")
        manifest["arrays"]["faiss"] = entry

    change_manifest(path, change)
    with pytest.raises(DiffusionError, match="built again"):
        opened(path)


# --- every way to the arrays ----------------------------------------------------------------------


def test_every_use_of_a_damaged_graph_is_an_error(saved, index):
    path = index("spectral")
    change_array(path, "graph_indices", first(83))
    uses = [
        lambda r: r.search(saved[1]),
        lambda r: r.rerank([1.0], [0]),
        lambda r: r.embed(saved[1]),
        lambda r: r.embedding_,
        lambda r: r.diagnose(),
        lambda r: r.graph_.W,
        lambda r: r.graph_.component_sizes,
        lambda r: diffusion.katz(r.graph_),
        lambda r: diffusion.katz(r.graph_, nodes=[0, 1]),
        lambda r: diffusion.degree(r.graph_),
        lambda r: diffusion.CG().prepare(r.graph_, diffusion.RegularizedLaplacian()),
        lambda r: r.solver_.solve(np.eye(83)[0]),
    ]
    for use in uses:
        with pytest.raises(DiffusionError, match="graph: altered, indices"):
            use(diffusion.load(path))


def test_rows_that_no_query_reads_are_checked_where_all_are_read(saved, index):
    path = index("context")
    change_array(path, "affinity_ids", last(83))
    ranker = diffusion.load(path)
    ranker.rerank([1.0], [0])  # an item of the other end of the collection
    with pytest.raises(DiffusionError, match="altered, ids: expected"):
        ranker.diagnose()


def test_an_index_is_checked_once_and_by_one_thread(saved, index, monkeypatch):
    checks = []
    real = contents.Contents._check

    def counted(self, by_rows):
        checks.append((id(self), by_rows))
        real(self, by_rows)

    monkeypatch.setattr(contents.Contents, "_check", counted)
    ranker = diffusion.load(index("context"))
    assert checks == []
    asked = [threading.Thread(target=ranker.search, args=(saved[1],)) for _ in range(4)]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    assert len(checks) == len(set(checks)) == 5  # graph, its edges, affinity, solver, vectors
    for _ in range(2):
        ranker.diagnose()
    assert len(checks) == len(set(checks)) == 8
    # The rows of the affinity, and of what updates keep: the scores of lists, and their order.


def test_a_loaded_index_can_be_copied_and_pickled(saved, index):
    ranker = diffusion.load(index("context"))
    expected = ranker.search(saved[1])[1]
    for again in (copy.deepcopy(ranker), pickle.loads(pickle.dumps(ranker))):
        assert (again.search(saved[1])[1] == expected).all()


def test_large_arrays_are_checked_block_by_block(monkeypatch):
    monkeypatch.setattr(contents, "_BLOCK", 7)
    n = 100
    layout = {
        "rows": contents.Array(np.int64, (n + 1,), contents.Offsets("entries")),
        "entries": contents.Array(np.int32, ("entries",), contents.Between(0, n - 1)),
        "order": contents.Array(np.int32, (n,), contents.Between(0, n - 1)),
        "position": contents.Array(np.int32, (n,), contents.InverseOf("order")),
    }
    order = np.random.default_rng(0).permutation(n).astype(np.int32)
    arrays = {
        "rows": np.arange(n + 1) * 3,
        "entries": np.zeros(3 * n, np.int32),
        "order": order,
        "position": np.argsort(order).astype(np.int32),
    }
    contents.Contents(arrays, layout, "state").check()
    for name in arrays:
        for place in range(len(arrays[name])):
            damaged = {**arrays, name: arrays[name].copy()}
            damaged[name][place] += 1000
            with pytest.raises(DiffusionError, match=f"state: altered, {name}"):
                contents.Contents(damaged, layout, "state").check()


# --- files ----------------------------------------------------------------------------------------


def as_pipe(file):
    file.unlink()
    os.mkfifo(file)


def as_link(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def as_directory(file):
    file.unlink()
    file.mkdir()


def as_device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["manifest.json", "vectors.npy", "graph_starts.npy"])
@pytest.mark.parametrize("replace", [as_pipe, as_link, as_directory, as_device])
@pytest.mark.parametrize("verify", [False, True])
def test_what_is_no_file_is_damage(index, replace, name, verify):
    path = index("context")
    replace(next(path.rglob(name)))
    with pytest.raises(DiffusionError, match=f"{name}: cannot be read|{name}: truncated"):
        diffusion.load(path, verify=verify)


def test_a_linked_folder_of_arrays_is_damage(index, tmp_path):
    path = index("context")
    folder = next(path.glob("arrays-*"))
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiffusionError, match="is a link"):
        diffusion.load(path)


def test_a_giant_manifest_is_not_read(index):
    path = index("context")
    with open(path / "manifest.json", "r+b") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(DiffusionError, match="cannot be read"):
        diffusion.load(path)


def rewritten_header(path, name, old, new):
    file = array_file(path, name)
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    sign(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"'fortran_order': False", b"'fortran_order': True ", "Fortran"),
        (b"(83, 12)", b"(12, 83)", "altered, expected"),
        (b"(83, 12)", b"(83,012)", "altered"),
        (b"(83, 12)", b"(9e9,1) ", "altered"),
        (b"(83, 12)", b"(-83,12)", "altered"),
        (b"'<f4'", b"'|O4'", "altered"),
        (b"\x93NUMPY\x01", b"\x93NUMPY\x09", "altered"),
        (b"\x93NUMPY\x01", b"\x93numpy\x01", "altered"),
    ],
)
def test_forged_headers_are_found(index, old, new, message):
    path = index("context")
    rewritten_header(path, "vectors", old, new)
    with pytest.raises(DiffusionError, match=message):
        diffusion.load(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [10**12, 12]},
        {"shape": [83.0, 12]},
        {"shape": [True, 12]},
        {"shape": [-83, 12]},
        {"shape": [2**62, 2**62]},
        {"dtype": "|O8"},
        {"dtype": "<M8[s]"},
        {"bytes": -1},
    ],
    ids=repr,
)
def test_forged_entries_are_found(index, entry):
    path = index("context")
    change_manifest(path, lambda m: m["arrays"]["vectors"].update(entry))
    with pytest.raises(DiffusionError, match=r"context.*altered"):
        diffusion.load(path)


# --- at random ------------------------------------------------------------------------------------


def mutated(rng, path):
    """Alter an index at random; return what was done and whether a checksum shows it."""
    files = sorted(path.rglob("*.npy"))
    file, other = (files[i] for i in rng.choice(len(files), 2, replace=False))
    content = bytearray(file.read_bytes())
    how = str(rng.choice(["bit", "bytes", "shift", "swap", "cut", "number"]))
    if how == "bit":
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif how == "bytes":
        at = rng.integers(len(content))
        content[at : at + 8] = rng.bytes(len(content[at : at + 8]))
    elif how == "shift":
        at = int(rng.integers(128, len(content) + 1))
        content = content[:128] + content[at:] + content[128:at]
    elif how == "swap":
        content = bytearray(other.read_bytes())
    elif how == "cut":
        content = content[: rng.integers(len(content))]
    if how != "number":
        file.write_bytes(content)
        return f"{how} {file.name}"

    def change(manifest):
        group = manifest[str(rng.choice(["sizes", "parameters"]))]
        name = str(rng.choice(sorted(group)))
        group[name] = [-1, 0, 1, 2**31 - 1, 10**30, 0.5, "x", None, [], {}][rng.integers(10)]

    change_manifest(path, change)
    return how


def answered(path, Q):
    """Search an index; return the message of the error, or None if it gives an answer."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ranker = opened(path)
            scores, ids = ranker.search(Q)
            assert scores.shape == ids.shape
            if isinstance(ranker, diffusion.Reranker):
                assert -1 <= ids.min() <= ids.max() < 83
                ranker.diagnose()
    except DiffusionError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", [*KINDS, "regional"])
def test_mutations_give_an_answer_or_one_clear_error(saved, index, kind):
    rng = np.random.default_rng(sorted([*KINDS, "regional"]).index(kind))
    refused = 0
    for number in range(16):
        path = index(kind)
        before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
        done = mutated(rng, path)
        changed = any(f.read_bytes() != content for f, content in before.items())
        if changed and done != "number":
            with pytest.raises(DiffusionError):
                opened(path, verify=True)
        if number % 2:
            sign(path)
        said = answered(path, saved[1])
        assert said is None or str(path) in said, done
        refused += said is not None
        shutil.rmtree(path)
    assert refused > 4
