from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
from scipy.io import savemat

from bench import __main__ as command
from bench.data import published
from bench.data.descriptors import Descriptors, read_extraction, read_pair, stem
from bench.quality import DATASETS
from bench.quality import datasets as retrieval
from diffusion import DiffusionError
from tests.bench.data.test_protocols import cells, text


def objects(rng, n_objects=5, views=6, d=16):
    """Return descriptors of similar views of objects, and of one noisy query per object."""
    centres = rng.standard_normal((n_objects, d))
    X = np.repeat(centres, views, axis=0) + 0.2 * rng.standard_normal((n_objects * views, d))
    return X.astype(np.float32), (centres + 0.2 * rng.standard_normal(centres.shape)).astype("f4")


def write_truth(folder, n_objects=5, views=6):
    """Write the ground truth of `objects`: the first two views are easy, the last is junk."""
    folder.mkdir(exist_ok=True, parents=True)
    first = [views * i for i in range(n_objects)]
    content = {
        "imlist": [f"object_{i:03d}" for i in range(n_objects * views)],
        "qimlist": [f"query_{i}" for i in range(n_objects)],
        "gnd": [
            {
                "bbx": [0, 0, 1, 1],
                "easy": [i, i + 1],
                "hard": [*range(i + 2, i + views - 1)],
                "junk": [i + views - 1],
            }
            for i in first
        ],
    }
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content))
    return content


def write_extraction(folder, files, vectors, regions=None, images=None):
    folder.mkdir(parents=True)
    (folder / "files.txt").write_text("".join(f"{file}\n" for file in files))
    for name, array in (
        ("descriptors", vectors),
        ("regions", regions),
        ("region_images", images),
    ):
        if array is not None:
            np.save(folder / f"{name}.npy", array)


def figures(table):
    return {row[0].split(" (")[0]: row[1:] for row in table.rows}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", "quality", *map(str, arguments)])
    return command.main()


