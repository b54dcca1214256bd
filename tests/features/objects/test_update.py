"""An object discovery whose folder changes: against one of the folder as it is."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

import diffusion
import features
from diffusion import DiffusionError, storage
from features import cli
from features.description import sweep
from features.description.descriptors import FORMAT
from features.index.build import build_index
from features.objects.discovery import ObjectDiscovery
from features.objects.locate import Mapper
from features.objects.opened import open_objects
from features.settings import DiscoverySettings
from tests.support.discoveries import SETTINGS, N, discover_in, photo, write_photos
from tests.support.folders import contents
from tests.support.photos import png
from tests.support.processes import run_killed, run_whole

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def seen(monkeypatch):
    """The number of photos in each batch that the network was given."""
    seen = []
    activations = Mapper.activations
    monkeypatch.setattr(
        Mapper, "activations", lambda self, x: seen.append(len(x)) or activations(self, x)
    )
    return seen


def same_but_for_last_bits(one, other):
    """Compare two discoveries; the last bits of activations depend on the photos of a batch."""
    one, other = (open_objects(path, verify=True) for path in (one, other))
    assert one.files == other.files
    assert one.descriptors.sources.equals(other.descriptors.sources)
    arrays, expected = one.descriptors.arrays, other.descriptors.arrays
    assert set(arrays) == set(expected)
    # The signs of principal directions may differ, and with them what is projected on them.
    turned = {"discovery_projection", "discovery_vectors"}
    for name in set(arrays) - turned:
        scale = np.abs(expected[name]).max() if expected[name].size else 0
        np.testing.assert_allclose(
            arrays[name], expected[name], rtol=1e-2, atol=1e-3 * scale, err_msg=name
        )
    for name in turned:
        np.testing.assert_allclose(
            np.abs(arrays[name]), np.abs(expected[name]), rtol=1e-2, atol=1e-3, err_msg=name
        )


def change(photos):
    """Add a photo, alter one, rename one, touch one and delete one."""
    (photos / "b" / "20.png").write_bytes(png(photo(20)))
    (photos / "02.png").write_bytes(png(photo(17)))
    (photos / "04.png").rename(photos / "b" / "04.png")
    os.utime(photos / "06.png")
    (photos / "00.png").unlink()


@pytest.mark.usefixtures("discovered")
def test_what_changed_is_done_again(discover, photos, tmp_path):
    (photos / "00.png").write_bytes(png(photo(16)))
    (photos / "b" / "01.png").unlink()
    out = discover()
    assert len(out.files) == N - 1
    discover("fresh")
    same_but_for_last_bits(tmp_path / "out", tmp_path / "fresh")
    other = discover(discovery=DiscoverySettings(**{**SETTINGS, "centrality": "none"}))
    assert not np.array_equal(other.maps, out.maps)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"descriptor": "mac"}, {"whitening": True}])
def test_nodes_are_found_in_what_changed_alone(
    discover, undisturbed, photos, tmp_path, seen, settings
):
    if "whitening" in settings:
        plain = open_objects(undisturbed / "out").descriptors.vectors
        settings = {"whitening": features.learn_pca(plain, 5)}
    assert discover(**settings).descriptors.changes is None
    change(photos)
    seen.clear()
    out = discover(**settings)
    # The nodes of two, the objects of all, and two pictures for the page.
    assert sum(seen) == 2 + N + 2
    assert out.learned_again
    assert out.done() == (
        "15 photos: 1 new, 1 altered, 1 gone, 1 renamed, 12 unchanged; the nodes of 13 photos "
        "were kept; objects were learned again, and located in all photos"
    )
    discover("fresh", **settings)
    same_but_for_last_bits(tmp_path / "out", tmp_path / "fresh")
    seen.clear()
    before = contents(tmp_path / "out")
    out = discover(**settings)
    assert (seen, contents(tmp_path / "out")) == ([], before)
    assert out.done() == (
        "15 photos: 0 new, 0 altered, 0 gone, 15 unchanged; nothing was done again"
    )


def test_photos_of_other_names_and_times_are_not_learned_from_again(
    discover, discovered, photos, tmp_path, seen, monkeypatch
):
    page = (tmp_path / "out" / "page.html").read_text()
    os.utime(photos / "06.png")
    monkeypatch.setattr(ObjectDiscovery, "fit_nodes", lambda *_: 1 / 0)
    seen.clear()
    out = discover()
    assert (seen, out.learned_again) == ([], False)
    monkeypatch.undo()
    discover("fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    # The names are on the page, which is written again if they have changed.
    (photos / "00.png").rename(photos / "0.png")
    assert not discover().learned_again
    assert page.replace("00.png", "0.png") == (tmp_path / "out" / "page.html").read_text()
    discover("fresh2")
    same_but_for_last_bits(tmp_path / "out", tmp_path / "fresh2")


@pytest.mark.slow
@pytest.mark.usefixtures("discovered")
def test_other_settings_of_learning_keep_the_nodes(discover, tmp_path, seen):
    other = {"discovery": DiscoverySettings(**{**SETTINGS, "centrality": "none"})}
    seen.clear()
    out = discover(**other)
    assert sum(seen) == N + 2
    assert "0 new, 0 altered, 0 gone, 15 unchanged; the nodes of 15 photos were" in out.done()
    discover("fresh", **other)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    seen.clear()
    out = discover(discovery=DiscoverySettings(**{**SETTINGS, "feature_threshold": 0.2}))
    assert sum(seen) == 2 * N + 2
    assert out.done().startswith(
        "15 photos, all described anew: made with other settings (feature_threshold); objects were"
    )
    # Regions do not depend on it, but on their mixture.
    regions = {**SETTINGS, "nodes": "regions"}
    discover(discovery=DiscoverySettings(**regions))
    seen.clear()
    discover(discovery=DiscoverySettings(**{**regions, "feature_threshold": 0.2}))
    assert sum(seen) == N + 2
    egm = replace(DiscoverySettings().feature_egm, threshold=0.3)
    out = discover(discovery=DiscoverySettings(**regions, feature_egm=egm))
    assert "described anew: made with other settings (threshold)" in out.done()


@pytest.mark.slow
@pytest.mark.usefixtures("discovered")
@pytest.mark.parametrize("damage", ["altered", "earlier version"])
def test_damaged_discoveries_are_not_taken_over(discover, photos, tmp_path, seen, damage):
    if damage == "altered":
        (file,) = (tmp_path / "out").glob("arrays-*/found_vectors.npy")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        stored = storage.load(tmp_path / "out", FORMAT)
        arrays = {n: a for n, a in stored.arrays.items() if n != "box_groups"}
        storage.save(tmp_path / "out", FORMAT, stored.manifest, arrays)
        with pytest.raises(DiffusionError, match="out: an earlier version of this library"):
            open_objects(tmp_path / "out")
    (photos / "00.png").unlink()
    seen.clear()
    out = discover()
    assert sum(seen) == 2 * (N - 1) + 2
    assert damage in out.descriptors.changes.anew
    if damage == "earlier version":
        assert out.done().startswith(
            "14 photos, all described anew: an earlier version of this library described them; "
        )
    discover("fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_nodes_that_are_not_as_expected_are_an_error(undisturbed, tmp_path):
    stored = storage.load(undisturbed / "out", FORMAT)
    for changed in (
        {"found_fine_counts": stored.arrays["found_fine_counts"][1:]},
        {"found_fine": stored.arrays["found_fine"][1:]},
        {"found_vectors": stored.arrays["found_vectors"].astype(np.float64)},
        {"found_vectors": stored.arrays["found_vectors"][1:]},
    ):
        storage.save(tmp_path / "changed", FORMAT, stored.manifest, {**stored.arrays, **changed})
        with pytest.raises(DiffusionError, match=r"manifest\.json: altered"):
            open_objects(tmp_path / "changed")


@pytest.fixture(scope="module")
def updated(weights, one_thread, tmp_path_factory):
    """Changed `photos`, what was discovered `before`, and `out`, an update without interruption."""
    folder = tmp_path_factory.mktemp("updated")
    write_photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "SHARD_IMAGES", 4)
        discover_in(folder / "photos", folder / "before", weights)
        shutil.copytree(folder / "before", folder / "out")
        change(folder / "photos")
        discover_in(folder / "photos", folder / "out", weights)
    return folder


# The two photos make a shard of nodes; then come what was learned and the shards of objects.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "ending"), [(0, ".npz"), (0, "manifest.json"), (2, ".npz"), (1, "manifest.json")]
)
def test_a_killed_update_goes_on_to_the_same_bytes(updated, weights, tmp_path, after, ending):
    killed = shutil.copytree(updated / "before", updated / tmp_path.name)
    before = open_objects(killed).files
    call = (
        "import torch\n"
        "from features import *\n"
        "from features.description import sweep\n"
        "torch.set_num_threads(1)\n"
        "sweep.SHARD_IMAGES = 4\n"
        "discover_folder(*sys.argv[3:5], NetworkSettings('alexnet', sys.argv[5]), "
        "images=ImageSettings(size=120), run=RunSettings(batch_size=3, workers=2), pictures=2, "
        f"discovery=DiscoverySettings(**{SETTINGS!r}))\n"
    )
    arguments = updated / "photos", killed, weights
    run_killed(call, after, ending, *arguments)
    assert open_objects(killed, verify=True).files == before
    run_whole(call, *arguments)
    assert contents(killed) == contents(updated / "out")


@pytest.mark.slow
def test_the_commands_update_with_the_settings_of_before(
    photos, weights, tmp_path, capsys, seen, monkeypatch
):
    network = ["--backbone", "alexnet", "--weights", str(weights), "--size", "120"]
    own = ["--descriptor", "mac", "--pictures", "3", "-k", "4", "--map-beta", "5"]
    graph = ["--affinity", "cosine", "-k", "5"]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["discover", "photos", "out", *network, *own, "-q"]) == 0
    assert cli.main(["index", "out", "index", *graph, "-q"]) == 0
    change(photos)
    capsys.readouterr()
    assert cli.main(["search", "index", "photos/06.png", "-k", "1", "-q"]) == 0
    said = capsys.readouterr().err
    assert ": 2 new, 2 altered, 2 gone; update it: features index " in said
    shutil.copytree("out", "copy", copy_function=shutil.copy2)
    seen.clear()
    assert cli.main(["index", "photos", "index", "-q"]) == 0
    assert sum(seen) == 2 + N + 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "photos: 15 photos: 1 new, 1 altered, 1 gone, 1 renamed, 12 unchanged"
    assert lines[1].startswith("index: 15 photos (built anew: the objects were learned again); Gr")
    assert cli.main(["search", "index", "photos/06.png", "-k", "1", "-q"]) == 0
    assert capsys.readouterr().err == ""
    seen.clear()
    assert cli.main(["discover", "photos", "copy", "-q"]) == 0
    assert sum(seen) == 2 + N + 3
    assert capsys.readouterr().out.splitlines()[0] == (
        "copy: 15 photos: 1 new, 1 altered, 1 gone, 1 renamed, 12 unchanged; the nodes of 13 "
        "photos were kept; objects were learned again, and located in all photos"
    )
    assert cli.main(["discover", "photos", "fresh", *network, *own, "-q"]) == 0
    same_but_for_last_bits(tmp_path / "out", tmp_path / "fresh")
    same_but_for_last_bits(tmp_path / "copy", tmp_path / "fresh")


def test_an_index_of_other_descriptors_of_the_same_objects_is_built_anew(
    discover, discovered, tmp_path
):
    out = discovered.descriptors
    parameters = {"k": 3, "affinity": "cosine"}
    build_index(out, tmp_path / "index", diffusion.Reranker(**parameters))
    shutil.move(tmp_path / "out", tmp_path / "moved")
    moved = open_objects(tmp_path / "moved").descriptors
    again = build_index(moved, tmp_path / "index", diffusion.Reranker(**parameters))
    assert (again.added, again.removed, again.anew) == (0, 0, "")
    other = discover("moved", descriptor="mac").descriptors
    again = build_index(other, tmp_path / "index", diffusion.Reranker(**parameters))
    assert again.anew == "made with other settings (descriptor)"
