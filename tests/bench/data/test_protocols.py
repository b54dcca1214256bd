from __future__ import annotations

import pickle
import sys
import types

import numpy as np
import pytest
from scipy.io import savemat

from bench.data import matlab, protocols
from bench.data.collections import data_folder
from diffusion import DiffusionError
from diffusion import metrics as diffusion_metrics
from diffusion.baselines import expansion


def walk(ranked, right, junk):
    """Return the average precision as the program of Oxford computes it, down the list."""
    area = recall = 0.0
    precision = 1.0
    found = looked = 0
    for image in ranked:
        if image in junk:
            continue
        looked += 1
        found += image in right
        new_recall, new_precision = found / len(right), found / looked
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


def revisited_precision(ranked, right, junk, cut):
    """Return the precision at k of the revisited benchmarks, by its definition."""
    ranked = [image for image in ranked if image not in junk]
    places = [place for place, image in enumerate(ranked, 1) if image in right]
    cut = min(max(places), cut)
    return sum(place <= cut for place in places) / cut


# --- the true ground truth -----------------------------------------------------------------------


@pytest.fixture(params=["roxford5k", "rparis6k"])
def truth(request):
    path = data_folder() / "revisitop" / f"gnd_{request.param}.pkl"
    if not path.exists():
        pytest.skip("the revisited ground truth is not in DIFFUSION_DATA")
    return protocols.read(path)


def made(scores):
    """Return query and image descriptors with cosines proportional to scores (nq, n) up to 2."""
    nq, n = scores.shape
    X = np.zeros((n, nq + 1))
    X[:, :nq] = 0.05 * scores.T
    X[:, nq] = np.sqrt(1 - (X**2).sum(axis=1))
    return np.eye(nq, nq + 1, dtype=np.float32), X.astype(np.float32)


def search(scores):
    """Return the rankings by such descriptors."""
    Q, X = made(scores)
    return np.argsort(-(Q @ X.T), axis=1, kind="stable")


def marked(truth, **values):
    """Return scores (nq, n): the value of its kind for each image, and 0 for the others."""
    scores = np.zeros((len(truth.queries), len(truth.images)))
    for kind, value in values.items():
        for query, listed in enumerate(truth.kinds[kind]):
            scores[query, listed] = value
    return scores


def test_the_revisited_ground_truth(truth):
    sizes = {"roxford5k": 4993, "rparis6k": 6322}
    assert len(truth.images) in sizes.values()
    assert len(truth.queries) == 70
    assert truth.boxes.shape == (70, 4)
    # Left, top, right, bottom.
    assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
    assert not set(truth.queries) & set(truth.images)
    counts = {kind: sum(map(len, lists)) for kind, lists in truth.kinds.items()}
    assert counts in (
        {"easy": 3029, "hard": 2497, "junk": 1356},
        {"easy": 6874, "hard": 10350, "junk": 7153},
    )


def test_perfect_descriptors_reach_the_top_at_every_level(truth):
    for junk in (0, 2):  # below, and on top of the list
        Q, X = made(marked(truth, easy=1, hard=1, junk=junk))
        figures = protocols.evaluate(truth, expansion.search(Q, X, len(X))[1])
        assert len(figures) == 12
        assert set(figures.values()) == {1.0}


def test_hard_images_on_top_are_junk_where_the_easy_ones_are_asked_for(truth):
    figures = protocols.evaluate(truth, search(marked(truth, hard=2, easy=1)))
    assert figures["mAP easy"] == figures["mAP hard"] == figures["mAP medium"] == 1
    # Nothing but the easy ones: the hard ones have to be found among thousands.
    figures = protocols.evaluate(truth, search(marked(truth, easy=1)))
    assert figures["mAP easy"] == figures["mP@10 easy"] == 1
    assert figures["mAP hard"] < 0.2
    assert figures["mAP hard"] < figures["mAP medium"] < 0.9


def test_a_wrong_image_on_top(truth):
    scores = marked(truth, easy=1, hard=1)
    for row, junk in zip(scores, truth.kinds["junk"], strict=True):
        # The first image that is neither right nor junk.
        row[np.setdiff1d(np.flatnonzero(row == 0), junk)[0]] = 2
    figures = protocols.evaluate(truth, search(scores))
    for level, (right, _) in truth.levels().items():
        counts = [len(listed) for listed in right if len(listed)]
        areas, precisions = [], []
        for count in counts:
            # Each right image moves down by one: the precision is (j - 1) / j before the j-th.
            j = np.arange(1, count + 1)
            areas.append(np.mean(((j - 1) / j + j / (j + 1)) / 2))
            precisions.append(min(9, count) / min(10, count + 1))
        assert figures[f"mAP {level}"] == pytest.approx(np.mean(areas))
        assert figures[f"mP@1 {level}"] == 0
        assert figures[f"mP@10 {level}"] == pytest.approx(np.mean(precisions))


