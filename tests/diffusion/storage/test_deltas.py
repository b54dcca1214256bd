"""Saves that write what differs from what is stored."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError, storage
from diffusion.storage import deltas
from tests.support.disk import CRASHES, DELETING, READING, Crash, Disk, operations
from tests.support.forgery import change_manifest, describe_file

FORMAT = storage.Format("test", 2, "a test", earlier=(1,))
ROWS = [storage.Ragged("starts", "stops", ("items", "weights"))]
FIXED = ("vectors", "labels", "number")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Treat small arrays as large ones are."""
    monkeypatch.setattr(deltas, "SMALL_INDEX", 0)
    monkeypatch.setattr(deltas, "SMALL_ARRAY", 0)


def make(n, seed=0, most=6):
    """Arrays of n rows, some of fixed and some of any length."""
    rng = np.random.default_rng(seed)
    stops = np.cumsum(rng.integers(0, most, n))
    starts = np.append(0, stops[:-1])
    total = int(stops[-1])
    return {
        "starts": starts,
        "stops": stops,
        "items": rng.integers(0, 99, total).astype(np.int32),
        "weights": rng.random(total).astype(np.float32),
        "vectors": rng.standard_normal((n, 3)).astype(np.float32),
        "labels": rng.integers(0, 9, n).astype(np.uint8),
        "number": np.array([float(n)]),
    }


def rows_of(arrays):
    return [
        (arrays["items"][a:b].tolist(), arrays["weights"][a:b].tolist())
        for a, b in zip(arrays["starts"], arrays["stops"], strict=True)
    ]


def changed(arrays, rows, n, seed=1):
    """Some rows replaced, and the last ones dropped or new ones added."""
    rng = np.random.default_rng(seed)
    other, old = make(max(n, 1), seed + 100), rows_of(arrays)
    own = rows_of(other)
    kept = [own[i] if i in rows or i >= len(old) else old[i] for i in range(n)]
    counts = np.array([len(items) for items, _ in kept], np.int64)
    stops = np.cumsum(counts)
    new = {
        "starts": stops - counts,
        "stops": stops,
        "items": np.array([i for items, _ in kept for i in items], np.int32),
        "weights": np.array([w for _, weights in kept for w in weights], np.float32),
        "number": np.array([float(rng.integers(9))]),
    }
    for name in ("vectors", "labels"):
        new[name] = other[name].copy()
        common = min(n, len(arrays[name]))
        stay = [i for i in range(common) if i not in rows]
        new[name][stay] = arrays[name][stay]
    return new


def save(path, arrays, **content):
    storage.save(path, FORMAT, content, arrays, ROWS)


def check(path, arrays):
    """What is loaded is what was saved."""
    loaded = storage.load(path, FORMAT, verify=True).arrays
    assert loaded.keys() == arrays.keys()
    for name in FIXED:
        assert loaded[name].dtype == arrays[name].dtype
        np.testing.assert_array_equal(loaded[name], arrays[name])
    assert rows_of(loaded) == rows_of(arrays)


def entries(path):
    return json.loads((path / "manifest.json").read_text())["arrays"]