def test_the_command_prints_and_writes_the_table(tmp_path, rng, monkeypatch, capsys):
    write_truth(tmp_path)
    X, Q = objects(rng)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "Q.npy", Q)
    target = tmp_path / "figures.json"
    arguments = ("--dataset", "roxford5k", "--descriptors", tmp_path, "--json", target)
    assert run(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "**roxford5k**: 5 queries, 30 images" in printed
    (written,) = json.loads(target.read_text())["tables"]
    rows = {row[0]: dict(zip(written["columns"], row, strict=True)) for row in written["rows"]}
    assert rows["cosine"]["mAP medium"] == rows["cosine"]["mP@10 hard"] == 100
    assert rows["cosine"]["published: R-GeM medium"] == 64.67
    assert rows["diffusion, CG (k = 50, α = 0.99)"]["published: R-GeM hard"] == 48.6
    # No paper reports the Reranker's defaults.
    assert rows["diffusion, as by default"]["mAP medium"] == 100
    assert rows["diffusion, as by default"]["published: R-GeM medium"] is None
    # Methods of other authors are listed with the figures that they report.
    assert rows["GSS"]["published: R-GeM hard"] == 57.5
    assert rows["GSS"]["mAP medium"] is None


def test_wrong_descriptors_are_told_from_right_ones(tmp_path, rng):
    write_truth(tmp_path)
    X, Q = objects(rng)
    for order, least, most in ((np.arange(30), 99, 100), (rng.permutation(30), 0, 60)):
        np.save(tmp_path / "X.npy", X[order])
        np.save(tmp_path / "Q.npy", Q)
        (table,) = retrieval.run("roxford5k", str(tmp_path))
        assert least <= figures(table)["cosine"][table.columns.index("mAP medium") - 1] <= most


def test_regions_are_ranked_beside_the_whole(tmp_path, rng):
    # The object is one region of nine; the whole is the sum of its regions.
    write_truth(tmp_path)
    X, Q = objects(rng)
    clutter = rng.standard_normal((240, 16)).astype("f4")
    np.save(tmp_path / "X_regions.npy", np.concatenate([clutter, X]))
    np.save(tmp_path / "X_images.npy", np.concatenate([np.arange(240) % 30, np.arange(30)]))
    np.save(tmp_path / "Q_regions.npy", Q)
    np.save(tmp_path / "Q_images.npy", np.arange(5))
    whole, regional = retrieval.run("roxford5k", str(tmp_path))
    assert "270 regions" in regional.title
    at = whole.columns.index("mAP medium") - 1
    assert figures(whole)["cosine"][at] < 90
    assert figures(regional)["R-match"][at] > 99
    papers = [f"regional, {name} (k = 200, α = 0.99)" for name in ("sum", "GMP")]
    defaults = [f"regional, {name} (as by default)" for name in ("sum", "GMP")]
    assert [row[0] for row in regional.rows] == ["R-match", *papers, *defaults]


def test_images_are_found_by_their_names(tmp_path, rng):
    content = write_truth(tmp_path)
    X, Q = objects(rng)
    order = rng.permutation(30)
    files = [f"jpg/{content['imlist'][i]}.JPG" for i in order]
    # An image that is not in the ground truth is not in the collection.
    write_extraction(
        tmp_path / "gallery", [*files, "jpg/other.jpg"], np.concatenate([X[order], Q[:1]])
    )
    write_extraction(
        tmp_path / "queries", ["query_4.png", *content["qimlist"][:4]], Q[[4, 0, 1, 2, 3]]
    )
    task = retrieval.landmarks("roxford5k", tmp_path)
    np.testing.assert_array_equal(task.gallery.vectors, X)
    np.testing.assert_array_equal(task.queries.vectors, Q)
    (table,) = retrieval.run("roxford5k", str(tmp_path))
    assert figures(table)["cosine"][0] == 100


def test_the_text_ground_truth_of_oxford(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "oxford5k").mkdir(parents=True)
    text(tmp_path / "data" / "oxford5k" / "groundtruth")
    X = np.eye(9, dtype=np.float32)
    X[[3, 5]] += X[2]
    Q = X[[2, 4]]
    files = [f"all_souls_{i:06d}.jpg" for i in range(9)]
    write_extraction(tmp_path / "d" / "gallery", files, X)
    write_extraction(tmp_path / "d" / "queries", ["all_souls_000002", "all_souls_000004"], Q)
    (table,) = retrieval.run("oxford5k", str(tmp_path / "d"))
    assert table.columns == (
        "method", "mAP", "ms/query", "published: R-MAC 512", "published: R-MAC 2048",
    )  # fmt: skip
    assert figures(table)["cosine"][0] == 100
    assert figures(table)["cosine"][2:] == [77.7, 83.9]
    assert figures(table)["spectral"] == [None, None, 85.8, 87.5]
    # The text files may lie beside other files.
    for file in (tmp_path / "data" / "oxford5k" / "groundtruth").iterdir():
        file.rename(tmp_path / "data" / "oxford5k" / file.name)
    (tmp_path / "data" / "oxford5k" / "groundtruth").rmdir()
    # The same with distractors, as in Oxford105k.
    files += ["flickr/1.jpg", "flickr/2.jpg"]
    write_extraction(tmp_path / "e" / "gallery", files, np.concatenate([X, 3 * Q]))
    write_extraction(tmp_path / "e" / "queries", ["all_souls_000002", "all_souls_000004"], Q)
    (table,) = retrieval.run("oxford105k", str(tmp_path / "e"))
    assert "2 queries, 11 images" in table.title
    assert figures(table)["cosine"][0] < 100
    assert figures(table)["cosine"][2:] == [70.1, 80.8]


def test_distractors_come_behind(tmp_path, rng):
    content = write_truth(tmp_path)
    gnd = [{"ok": g["easy"] + g["hard"], "junk": g["junk"]} for g in content["gnd"]]
    (tmp_path / "gnd_oxford5k.pkl").write_bytes(pickle.dumps({**content, "gnd": gnd}))
    X, Q = objects(rng)
    np.save(tmp_path / "X.npy", np.concatenate([X, rng.standard_normal((20, 16))]))
    np.save(tmp_path / "Q.npy", Q)
    assert len(retrieval.landmarks("oxford105k", tmp_path).gallery) == 50
    with pytest.raises(DiffusionError, match="expected descriptors of 30 images"):
        retrieval.landmarks("oxford5k", tmp_path)
    names = [*reversed(content["imlist"]), "z"]
    files = Descriptors(np.arange(31.0)[:, None], files=names)
    rows = files.named(content["imlist"], "there", others=True).vectors[:, 0]
    assert rows.tolist() == [*range(29, -1, -1), 30]


@pytest.mark.parametrize("transposed", [False, True])
def test_the_mat_of_the_field(tmp_path, rng, transposed):
    write_truth(tmp_path)
    X, Q = objects(rng)
    savemat(
        tmp_path / "features.mat", {"X": X if transposed else X.T, "Q": Q if transposed else Q.T}
    )
    if transposed:
        with pytest.raises(DiffusionError, match="expected descriptors of 30 images"):
            retrieval.landmarks("roxford5k", tmp_path)
        return
    for place in (tmp_path, tmp_path / "features.mat"):
        gallery, queries = read_pair(place)
        np.testing.assert_array_equal(gallery.vectors, X)
        np.testing.assert_array_equal(queries.vectors, Q)
        assert len(retrieval.landmarks("roxford5k", place).gallery) == 30


def test_the_mat_of_the_diffusion_authors(tmp_path, rng):
    """Each cell is the matrix of an image, with one region per column."""
    sizes = [3, 1, 2]
    parts = [rng.standard_normal((8, size)) for size in sizes]
    asked = [rng.standard_normal((8, size)) for size in (1, 4)]
    whole = [part.sum(axis=1, keepdims=True) for part in parts]
    savemat(
        tmp_path / "oxford.mat",
        {
            "reg": {"V": cells(parts), "Q": cells(asked)},
            "glob": {"V": cells(whole), "Q": cells([part[:, :1] for part in asked])},
        },
    )
    gallery, queries = read_pair(tmp_path)
    np.testing.assert_allclose(gallery.regions, np.concatenate(parts, axis=1).T, rtol=1e-6)
    assert gallery.images.tolist() == [0, 0, 0, 1, 2, 2]
    np.testing.assert_allclose(gallery.vectors, np.concatenate(whole, axis=1).T, rtol=1e-6)
    assert queries.images.tolist() == [0, 1, 1, 1, 1]
    assert queries.vectors.shape == (2, 8)


def test_regions_follow_their_images(rng):
    regions = rng.standard_normal((6, 2)).astype("f4")
    all_of = Descriptors(
        rng.standard_normal((4, 2)), regions, np.array([3, 0, 1, 3, 2, 1]), [*"abcd"]
    )
    some = all_of.select([3, 1])
    assert some.files == ["d", "b"]
    assert some.images.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(some.regions, regions[[0, 2, 3, 5]])
    np.testing.assert_array_equal(some.vectors, all_of.vectors[[3, 1]])
    assert len(some) == 2
    # Without vectors of its own, the whole is the sum of its unit regions.
    alone = Descriptors(None, regions, all_of.images)
    unit = regions / np.linalg.norm(regions, axis=1, keepdims=True)
    expected = unit[0] + unit[3]
    np.testing.assert_allclose(alone.whole()[3], expected / np.linalg.norm(expected), rtol=1e-5)


def test_names_with_folders_are_told_apart(rng):
    files = ["INSTRE-S1/01a/001.jpg", "INSTRE-S1/02a/001.jpg"]
    vectors = np.eye(2, dtype="f4")
    under = Descriptors(vectors, files=[f"instre/{file}" for file in reversed(files)])
    assert under.named(files, "there").vectors.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(DiffusionError, match="two files of one name"):
        under.named(["001"], "there")
    with pytest.raises(DiffusionError, match=r"1 of 1 images .* the first is INSTRE-S1/03a/001"):
        under.named(["INSTRE-S1/03a/001"], "there")
    assert stem("a/b.c.jpeg") == "b.c"
    assert stem("a/b.c.jpeg", 2) == "a/b.c"


GROCERY = [
    f"{place}/{i}.jpg" for i in range(6) for place in ("test/Packages/Milk", "test/Fruit/Kiwi")
]


@pytest.mark.parametrize("folder", ["test/", ""])
def test_grocery_packages_are_searched_for_in_all(tmp_path, rng, monkeypatch, folder):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path))
    (tmp_path / "grocery").mkdir()
    lines = [f"{file}, {int('Kiwi' in file)}, 0" for file in GROCERY]
    (tmp_path / "grocery" / "test.txt").write_text("\n".join(lines) + "\n")
    X = np.array([[1, 0.2], [0.2, 1]])[[int("Kiwi" in file) for file in GROCERY]]
    X = (X + 0.01 * rng.standard_normal(X.shape)).astype("f4")
    order = rng.permutation(12)
    files = [GROCERY[i].removeprefix("test/" if not folder else "") for i in order]
    regions, images = np.repeat(X[order], 2, axis=0), np.repeat(np.arange(12), 2)
    write_extraction(tmp_path / "d", files, X[order], regions, images)
    whole, regional = retrieval.run("grocery", str(tmp_path / "d"))
    assert "1 queries, 11 images" in whole.title
    assert whole.columns == ("method", "mAP", "mP@10", "ms/query")
    assert figures(whole)["cosine"][:2] == [100, 50]
    assert figures(regional)["R-match"][0] == 100
    task = retrieval.grocery(tmp_path / "d")
    assert task.queries.files[0].startswith("test/Packages/")
    assert task.queries.files[0] not in task.gallery.files


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "X: expected descriptors, found none"),
        ({"X": np.ones((30, 4))}, "Q: expected descriptors, found none"),
        ({"X": np.ones(30), "Q": np.ones((5, 4))}, "expected vectors of shape"),
        ({"X": np.ones((30, 4), int), "Q": np.ones((5, 4))}, "expected vectors of shape"),
        ({"X": np.ones((29, 4)), "Q": np.ones((5, 4))}, "descriptors of 30 images"),
        ({"X": np.ones((30, 4)), "Q": np.ones((6, 4))}, "descriptors of 5 images"),
        ({"X_regions": np.ones((30, 4))}, "expected the row number of its image"),
        (
            {"X_regions": np.ones((3, 4)), "X_images": np.array([0, 2, 2])},
            "expected regions of every image, 0 to 2",
        ),
        (
            {"X": np.ones((3, 4)), "X_regions": np.ones((3, 4)), "X_images": np.array([0, 1, 3])},
            "expected regions of every image, 0 to 2",
        ),
    ],
)
def test_bad_descriptors_are_named(tmp_path, arrays, message):
    write_truth(tmp_path)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(DiffusionError, match=message):
        retrieval.landmarks("roxford5k", tmp_path)


