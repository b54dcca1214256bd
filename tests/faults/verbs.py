"""Everything in the library that writes files, as calls that can be broken off and repeated.

A verb writes one of two versions of its files into a home folder: version 0 is the old state that
version 1 replaces.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import diffusion
from diffusion import DiffusionError, RegionalReranker, Reranker, storage
from diffusion.cli import main as diffusion_main
from diffusion.index_state import INDEX
from tests.support.photos import pattern, png

_FOLDER = re.compile(r"arrays-[0-9a-f]{8}")
# What says that a directory has no state to read, and not a broken one.
_NONE_YET = ("found no manifest.json", "is not finished")


class VerbFailedError(Exception):
    """A command ended with status 2; the message is what it printed."""


@dataclass(frozen=True)
class Verb:
    """A call that writes files.

    Attributes
    ----------
    name : str
    run : callable
        Takes the folder of inputs, the home folder and the version, and writes into the home.
    read : callable
        Takes the home folder and returns what a reader sees there: a comparable value per file
        or directory that is replaced as a whole, None where there is nothing to read. It raises
        if there is something that cannot be read.
    replaces : bool
        Whether version 1 may be written over version 0.
    """

    name: str
    run: Callable[[Path, Path, int], None]
    read: Callable[[Path], tuple[Any, ...]]
    replaces: bool = True


# --- inputs ---------------------------------------------------------------------------------------

ITEMS, DIMENSION = 240, 8


def make_vectors(home: Path) -> None:
    """Write what the verbs of the command `diffusion` read."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ITEMS, DIMENSION)).astype(np.float32)
    np.save(home / "vectors.npy", X)
    np.save(home / "queries.npy", rng.standard_normal((5, DIMENSION)).astype(np.float32))
    index = diffusion.Reranker(k=8).fit(X)
    scores, ids = index.search(X, k=12)
    np.save(home / "scores.npy", scores)
    np.save(home / "ids.npy", ids)
    np.savez(home / "first.npz", scores=scores[:5], ids=ids[:5])
    index.save(home / "index")


def make_photos(home: Path) -> None:
    """Write what the verbs of the command `features` read."""
    from features.networks import backbones
    from features.networks.weights import write_file

    for number in range(14):
        height, width = ((72, 96), (96, 72))[number % 2]
        image = pattern(height, width, seed=100 + number) // 3
        image[10:60, 10:60] = pattern(50, 50, seed=number % 3)
        file = home / "photos" / f"class{number % 3}" / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image))
    register_network()
    for seed in (0, 1):
        trunk = backbones.backbone("tiny", seed=seed)
        write_file(home / f"weights{seed}.safetensors", trunk.state_dict())
    _extract(home, home, 0)
    (home / "out").rename(home / "descriptors")
    run_features("discover", home / "photos", home / "objects", *_network(home, 0), *_OBJECTS)
    run_features("index", home / "descriptors", home / "photo-index", "-k", 5, "-q")


def register_network() -> None:
    """Make the tests' small trunk known, and keep shards small."""
    from features.description import sweep
    from features.networks import backbones
    from tests.support.networks import Tiny

    backbones._MAKERS["tiny"] = Tiny
    sweep.SHARD_IMAGES = 4


def _network(inputs: Path, seed: int) -> list[Any]:
    weights = inputs / f"weights{seed}.safetensors"
    return ["--backbone", "tiny", "--weights", weights, "--workers", 1, "-q"]


_OBJECTS = ["--size", 64, "--batch-size", 3, "--pictures", 2, "--neighbors", 4, "-k", 4]
_OBJECTS += ["--dimension", 8, "--feature-threshold", 0, "--object-egm", "threshold=0.1"]


# --- running --------------------------------------------------------------------------------------