def sizes(path):
    return {file: file.stat().st_size for file in path.rglob("*.npy")}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(
        st.tuples(st.sets(st.integers(0, 50), max_size=4), st.integers(1, 50)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([1, 4, 1000]),
)
def test_any_sequence_of_saves_is_read_as_it_was_saved(tmp_path_factory, n, changes, share):
    path = tmp_path_factory.mktemp("saved") / "index"
    arrays = make(n)
    save(path, arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deltas, "SHARE", share)
        opened = []
        for seed, (rows, n_now) in enumerate(changes):
            opened.append((storage.load(path, FORMAT).arrays, arrays))
            arrays = changed(arrays, rows, n_now, seed)
            save(path, arrays)
            check(path, arrays)
            # Readers keep what they opened.
            for loaded, was in opened:
                np.testing.assert_array_equal(loaded["vectors"], was["vectors"])
                assert rows_of(loaded) == rows_of(was)
    # Nothing is left that the manifest does not name.
    named = {e["file"] for e in entries(path).values()}
    named |= {e["patch"]["file"] for e in entries(path).values() if "patch" in e}
    assert {str(file.relative_to(path)) for file in path.rglob("*.npy")} == named


def test_little_is_written_for_a_small_change(tmp_path):
    path, arrays = tmp_path / "index", make(20_000)
    save(path, arrays)
    before, whole = sizes(path), sum(sizes(path).values())
    new = changed(arrays, set(range(5, 20_000, 200)), 20_050)
    save(path, new)
    check(path, new)
    after = sizes(path)
    written = sum(size - before.get(file, 0) for file, size in after.items())
    assert 0 < written < whole / 20
    assert "patch" in entries(path)["vectors"]
    assert "appended" in entries(path)["vectors"]
    assert "patch" in entries(path)["starts"]
    assert "appended" in entries(path)["items"]
    # The same once more: nothing but the manifest.
    save(path, new, k=3)
    assert sizes(path) == after
    assert storage.load(path, FORMAT).manifest["k"] == 3


def test_rows_are_written_anew_when_a_large_share_is_of_no_use(tmp_path):
    path, arrays = tmp_path / "index", make(1000, most=40)
    save(path, arrays)
    first = entries(path)["items"]["file"]
    live = int((arrays["stops"] - arrays["starts"]).sum())
    anew = False
    for seed in range(12):
        rows = set(np.random.default_rng(seed).choice(1000, 50, replace=False).tolist())
        arrays = changed(arrays, rows, 1000, seed)
        save(path, arrays)
        check(path, arrays)
        entry = entries(path)["items"]
        live = int((arrays["stops"] - arrays["starts"]).sum())
        assert entry["shape"][0] <= live * (1 + 1 / deltas.SHARE)
        anew |= entry["file"] != first
    assert anew


def test_the_checksums_of_what_is_appended_stay_few(tmp_path):
    path = tmp_path / "index"
    X = np.arange(3000.0).reshape(-1, 3)
    for n in range(100, 1000, 7):
        save(path, {"X": X[:n]})
    entry = entries(path)["X"]
    assert 0 < len(entry["appended"]) < 10
    np.testing.assert_array_equal(storage.load(path, FORMAT, verify=True).arrays["X"], X[:n])


def test_rows_that_come_back_are_not_written_where_a_reader_has_them(tmp_path):
    path, X = tmp_path / "index", np.arange(60.0).reshape(-1, 2)
    save(path, {"X": X})
    reader = storage.load(path, FORMAT).arrays["X"]
    save(path, {"X": X[:28]})
    other = X.copy()
    other[28:] = -1
    save(path, {"X": other})
    np.testing.assert_array_equal(reader, X)
    np.testing.assert_array_equal(storage.load(path, FORMAT, verify=True).arrays["X"], other)


def test_what_another_has_saved_meanwhile_is_compared_and_not_what_is_remembered(tmp_path):
    path, mine, theirs = tmp_path / "index", make(50, 1), make(70, 2)
    save(path, mine)
    save(path, theirs)
    save(path, changed(mine, {3}, 50))
    check(path, changed(mine, {3}, 50))


@pytest.mark.parametrize("kind", [np.float64, np.int32])
@pytest.mark.parametrize("width", [2, 3])
def test_arrays_of_another_kind_are_written_anew(tmp_path, kind, width):
    save(tmp_path, {"X": np.ones((9, 2), np.int32), "gone": np.ones(4)})
    X = np.ones((9, width), kind)
    save(tmp_path, {"X": X, "new": np.zeros((0, 3)), "one": np.ones(1)})
    loaded = storage.load(tmp_path, FORMAT, verify=True).arrays
    assert loaded.keys() == {"X", "new", "one"}
    assert (loaded["X"].dtype, loaded["X"].shape) == (kind, (9, width))
    save(tmp_path, {"X": X, "new": np.ones((2, 3)), "one": np.full(1, 4.0)})
    assert storage.load(tmp_path, FORMAT, verify=True).arrays["one"].tolist() == [4]


def test_rows_outside_their_entries_are_refused(tmp_path):
    arrays = make(20)
    save(tmp_path, arrays)
    for name, value in (("starts", -1), ("stops", 10**6)):
        wrong = {**arrays, name: arrays[name].copy()}
        wrong[name][3] = value
        with pytest.raises(DiffusionError, match="expected rows within items"):
            save(tmp_path, wrong)
    check(tmp_path, arrays)


def test_an_earlier_version_is_read_and_replaced_as_a_whole(tmp_path):
    arrays = make(30)
    storage.save(tmp_path, storage.Format("test", 1, "a test"), {}, arrays)
    check(tmp_path, arrays)
    before = sizes(tmp_path)
    save(tmp_path, arrays)
    assert not before.keys() & sizes(tmp_path).keys()
    with pytest.raises(DiffusionError, match="a test of version 2, this library reads version 1"):
        storage.load(tmp_path, storage.Format("test", 1, "a test"))


# --- interruptions --------------------------------------------------------------------------------


@pytest.fixture
def states(tmp_path):
    """A directory with a patch and with appended rows, and the states before and after a save."""
    path = tmp_path / "home" / "index"
    arrays = make(60)
    save(path, arrays)
    before = changed(arrays, {2, 9}, 62, 5)
    save(path, before)
    after = changed(before, {4, 30}, 63, 6)
    return path, before, after


def is_state(path, arrays):
    try:
        check(path, arrays)
    except AssertionError:
        return False
    return True


@pytest.mark.slow
def test_a_fault_at_any_operation_leaves_the_state_before_or_after(states, tmp_path):
    path, before, after = states
    home, old = path.parent, tmp_path / "old"
    shutil.copytree(home, old)
    with Disk(home)() as disk:
        save(path, after)
    check(path, after)
    assert {"write", "fsync", "replace", "create"} <= {one.what for one in disk.log}
    count = 0
    for kind, operation in operations(disk.log):
        shutil.rmtree(home)
        shutil.copytree(old, home)
        error = None
        try:
            with Disk(home, kind, operation.number)():
                save(path, after)
        except (Crash, DiffusionError) as raised:
            error = raised
        about = f"{kind} at {operation}: {error!r}"
        assert isinstance(error, Crash) == (kind in CRASHES), about
        assert is_state(path, after) or (error is not None and is_state(path, before)), about
        # Where no file can be deleted or even cut, what is left over waits for the next save.
        cut = operation.what not in DELETING | READING and kind != "full for good"
        if kind not in CRASHES and cut:
            assert error is None or str(path) in str(error), about
            named = sum(
                e["bytes"] + sum(s["bytes"] for s in e.get("appended", []))
                for entry in entries(path).values()
                for e in (entry, *([entry["patch"]] if "patch" in entry else []))
            )
            assert sum(sizes(path).values()) == named, about
        save(path, after)
        check(path, after)
        count += 1
    assert count > 50


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_operation_it_leaves_the_state_before_or_after(states, tmp_path, when):
    path, before, after = states
    home, old = path.parent, tmp_path / "old"
    shutil.copytree(home, old)
    with Disk(home)() as disk:
        save(path, after)
    found = set()
    for operation in disk.log:
        if operation.what not in ("write", "create", "fsync", "replace", "unlink", "mkdir"):
            continue
        shutil.rmtree(home)
        shutil.copytree(old, home)
        child = os.fork()
        if not child:
            with Disk(home, f"SIGKILL {when}", operation.number)():
                save(path, after)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found.add(is_state(path, after))
        assert is_state(path, after) or is_state(path, before)
        save(path, after)
        check(path, after)
    assert found == {True, False}


# --- damage ---------------------------------------------------------------------------------------


def patch_of(path, name):
    return path / entries(path)[name]["patch"]["file"]


@pytest.mark.parametrize("name", ["vectors", "items"])
@pytest.mark.parametrize("part", ["patch", "appended"])
def test_damage_is_one_clear_error(states, name, part):
    path, _, _ = states
    entry = entries(path)["starts" if (name, part) == ("items", "patch") else name]
    file = path / (entry["patch"]["file"] if part == "patch" else entry["file"])
    whole = file.read_bytes()
    file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(DiffusionError, match="altered, its SHA-256"):
        storage.load(path, FORMAT, verify=True)
    for cut in (1, len(whole) // 2, len(whole)):
        file.write_bytes(whole[: len(whole) - cut])
        for verify in (False, True):
            with pytest.raises(DiffusionError, match="truncated or altered"):
                storage.load(path, FORMAT, verify=verify)
    file.unlink()
    with pytest.raises(DiffusionError, match="cannot be read"):
        storage.load(path, FORMAT)
    # What is lost is written anew.
    save(path, make(60))
    check(path, make(60))


@pytest.mark.parametrize("rows", [[-1, 2], [2, 2], [9, 2], [2, 62], [2**62, 2**63 - 1]], ids=str)
def test_forged_numbers_of_patched_rows_are_refused(states, rows):
    path, _, _ = states
    file = patch_of(path, "vectors")
    patch = np.load(file)
    assert len(patch) == 2
    patch[:, :8] = np.array(rows, np.int64).view(np.uint8).reshape(2, 8)
    np.save(file, patch)
    change_manifest(
        path, lambda m: describe_file(m["arrays"]["vectors"]["patch"], file.read_bytes())
    )
    for verify in (False, True):
        with pytest.raises(DiffusionError, match="altered, expected ascending rows from 0 to 61"):
            storage.load(path, FORMAT, verify=verify)


def forged(**changes):
    return lambda entry: entry.update(changes)


@pytest.mark.parametrize(
    "change",
    [
        forged(patch=3),
        forged(patch=None),
        forged(patch={}),
        forged(appended=3),
        forged(appended=[3]),
        forged(appended=[{"bytes": -4, "sha256": ""}]),
        forged(appended=[{"bytes": 10**30, "sha256": ""}]),
        forged(shape=[10**30, 3]),
        forged(shape=[63, 3]),
        forged(shape=[62, 4]),
        forged(shape=[62]),
        forged(shape=[]),
        forged(shape=[62, 0]),
        forged(dtype="<f8"),
        forged(bytes=0),
        forged(bytes=-1),
        lambda entry: entry["patch"].update(file="../manifest.json"),
        lambda entry: entry["patch"].update(file=entry["file"]),
        lambda entry: entry["patch"].update(dtype="<f4"),
        lambda entry: entry["patch"].update(shape=[3, 20]),
        lambda entry: entry["patch"].update(shape=[2, 21]),
        lambda entry: entry["patch"].update(patch=dict(entry["patch"])),
        lambda entry: entry["appended"][0].update(bytes=13),
        lambda entry: entry["appended"].append({"bytes": 12, "sha256": "0"}),
    ],
)
def test_forged_entries_are_refused(states, change):
    path, _, _ = states
    change_manifest(path, lambda manifest: change(manifest["arrays"]["vectors"]))
    with pytest.raises(DiffusionError, match="altered"):
        storage.load(path, FORMAT)
    save(path, make(60))
    check(path, make(60))


def test_damaged_places_of_stored_rows_are_not_followed(states):
    path, _, after = states
    file = path / entries(path)["starts"]["file"]
    starts = np.load(file)
    starts[:] = 2**62
    with open(file, "r+b") as stream:
        stream.seek(128)
        stream.write(starts.tobytes())
    save(path, after)
    loaded = storage.load(path, FORMAT).arrays
    assert rows_of(loaded) == rows_of(after)


# --- indexes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbors", ["exact", diffusion.IVF(nlist=4, nprobe=4)], ids=repr)
def test_an_index_that_changed_is_saved_in_part(tmp_path, neighbors, monkeypatch):
    monkeypatch.setattr(deltas, "SHARE", 1)  # most of so few rows change
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 8))
    ranker = diffusion.Reranker(k=6, neighbors=neighbors).fit(X[:80])
    ranker.save(tmp_path / "index")
    reader, before = diffusion.load(tmp_path / "index"), ranker.search(X)
    ranker.add(X[80:])
    ranker.remove([3, 40, 77])
    ranker.save(tmp_path / "index")
    stored = entries(tmp_path / "index").values()
    assert any({"appended", "patch"} & entry.keys() for entry in stored)
    loaded = diffusion.load(tmp_path / "index", verify=True)
    for own, other in zip(loaded.search(X), ranker.search(X), strict=True):
        np.testing.assert_array_equal(own, other)
    for own, other in zip(reader.search(X), before, strict=True):
        np.testing.assert_array_equal(own, other)
    # What was loaded is saved again as it is, and as a whole elsewhere.
    size = sizes(tmp_path / "index")
    loaded.save(tmp_path / "index")
    assert sizes(tmp_path / "index") == size
    loaded.save(tmp_path / "copy")
    copy = diffusion.load(tmp_path / "copy", verify=True)
    assert not any("appended" in entry for entry in entries(tmp_path / "copy").values())
    for own, other in zip(copy.search(X), ranker.search(X), strict=True):
        np.testing.assert_array_equal(own, other)