def test_random_rankings_are_judged_as_by_a_walk_down_the_list(truth, rng):
    ids = np.stack([rng.permutation(len(truth.images)) for _ in truth.queries])
    figures = protocols.evaluate(truth, ids)
    easy, hard, junk = (truth.kinds[kind] for kind in ("easy", "hard", "junk"))
    chosen = [query for query in range(0, 70, 7) if len(easy[query])]
    expected = {
        "easy": [(set(easy[q]), {*junk[q], *hard[q]}) for q in chosen],
        "medium": [({*easy[q], *hard[q]}, set(junk[q])) for q in chosen],
        "hard": [(set(hard[q]), {*junk[q], *easy[q]}) for q in chosen],
    }
    part = protocols.GroundTruth(
        truth.images,
        [truth.queries[q] for q in chosen],
        {kind: [lists[q] for q in chosen] for kind, lists in truth.kinds.items()},
    )
    judged = protocols.evaluate(part, ids[chosen])
    for level, sets in expected.items():
        areas = [walk(ids[q], *pair) for q, pair in zip(chosen, sets, strict=True)]
        assert judged[f"mAP {level}"] == pytest.approx(np.mean(areas))
        for cut in (1, 5, 10):
            at = [revisited_precision(ids[q], *s, cut) for q, s in zip(chosen, sets, strict=True)]
            assert judged[f"mP@{cut} {level}"] == pytest.approx(np.mean(at))
        # Of n images, a share p is right: the area is about p.
        assert figures[f"mAP {level}"] < 0.1


def test_images_beyond_the_ground_truth_are_wrong(truth):
    ids = search(marked(truth, easy=1, hard=1))
    distractor = np.full((70, 1), len(truth.images) + 5)
    figures = protocols.evaluate(truth, np.concatenate([distractor, ids], axis=1))
    assert figures["mP@1 medium"] == 0
    assert 0.4 < figures["mAP medium"] < 1


# --- small files ---------------------------------------------------------------------------------

IMAGES = [f"all_souls_{i:06d}" for i in range(8)]
REVISITED = {
    "imlist": IMAGES,
    "qimlist": ["q1", "q2"],
    "gnd": [
        {"bbx": [1, 2, 30, 40.5], "easy": [0, 3], "hard": [5], "junk": [1]},
        {"bbx": [0, 0, 9, 9], "easy": [], "hard": [2], "junk": [7, 6]},
    ],
}


def test_a_level_that_no_query_has_is_not_a_number():
    kinds = {"easy": [np.array([1])], "hard": [np.array([], int)], "junk": [np.array([0])]}
    figures = protocols.evaluate(protocols.GroundTruth(["a", "b"], ["q"], kinds), [[0, 1]])
    assert figures["mAP easy"] == figures["mAP medium"] == figures["mP@1 easy"] == 1
    assert np.isnan([figures["mAP hard"], figures["mP@5 hard"]]).all()


def write(path, content):
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_a_revisited_pickle(tmp_path):
    truth = protocols.read(write(tmp_path / "gnd.pkl", REVISITED))
    assert truth.images == IMAGES
    assert truth.queries == ["q1", "q2"]
    assert truth.boxes.tolist() == [[1, 2, 30, 40.5], [0, 0, 9, 9]]
    levels = truth.levels()
    assert [part[0].tolist() for part in levels["easy"]] == [[0, 3], [1, 5]]
    assert [part[0].tolist() for part in levels["medium"]] == [[0, 3, 5], [1]]
    assert [part[0].tolist() for part in levels["hard"]] == [[5], [1, 0, 3]]
    # The second query has nothing easy: it does not count there.
    figures = protocols.evaluate(truth, [[0, 3, 5, 1, 2, 4, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]])
    assert figures["mAP easy"] == 1
    # Hard: first for the first query; the second's stands behind two wrong ones, (0 + 1/3) / 2.
    assert figures["mAP hard"] == pytest.approx((1 + 1 / 6) / 2)