def test_bad_files_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFUSION_DATA", str(tmp_path / "nowhere"))
    (tmp_path / "X.npy").write_bytes(b"x")
    with pytest.raises(DiffusionError, match=r"X\.npy: expected an \.npy file"):
        read_pair(tmp_path)
    np.save(tmp_path / "X.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DiffusionError, match=r"X\.npy: expected an \.npy file"):
        read_pair(tmp_path)
    np.save(tmp_path / "X.npy", np.ones((2, 2)))
    np.save(tmp_path / "Q.npy", np.ones((2, 2)))
    with pytest.raises(DiffusionError, match="instre: no ground truth; expected one of gnd_instre"):
        retrieval.landmarks("instre", tmp_path)
    with pytest.raises(DiffusionError, match=r"files\.txt: cannot be read"):
        read_extraction(tmp_path)
    write_extraction(tmp_path / "d", ["a.jpg"], np.ones((1, 2)))
    with pytest.raises(DiffusionError, match=r"test\.txt: cannot be read"):
        retrieval.grocery(tmp_path / "d")
    (tmp_path / "d" / "files.txt").write_text("a\nb\n")
    with pytest.raises(DiffusionError, match="expected a name for each of 1 rows, got 2"):
        read_extraction(tmp_path / "d")
    for name in ("a", "b"):
        savemat(tmp_path / f"{name}.mat", {"X": 1})
    with pytest.raises(DiffusionError, match=r"expected one \.mat of descriptors, found 2"):
        read_pair(tmp_path)
    savemat(tmp_path / "d" / "a.mat", {"reg": {"V": cells([np.ones((2, 3))])}})
    with pytest.raises(DiffusionError, match="cells V and Q in glob or reg"):
        read_pair(tmp_path / "d")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dataset", "instre"),
        ("--descriptors", "d"),
        ("--dataset", "instre", "--descriptors", "nowhere"),
        ("--dataset", "other", "--descriptors", "d"),
    ],
)
def test_the_command_says_what_is_missing(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_published_figures_of_every_data_set():
    for dataset in DATASETS:
        for columns, rows in (published.of_vectors(dataset), published.of_regions(dataset)):
            assert all(len(row) == len(columns) for row in rows.values())
        assert bool(published.of_vectors(dataset)[1]) == (dataset != "grocery")
    columns, rows = published.of_regions("oxford5k")
    assert dict(zip(columns, rows["regional, GMP"], strict=True)) == {
        "5 x 512": 91.5, "21 x 512": 93.2, "5 x 2048": 95.0, "21 x 2048": 95.8,
    }  # fmt: skip
    assert published.of_vectors("paris106k")[1]["AQE"] == (83.5, 92.7)
    assert published.of_regions("rparis6k") == ((), {})