def _command(main: Callable[[list[str]], int], arguments: tuple[Any, ...]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
    if status:
        raise VerbFailedError(said.getvalue())


def run_diffusion(*arguments: Any) -> None:
    """Run the command `diffusion`; an error is raised with what it printed."""
    _command(diffusion_main, arguments)


def run_features(*arguments: Any) -> None:
    """Run the command `features`; an error is raised with what it printed."""
    import torch

    from features.cli import main

    torch.set_num_threads(1)  # the last bits depend on it
    _command(main, arguments)


def _build(*options: Any) -> Callable[[Path, Path, int], None]:
    def run(inputs: Path, home: Path, version: int) -> None:
        vectors = inputs / "vectors.npy"
        run_diffusion("build", vectors, home / "index", "-k", 6 + version, "-q", *options)

    return run


def _build_from_lists(inputs: Path, home: Path, version: int) -> None:
    lists = ("--neighbor-scores", inputs / "scores.npy", "--neighbor-ids", inputs / "ids.npy")
    run_diffusion("build", home / "index", *lists, "-k", 6 + version, "-q")


def _search(name: str) -> Callable[[Path, Path, int], None]:
    def run(inputs: Path, home: Path, version: int) -> None:
        index, queries = inputs / "index", inputs / "queries.npy"
        run_diffusion("search", index, queries, "-o", home / name, "-k", 20 + version, "-q")

    return run


def _rerank(inputs: Path, home: Path, version: int) -> None:
    index, first = inputs / "index", inputs / "first.npz"
    run_diffusion("rerank", index, first, "-o", home / "reranked.npz", "-k", 20 + version, "-q")


def _save(inputs: Path, home: Path, version: int) -> None:
    X = np.load(inputs / "vectors.npy")
    Reranker(k=6 + version, solver=diffusion.Spectral(rank=20)).fit(X).save(home / "index")


def _save_regions(inputs: Path, home: Path, version: int) -> None:
    X = np.load(inputs / "vectors.npy")
    regional = RegionalReranker(k=6 + version, query_k=6)
    regional.fit(X, np.arange(len(X)) // 4).save(home / "index")


def _extract(inputs: Path, home: Path, version: int, *options: Any) -> None:
    settings = [*_network(inputs, version), "--size", 64, "--batch-size", 3, "--pooling", "gem"]
    run_features("extract", inputs / "photos", home / "out", *settings, *options)


def _extract_regions(inputs: Path, home: Path, version: int) -> None:
    _extract(inputs, home, version, "--regions", "rmac", "--whitening", inputs / "whitening.npz")


def _whiten(inputs: Path, home: Path, version: int) -> None:
    target = home / "whitening.npz"
    run_features("whiten", inputs / "descriptors", target, "--dimension", 8 + version)


def _index_photos(inputs: Path, home: Path, version: int) -> None:
    settings = [*_network(inputs, version), "--size", 64, "--batch-size", 3, "--pooling", "gem"]
    run_features("index", inputs / "photos", home / "index", *settings, "-k", 5)


def _search_photos(inputs: Path, home: Path, version: int) -> None:
    photo = inputs / "photos" / "class0" / "00.png"
    index = inputs / "photo-index"
    run_features("search", index, photo, "-o", home / "found.npz", "-k", 5 + version, "-q")


def _train(inputs: Path, home: Path, version: int) -> None:
    settings = [*_network(inputs, 0), "--pooling", "gem", "--epochs", 3, "--batch-size", 6]
    photos = inputs / "photos"
    run_features("train", photos, home / "out", *settings, "--validation", photos)


def _discover(inputs: Path, home: Path, version: int) -> None:
    settings = [*_network(inputs, version), *_OBJECTS]
    run_features("discover", inputs / "photos", home / "out", *settings)


def _locate(inputs: Path, home: Path, version: int) -> None:
    photos = [inputs / "photos" / "class0" / "00.png", inputs / "photos" / "class1" / "01.png"]
    files = ("--maps", home / "maps.npz", "--page", home / "page.html")
    run_features("locate", inputs / "objects", *photos[: 1 + version], *files)


def without_places(text: str) -> str:
    """Return a manifest or a page without the places of folders and the links to their files.

    A home of another name or depth changes them.
    """
    return re.sub(r'"(absolute|relative|path)": "[^"]*"|<a href="[^"]*"', "", text)


# --- reading --------------------------------------------------------------------------------------


def _stored(path: Path, format: storage.Format) -> str | None:
    """Return the content of a directory of arrays, and None where none has been written yet."""
    try:
        stored = storage.load(path, format, verify=True)
    except DiffusionError as error:
        if any(text in str(error) for text in _NONE_YET):
            return None
        raise
    plain = {key: v for key, v in stored.manifest.items() if key not in ("arrays", "checksum")}
    plain = without_places(json.dumps(plain, sort_keys=True))
    arrays = {key: hashlib.sha256(a.tobytes()).hexdigest() for key, a in stored.arrays.items()}
    return json.dumps([plain, arrays], sort_keys=True)


def _index(home: Path) -> tuple[Any]:
    state = _stored(home / "index", INDEX)
    if state is None:
        return (None,)
    ranker = diffusion.load(home / "index")
    scores, ids = ranker.rerank([[1.0, 0.5, 0.2]], [ranker.ids_[[3, 1, 2]].tolist()], k=10)
    return ((state, ids.tolist(), scores.tolist()),)


def _regional_index(home: Path) -> tuple[Any]:
    return (_stored(home / "index", INDEX),)


def _photo_index(home: Path) -> tuple[Any, Any]:
    from features.description.descriptors import FORMAT

    return *_index(home), _stored(home / "index.descriptors", FORMAT)


def _described(home: Path) -> tuple[Any]:
    from features.description.descriptors import FORMAT

    return (_stored(home / "out", FORMAT),)


def _trained(home: Path) -> tuple[Any]:
    from features.training.trainer import TRAINING

    done = _stored(home / "out", TRAINING) is not None
    return (check_file(home / "out" / "network.safetensors") if done else None,)


def _files(*names: str) -> Callable[[Path], tuple[Any, ...]]:
    def read(home: Path) -> tuple[Any, ...]:
        found = [home / name for name in names]
        return tuple(check_file(file) if file.exists() else None for file in found)

    return read


def check_file(file: Path) -> str:
    """Return the checksum of a file; raise if it is not whole."""
    content = file.read_bytes()
    if file.suffix == ".npz":
        with np.load(io.BytesIO(content)) as arrays:
            assert all(arrays[name] is not None for name in arrays.files)
    elif file.suffix == ".json":
        json.loads(content)
    elif file.suffix == ".svg":
        ElementTree.fromstring(content)
    elif file.suffix == ".html":
        assert content.rstrip().endswith(b"</html>")
    elif file.suffix == ".safetensors":
        from features.networks.weights import read_file

        read_file(file)
    elif file.suffix == ".run":
        assert all(len(line.split()) == 6 for line in content.decode().splitlines())
        assert content.endswith(b"\n")
    return hashlib.sha256(content).hexdigest()


def check_whole(home: Path) -> None:
    """Raise unless every file outside of folders of arrays and checkpoints is whole."""
    for file in home.rglob("*"):
        inside = file.suffix == ".npy" or any(_FOLDER.fullmatch(part) for part in file.parts)
        if file.is_file() and not inside and not file.name.endswith(".tmp"):
            check_file(file)


def names(home: Path) -> set[str]:
    """Return the names of all files and folders, without what is random in them."""
    found = (path.relative_to(home).as_posix() for path in home.rglob("*"))
    return {_FOLDER.sub("arrays", name) for name in found}


VECTORS = [
    Verb("diffusion build", _build(), _index),
    Verb("diffusion build, columns", _build("--solver", "columns"), _index),
    Verb("diffusion build, lists", _build_from_lists, _index),
    Verb("diffusion search -o .npz", _search("found.npz"), _files("found.npz")),
    Verb("diffusion search -o .run", _search("found.run"), _files("found.run")),
    Verb("diffusion rerank -o", _rerank, _files("reranked.npz")),
    Verb("Reranker.save", _save, _index),
    Verb("RegionalReranker.save", _save_regions, _regional_index),
]
PHOTOS = [
    Verb("features extract", _extract, _described),
    Verb("features extract, regions", _extract_regions, _described),
    Verb("features whiten", _whiten, _files("whitening.npz")),
    Verb("features index", _index_photos, _photo_index),
    Verb("features search -o", _search_photos, _files("found.npz")),
    Verb("features train", _train, _trained, replaces=False),
    Verb("features discover", _discover, _described),
    Verb("features locate", _locate, _files("maps.npz", "page.html")),
]
VERBS = {verb.name: verb for verb in (*VECTORS, *PHOTOS)}


@contextlib.contextmanager
def prompt_records() -> Iterator[None]:
    """Record the progress of a checkpoint at every step, and not every few seconds."""
    from diffusion.storage import rows

    before, rows._INTERVAL = rows._INTERVAL, -1.0
    try:
        yield
    finally:
        rows._INTERVAL = before