def test_a_classic_pickle_with_arrays(tmp_path):
    content = {
        "imlist": IMAGES,
        "qidx": np.array([4, 2]),
        "gnd": [
            {"ok": np.array([4, 1]), "junk": np.array([], np.int64), "bbx": np.ones(4)},
            {"ok": np.array([2]), "junk": np.array([0]), "bbx": np.ones(4)},
        ],
    }
    truth = protocols.read(write(tmp_path / "gnd.pkl", content))
    assert truth.queries == [IMAGES[4], IMAGES[2]]
    assert not truth.revisited
    ids = np.array([[4, 0, 1, 2, 3, 5, 6, 7], [0, 2, 1, 3, 4, 5, 6, 7]])
    figures = protocols.evaluate(truth, ids)
    assert list(figures) == ["mAP"]
    # (1 + (1/2 + 2/3) / 2) / 2, and 1 behind junk.
    assert figures["mAP"] == pytest.approx(((1 + 7 / 12) / 2 + 1) / 2)


def cells(values):
    array = np.empty((1, len(values)), object)
    array[0] = values
    return array


def instre(path, n=3):
    """Write a ground truth like that of INSTRE: names with directories, positions from 1."""
    gnd = np.empty((1, n), [("ok", object), ("bbx", object)])
    for query in range(n):
        gnd[0, query] = (np.array([[query + 1, query + 3]]), np.array([[5, 6, 70, 80]]))
    images = [f"INSTRE-S1/{i:02d}a_book/{i:03d}.jpg" for i in range(n + 2)]
    queries = [f"INSTRE-S2/{i:02d}_cup/001.jpg" for i in range(n)]
    savemat(path, {"imlist": cells(images), "qimlist": cells(queries), "gnd": gnd})
    return images, queries


@pytest.mark.parametrize("n", [1, 3])
def test_the_mat_of_instre(tmp_path, n):
    images, queries = instre(tmp_path / "gnd_instre.mat", n)
    truth = protocols.read(tmp_path / "gnd_instre.mat")
    assert truth.images == images
    assert truth.queries == queries
    right, junk = truth.levels()[""]
    assert [listed.tolist() for listed in right] == [[i, i + 2] for i in range(n)]
    assert all(not len(listed) for listed in junk)
    assert truth.boxes.tolist() == [[5, 6, 70, 80]] * n


def text(folder, prefix="oxc1_"):
    folder.mkdir()
    files = {
        "all_souls_1_query": f"{prefix}all_souls_000002 136.5 34.1 648.5 955.7\n",
        "all_souls_1_good": "all_souls_000002\nall_souls_000003\n",
        "all_souls_1_ok": "all_souls_000005\n",
        "all_souls_1_junk": "all_souls_000007\nall_souls_000000\n",
        "all_souls_2_query": f"{prefix}all_souls_000004 0 0 10 10",
        "all_souls_2_good": "all_souls_000004\n",
        "all_souls_2_ok": "",
        "all_souls_2_junk": "",
    }
    for name, content in files.items():
        (folder / f"{name}.txt").write_text(content)
    return folder


@pytest.mark.parametrize("prefix", ["oxc1_", ""])
def test_the_text_files_of_oxford_and_paris(tmp_path, prefix):
    folder = text(tmp_path / "groundtruth", prefix)
    truth = protocols.read(folder, IMAGES)
    assert truth.queries == ["all_souls_000002", "all_souls_000004"]
    assert truth.boxes[0].tolist() == [136.5, 34.1, 648.5, 955.7]
    right, junk = truth.levels()[""]
    assert [listed.tolist() for listed in right] == [[2, 3, 5], [4]]
    assert [listed.tolist() for listed in junk] == [[7, 0], []]
    # The query image is one of the right ones, first of all in both.
    ids = [[2, 7, 1, 3, 0, 4, 5, 6], [4, 0, 1, 2, 3, 5, 6, 7]]
    expected = [walk(ids[0], {2, 3, 5}, {7, 0}), 1]
    assert protocols.evaluate(truth, ids)["mAP"] == pytest.approx(np.mean(expected))


