"""The mutators, the reduction of what they do, and the workers that run it."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import time
import zipfile

import numpy as np
import pytest

from . import mutations
from .mutations import Special, applied, atoms_of, delta_of, from_json, reduced, to_json
from .workers import Outcome, Pool


def saved(save, *arguments, **arrays):
    out = io.BytesIO()
    save(out, *arguments, **arrays)
    return out.getvalue()


ARRAY = saved(np.save, np.arange(24, dtype=np.float32).reshape(4, 6))
JSON = json.dumps({"a": [1, {"b": None}], "c": 0.5}).encode()
SEEDS = {
    "any_bytes": ARRAY,
    "any_npy": ARRAY,
    "npy_header": ARRAY,
    "npy_values": ARRAY,
    "any_json": JSON,
    "any_zip": saved(np.savez, scores=np.ones((2, 3)), ids=np.ones((2, 3), int)),
    "any_text": b"0 Q0 3 1 0.5 tag\n1 Q0 3 1 0.5 tag\n",
    "any_pickle": pickle.dumps({"a": np.arange(3), "b": [1, "x"]}, protocol=2),
    "any_png": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\3IHDRabc\0\0\0\0" + b"\0\0\0\0IEND\0\0\0\0",
    "any_safetensors": (2).to_bytes(8, "little") + b"{}" + b"\0" * 16,
    "any_special": ARRAY,
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_repeats_a_mutation(name):
    mutator, content = getattr(mutations, name), SEEDS[name]

    def drawn():
        return [mutator(content, np.random.default_rng(seed)) for seed in range(60)]

    made = drawn()
    assert made == drawn()
    assert sum(one != content for one in made) > 35
    for damaged in made[:40]:  # what is damaged can be damaged again
        if isinstance(damaged, bytes) and len(damaged) < 1 << 20:
            mutator(damaged, np.random.default_rng(1))


def test_headers_and_members_stay_readable_where_they_are_meant_to():
    readable = 0
    for seed in range(60):
        made = mutations.any_zip(SEEDS["any_zip"], np.random.default_rng(seed))
        try:
            with zipfile.ZipFile(io.BytesIO(made)) as archive:
                readable += archive.testzip() is None
        except zipfile.BadZipFile:
            pass
    assert readable > 30


def test_values_change_and_the_file_stays_an_array():
    for seed in range(40):
        made = mutations.npy_values(ARRAY, np.random.default_rng(seed))
        assert np.load(io.BytesIO(made)).dtype.kind in "fiub"


def test_a_manifest_is_signed_as_the_storage_signs_it(tmp_path):
    from diffusion import DiffusionError, storage

    format = storage.Format("x", 1, "an x")
    storage.save(tmp_path / "x", format, {"about": "é"}, {"a": np.arange(5)})
    files = mutations.read_folder(tmp_path / "x")
    (array,) = (name for name in files if name.endswith(".npy"))
    files[array] = saved(np.save, np.arange(7.0))
    mutations.write_folder(tmp_path / "unsigned", files)
    with pytest.raises(DiffusionError):
        storage.load(tmp_path / "unsigned", format)
    mutations.write_folder(tmp_path / "signed", mutations.resigned(files))
    stored = storage.load(tmp_path / "signed", format, verify=True)
    np.testing.assert_array_equal(stored.arrays["a"], np.arange(7.0))


def test_a_failure_is_reduced_to_the_bytes_that_make_it():
    files = {"a": bytes(100), "b": bytes(50), "c": b"long"}
    noisy = {"a": bytes([7, 0] * 50), "b": bytes([0, 9] * 25), "c": b"longer"}
    tried = []

    def fails(delta):
        tried.append(delta)
        new = applied(files, delta)
        return new["a"][40] == 7 and new["b"][3] == 9

    small = reduced(files, noisy, fails, tries=200)
    assert atoms_of(files, small) == [("a", 40, b"\7"), ("b", 3, b"\x09")]
    assert len(tried) < 200


def test_a_delta_is_kept_as_json():
    files = {"a": b"abcdef", "b": b"xyz", "c": b"", "d": b"gone"}
    delta = {
        "a": b"aXcdYZ",
        "b": b"another length",
        "d": None,
        "e": Special("link", "/dev/zero"),
        "f": Special("sparse", (b"begin", 1000)),
        "g": Special("fifo"),
    }
    line = json.dumps(to_json(files, delta))
    assert from_json(files, json.loads(line)) == delta
    assert delta_of(files, atoms_of(files, delta)) == delta


# --- the workers, with this module as a campaign --------------------------------------------------


def prepare(folder):
    pass


def perform(case):
    if case == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case == "hang":
        while True:
            time.sleep(0.01)
    if case == "memory":
        return Outcome("got", str(len(bytearray(1 << 31))))
    if case == "error":
        raise KeyError("x")
    if case == "refused":
        from diffusion import DiffusionError

        raise DiffusionError("no")
    return Outcome("right", case)


@pytest.mark.slow
def test_workers_outlive_their_cases(tmp_path):
    cases = ["a", "crash", "b", "memory", "error", "hang", "refused", "c"]
    with Pool(__name__, tmp_path, memory=1 << 29, limit=0.5) as pool:
        found = dict(pool.run(cases))
    assert {case: outcome.kind for case, outcome in found.items()} == {
        **dict.fromkeys("abc", "right"),
        **{case: case for case in cases if len(case) > 1},
    }
    assert "SIGSEGV" in found["crash"].detail
    assert "KeyError" in found["error"].detail
    assert pool.replaced == 2
    assert not list(tmp_path.iterdir())