def test_photos_of_paris_that_are_corrupt_are_left_out(tmp_path):
    folder = text(tmp_path / "groundtruth")
    assert len(protocols.PARIS_CORRUPT) == 20
    with open(folder / "all_souls_1_good.txt", "a") as file:
        file.write("paris_louvre_000136\n")
    assert len(protocols.read(folder, IMAGES).levels()[""][0][0]) == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("imlist"), "expected a ground truth with imlist, qimlist and gnd"),
        (lambda c: c.update(gnd=[]), "expected a ground truth with"),
        (lambda c: c.update(gnd=c["gnd"][:1]), "1 ground truths"),
        (lambda c: c["gnd"][0].update(hard=[8]), r"positions outside \[0, 8\)"),
        (lambda c: c["gnd"][0].update(hard=[-1]), r"positions outside"),
        (lambda c: c["gnd"][0].update(hard=[0.5]), r"positions outside"),
        (lambda c: c["gnd"][0].update(hard=["x"]), "expected a ground truth with"),
        (lambda c: c["gnd"][1].update(hard=[7]), "query 1 lists an image twice or as both"),
        (lambda c: c["gnd"][0].update(hard=[3]), "query 0 lists an image twice or as both"),
        (lambda c: [g.update(bbx=[1, 2]) for g in c["gnd"]], "boxes of four numbers"),
    ],
)
def test_ground_truth_that_does_not_hang_together_is_refused(tmp_path, damage, message):
    content = pickle.loads(pickle.dumps(REVISITED))
    damage(content)
    path = write(tmp_path / "gnd.pkl", content)
    with pytest.raises(DiffusionError, match=message) as caught:
        protocols.read(path)
    assert str(path) in str(caught.value)


def test_text_that_does_not_hang_together_is_refused(tmp_path):
    folder = text(tmp_path / "groundtruth")
    with pytest.raises(DiffusionError, match="does not list the collection's images"):
        protocols.read(folder)
    with pytest.raises(DiffusionError, match="1 of 1 images are not in the collection"):
        protocols.read(folder, IMAGES[:5])
    (folder / "all_souls_2_ok.txt").unlink()
    with pytest.raises(DiffusionError, match=r"all_souls_2_ok\.txt: cannot be read"):
        protocols.read(folder, IMAGES)
    for content in ("", "all_souls_000002 1 2 3", "all_souls_000002 1 2 3 x"):
        (folder / "all_souls_1_query.txt").write_text(content)
        with pytest.raises(DiffusionError, match="expected an image and the four numbers"):
            protocols.read(folder, IMAGES)
    with pytest.raises(DiffusionError, match=r"expected files \*_query.txt"):
        protocols.read(tmp_path)
    (tmp_path / "gnd.json").write_text("{}")
    with pytest.raises(DiffusionError, match=r"expected a \.pkl, a \.mat or a folder"):
        protocols.read(tmp_path / "gnd.json")


# --- MATLAB --------------------------------------------------------------------------------------


def version_7_3(path):
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header.ljust(512, b"\0"))
    return path


def test_a_mat_of_version_7_3_asks_for_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DiffusionError, match="expected one saved with -v7, or h5py installed"):
        matlab.read(version_7_3(tmp_path / "new.mat"), ("X",))


class HDF5(dict):
    """The part of h5py.File that is used: arrays and groups by name."""

    def __init__(self, path, mode):
        assert mode == "r"
        super().__init__(X=np.arange(6.0).reshape(3, 2), glob={})

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.clear()


def test_a_mat_of_version_7_3_is_read_by_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", types.SimpleNamespace(File=HDF5))
    path = version_7_3(tmp_path / "new.mat")
    found = matlab.read(path, ("X", "Q"))
    assert list(found) == ["X"]
    # X of (2, 3) in MATLAB, which counts dimensions from the other end.
    assert found["X"].tolist() == [[0, 2, 4], [1, 3, 5]]
    with pytest.raises(DiffusionError, match="glob is no matrix"):
        matlab.read(path, ("X", "glob"))


def test_a_mat_whose_packed_part_is_damaged_is_refused(tmp_path):
    path = tmp_path / "x.mat"
    savemat(path, {"X": np.arange(20.0)}, do_compression=True)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DiffusionError, match=r"x\.mat: expected a MATLAB file"):
        matlab.read(path, ("X",))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, bytes(200)])
def test_what_is_no_mat_is_refused(tmp_path, content):
    path = tmp_path / "x.mat"
    path.write_bytes(content)
    with pytest.raises(DiffusionError, match="expected a MATLAB file"):
        matlab.read(path, ("X",))
    with pytest.raises(DiffusionError, match="cannot be read"):
        matlab.read(tmp_path / "absent.mat", ("X",))


def test_the_walk_down_the_list_is_the_trapezoidal_rule(rng):
    for _ in range(20):
        ranked = rng.permutation(30)
        right, junk = set(rng.choice(15, 5, replace=False)), set(range(20, 25))
        hits = diffusion_metrics.hits_from_lists([ranked], [right], [junk])
        area = diffusion_metrics.trapezoidal_average_precision(*hits)[0]
        assert area == pytest.approx(walk(ranked, right, junk))
