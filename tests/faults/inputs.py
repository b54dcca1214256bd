"""A campaign of damaged input files: every format that a command or a call of the library reads.

Where a command reads the format, its `main` is called, so that what a user would see is judged: the
exit status, one line of error, nothing half-written, no traceback and no escape sequence.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.io import savemat

import diffusion
import diffusion.cli
import features.cli
from bench.data import protocols
from diffusion import DiffusionError, Reranker
from diffusion.storage import runs
from features.description import extraction, retrieval_checkpoint
from features.description.recipe import load_network
from features.description.whitening import learn_pca, load_whitening
from features.images.reading import read_image, read_size
from features.networks import backbones
from features.networks.backbones.base import Sides
from features.networks.backbones.row import Convolution, Pooling, Row
from features.networks.trained import save_trained
from features.networks.weights import write_file
from features.objects.folder import discover_folder
from features.settings import DiscoverySettings, ImageSettings, NetworkSettings, RunSettings
from features.training.trainer import Trainer
from tests.support.networks import Tiny
from tests.support.photos import pattern, png

from .campaigns import Case
from .mutations import (
    Change,
    Delta,
    Files,
    Rng,
    Special,
    any_bytes,
    any_json,
    any_npy,
    any_pickle,
    any_png,
    any_safetensors,
    any_special,
    any_text,
    any_torch,
    any_zip,
    applied,
    npy_values,
    other_json,
    read_folder,
    resigned,
    signed,
    write_folder,
)
from .workers import Outcome

FINE = "read"
SHARED = "shared"
MANIFEST = "manifest.json"
ARRAYS = "arrays-00000000"
N, D = 40, 4

Mutator = Callable[[bytes, Rng], Change]


class Target(NamedTuple):
    """A format: how its files are written, what reads them, and how they are damaged.

    `build` takes the folder to write and the folder of what all targets share, `act` the damaged
    folder and the same. `damage` has a mutator for each pattern of names.
    """

    build: Callable[[Path, Path], None]
    act: Callable[[Path, Path], Any]
    damage: Mapping[str, Mutator]
    weight: float = 1.0
    signed: bool = False


def _rng() -> Rng:
    return np.random.default_rng(11)


def _vectors() -> Any:
    return _rng().standard_normal((N, D)).astype(np.float32)


# --- what a command may do ------------------------------------------------------------------------


class MisbehavedError(Exception):
    """A command did what none may do."""


def command(main: Callable[[list[str]], int], *arguments: object) -> str:
    """Run a command as a terminal would, and return what it prints.

    Raises
    ------
    DiffusionError
        If it refuses its input as it should: with the exit status 2 and one line.
    MisbehavedError
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(
        io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    before = _listed(_place)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: Any = main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
    printed, said = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    last = said.splitlines()[-1] if said else ""
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed + said):
        raise MisbehavedError("control characters: " + ascii(last)[:200])
    if re.search("allow_pickle|weights_only", said):
        raise MisbehavedError("advice to load unsafely: " + last[:200])
    if "not enough memory" in said:
        raise MemoryError(last)
    if "Traceback" in said:
        raise MisbehavedError("a traceback: " + last[:200])
    if status == 2:
        if not re.match(r"(diffusion|features): error: .", last):
            raise MisbehavedError("exit status 2 without a line of error: " + last[:200])
        left = [name for name in _listed(_place) - before if not _RESUMABLE.match(name)]
        if left:
            raise MisbehavedError(f"left behind: {sorted(left)[0]}")
        raise DiffusionError(last)
    if status:
        raise MisbehavedError(f"exit status {status}: {last[:200]}")
    return printed


def engine(*arguments: object) -> str:
    return command(diffusion.cli.main, *arguments)


def photos(*arguments: object) -> str:
    return command(features.cli.main, *arguments)


def network(shared: Path) -> list[object]:
    return ["--backbone", "tiny", "--weights", shared / "w.safetensors"]


# --- vectors and results --------------------------------------------------------------------------


def build_shared(home: Path) -> None:
    """Write what the targets share: an index, results, photos, weights."""
    home.mkdir(parents=True)
    X = _vectors()
    ranker = Reranker(k=10, query_k=4).fit(X)
    ranker.save(home / "index")
    scores, ids = ranker.search(X[:5], k=8)
    np.savez(home / "results.npz", scores=scores, ids=ids)
    for name, labels in {"gallery": np.arange(N) % 4, "queries": np.arange(5) % 4}.items():
        np.save(home / f"{name}.npy", labels)
    for number in range(6):
        path = home / "photos" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pattern(48 + 8 * (number % 2), 48, seed=number)))
    trunk = backbones.backbone("tiny", head=False, seed=3)
    write_file(home / "w.safetensors", trunk.state_dict())


def _build_vectors(folder: Path, shared: Path) -> None:
    np.save(folder / "vectors.npy", _vectors())


def _read_vectors(place: Path, shared: Path) -> str:
    return engine("build", place / "vectors.npy", place / "index", "-q")


def _build_lists(folder: Path, shared: Path) -> None:
    scores, ids = diffusion.nearest_neighbors(_vectors(), k=6)
    np.save(folder / "scores.npy", scores)
    np.save(folder / "ids.npy", ids)


def _read_lists(place: Path, shared: Path) -> str:
    lists = ["--neighbor-scores", place / "scores.npy", "--neighbor-ids", place / "ids.npy"]
    return engine("build", *lists, place / "index", "-q")


def _build_queries(folder: Path, shared: Path) -> None:
    np.save(folder / "queries.npy", _vectors()[:3])


def _read_queries(place: Path, shared: Path) -> str:
    return engine("search", shared / "index", place / "queries.npy", "-k", 5, "-q")


def _build_results(folder: Path, shared: Path) -> None:
    shutil.copy(shared / "results.npz", folder)


def _read_results(place: Path, shared: Path) -> str:
    engine("rerank", shared / "index", place / "results.npz", "-k", 5, "-q")
    labels = ["--gallery-labels", shared / "gallery.npy", "--query-labels", shared / "queries.npy"]
    return engine("evaluate", place / "results.npz", *labels, "--json")


def _build_run(folder: Path, shared: Path) -> None:
    with np.load(shared / "results.npz") as file:
        runs.write_results(folder / "run.txt", file["scores"], file["ids"])
    lines = [f"{query} 0 {item} {item % 4 - 1}" for query in range(5) for item in range(0, N, 3)]
    (folder / "qrels.txt").write_text("\n".join(lines) + "\n")


def _read_run(place: Path, shared: Path) -> str:
    engine("rerank", shared / "index", place / "run.txt", "-k", 5, "-q")
    return engine("evaluate", place / "run.txt", "--qrels", place / "qrels.txt")


def _build_labels(folder: Path, shared: Path) -> None:
    for name in ("gallery.npy", "queries.npy"):
        shutil.copy(shared / name, folder)


def _read_labels(place: Path, shared: Path) -> str:
    labels = ["--gallery-labels", place / "gallery.npy", "--query-labels", place / "queries.npy"]
    return engine("evaluate", shared / "results.npz", *labels)


# --- checkpoints of fits --------------------------------------------------------------------------


def _columns() -> Reranker:
    solver = diffusion.Columns(size=20, keep=10)
    return Reranker(k=10, affinity="cosine", solver=solver)


def _build_fit(folder: Path, shared: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion.reranker, "discard_fit", lambda path: None)
        _columns().fit(_vectors(), checkpoint=folder / "checkpoint")


def _read_fit(place: Path, shared: Path) -> Any:
    ranker = _columns().fit(_vectors(), checkpoint=place / "checkpoint")
    return ranker.search(_vectors()[:3], k=5)


# --- ground truth ---------------------------------------------------------------------------------


def _build_truth(name: str, folder: Path, shared: Path) -> None:
    names = {"imlist": [f"i{n}" for n in range(9)], "qimlist": ["a", "b", "c"]}
    if name == "truth.mat" or name == "packed.mat":
        cells: dict[str, Any] = {key: np.array(names[key], object) for key in names}
        cells["gnd"] = np.array([{"ok": [1, 2], "junk": [3], "bbx": [0, 0, 9, 9]}] * 3)
        savemat(folder / name, cells, do_compression=name == "packed.mat")
        return
    kinds: Any = {"easy": [0, 1], "hard": [2], "junk": [3], "bbx": [0.0, 0.0, 9.0, 9.0]}
    if name == "arrays.pkl":
        kinds = {key: np.array(values) for key, values in kinds.items()}
    (folder / name).write_bytes(pickle.dumps({**names, "gnd": [kinds] * 3}, protocol=2))


def _read_truth(name: str, place: Path, shared: Path) -> Any:
    truth = protocols.read(place / name)
    return protocols.evaluate(truth, np.tile(np.arange(9), (len(truth.queries), 1)))


# --- networks -------------------------------------------------------------------------------------


def _build_weights(name: str, folder: Path, shared: Path) -> None:
    state = load_file(shared / "w.safetensors")
    if name == "w.pth":
        torch.save({key: value.clone() for key, value in state.items()}, folder / name)
    elif name == "old.pth":  # before files of torch were archives
        content = {"state_dict": state, "meta": {"a": 1}}
        torch.save(content, folder / name, _use_new_zipfile_serialization=False)
    else:
        shutil.copy(shared / name, folder)


def _read_weights(name: str, place: Path, shared: Path) -> Any:
    return _described(load_network(NetworkSettings("tiny", place / name)))


def _described(network: Any) -> Any:
    with torch.inference_mode():
        return network(torch.ones(1, 3, 48, 48)).numpy()


def _build_trained(folder: Path, shared: Path) -> None:
    settings = NetworkSettings("tiny", shared / "w.safetensors")
    save_trained(folder / "trained.safetensors", load_network(settings))


def _read_trained(place: Path, shared: Path) -> Any:
    return _described(load_network(NetworkSettings(weights=place / "trained.safetensors")))


class Short(Row):
    """A trunk of the structure that retrieval checkpoints have."""

    name = "short"
    sides = Sides(8)
    input_size = 48
    last = "conv1"

    def __init__(self, classes: int | None = None) -> None:
        super().__init__({"conv1": Convolution(8, 3, 2), "pool1": Pooling(3)}, 6, False, None)


@contextlib.contextmanager
def known_trunks() -> Iterator[None]:
    """Make the trunks known that cost nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones._MAKERS, "tiny", Tiny)
        patch.setitem(backbones._MAKERS, "short", Short)
        patch.setattr(retrieval_checkpoint, "BACKBONES", ("short",))
        yield


def _build_retrieval(folder: Path, shared: Path) -> None:
    trunk = backbones.backbone("short", head=False)
    state = {**trunk.state_dict(), "pool.p": torch.tensor([2.5])}
    state |= {"whiten.weight": torch.eye(8), "whiten.bias": torch.zeros(8)}
    learned = {"m": np.zeros((8, 1)), "P": np.eye(8)}
    meta = {"architecture": "short", "pooling": "gem", "whitening": True, "mean": [0.4] * 3,
            "std": np.array([0.2] * 3), "Lw": {"set": {"ss": learned, "ms": learned}}}  # fmt: skip
    torch.save({"meta": meta, "state_dict": state}, folder / "net.pth")


def _read_retrieval(place: Path, shared: Path) -> Any:
    network, whitenings = retrieval_checkpoint.load_retrieval(place / "net.pth")
    return [_described(network), sorted(whitenings)]


def _build_whitening(folder: Path, shared: Path) -> None:
    learn_pca(_vectors()).save(folder / "whitening.npz")


def _read_whitening(place: Path, shared: Path) -> Any:
    return load_whitening(place / "whitening.npz").apply(_vectors())


# --- images ---------------------------------------------------------------------------------------

# By name: the format, and what else `Image.save` takes.
_IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "photo.jpg": ("JPEG", {"progressive": True}),
    "photo.png": ("PNG", {}),
    "photo.webp": ("WEBP", {}),
    "photo.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "photo.gif": ("GIF", {"transparency": 3}),
}


def _build_image(name: str, folder: Path, shared: Path) -> None:
    kind, options = _IMAGES[name]
    (folder / "photos").mkdir()
    image = Image.fromarray(pattern(40, 56, seed=1))
    if kind == "GIF":
        image = image.quantize(16)
    elif kind != "TIFF":
        exif = Image.Exif()
        exif[0x0112] = 6  # the orientation
        options = {**options, "exif": exif}
    image.save(folder / "photos" / name, kind, **options)


def _read_image(name: str, place: Path, shared: Path) -> Any:
    path = place / "photos" / name
    with contextlib.suppress(DiffusionError):
        read_size(path)
        read_image(path, (24, 24), (0.1, 0.1, 0.8, 0.9))
        read_image(path)
    (place / "photos").mkdir(exist_ok=True)
    shutil.copy(shared / "photos" / "class0" / "0.png", place / "photos" / "good.png")
    out = ["extract", place / "photos", place / "out", *network(shared)]
    return photos(*out, "--size", 48, "-q")


_NAMES = (
    "plain.png", "-q.png", "--help.png", "two words.png", "line\nbreak.png", "return\r.png",
    "\x1b[31mred.png", "\x07bell.png", "tab\t.png", "\udcff\udcfe.png", "é.png", "e\u0301.png",
    "\u202ename.png", "a" * 250 + ".png", "%s%n.png", "quote'\".png", "<b>&amp;.png", "$(id).png",
    ";ls.png", "\\back.png", ".hidden.png", "UPPER.PNG", "x.jpg.png", "*.png", "\x9b31m.png",
    "folder/deep/er/one.png", "\U0001f600.png", "nul\x01.png", " .png", "name.png ",
)  # fmt: skip


def _build_names(folder: Path, shared: Path) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "good.png").write_bytes(png(pattern(40, 40, seed=2)))


def _read_names(place: Path, shared: Path) -> Any:
    photos("extract", place / "photos", place / "out", *network(shared), "--size", 48, "-q")
    photos("index", place / "out", place / "index", "-q")
    files = [path for path in sorted((place / "photos").rglob("*")) if path.is_file()]
    return photos("search", place / "index", files[0], "-q")


# --- folders that the library writes --------------------------------------------------------------


def _named_plainly(path: Path) -> None:
    """Give a folder of arrays the content that it has on every machine and in every place."""
    folders = list(path.glob("arrays-*"))
    manifest = json.loads((path / MANIFEST).read_text())
    text = json.dumps(manifest)
    for folder in folders:
        text = text.replace(folder.name, ARRAYS)
        folder.rename(path / ARRAYS)
    manifest = json.loads(text)
    recipe = manifest.get("recipe") or manifest.get("images", {}).get("recipe")
    if recipe:
        recipe["network"]["weights"] = "w.safetensors"
    (path / MANIFEST).write_bytes(signed(manifest))


def _build_descriptors(folder: Path, shared: Path) -> None:
    arguments = [*network(shared), "--size", 48, "--regions", "grid", "-q"]
    photos("extract", shared / "photos", folder / "descriptors", *arguments)
    _named_plainly(folder / "descriptors")


def _read_descriptors(place: Path, shared: Path) -> Any:
    photos("index", place / "descriptors", place / "index", "-q")
    return photos("whiten", place / "descriptors", place / "w.npz", "--supervised")


def _build_photo_index(folder: Path, shared: Path) -> None:
    arguments = [*network(shared), "--size", 48, "-q"]
    photos("extract", shared / "photos", folder / "descriptors", *arguments)
    photos("index", folder / "descriptors", folder / "index", "-q")
    shutil.rmtree(folder / "descriptors")
    _named_plainly(folder / "index")


def _read_photo_index(place: Path, shared: Path) -> Any:
    weights = ["--weights", shared / "w.safetensors"]
    query = shared / "photos" / "class0" / "0.png"
    engine("info", place / "index")
    return photos("search", place / "index", query, *weights, "-k", 4, "-q")


_SETTINGS: dict[str, Any] = {"dimension": 4, "k": 3, "neighbors": 3, "feature_threshold": 0.0}


def _build_discovery(folder: Path, shared: Path) -> None:
    discover_folder(
        shared / "photos",
        folder / "out",
        NetworkSettings("tiny", shared / "w.safetensors"),
        images=ImageSettings(size=48),
        discovery=DiscoverySettings(**_SETTINGS),
        run=RunSettings(batch_size=3, workers=1),
        pictures=1,
    )
    (folder / "out" / "page.html").unlink()
    _named_plainly(folder / "out")


def _read_discovery(place: Path, shared: Path) -> Any:
    photo = shared / "photos" / "class1" / "1.png"
    weights = ["--weights", shared / "w.safetensors"]
    written = ["--page", place / "page.html", "--maps", place / "maps.npz"]
    return photos("locate", place / "out", photo, *weights, *written)


def _build_shards(folder: Path, shared: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):

        def interrupted(*arguments: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(extraction._Extraction, "_assemble", interrupted)
        settings = NetworkSettings("tiny", shared / "w.safetensors")
        images, run = ImageSettings(size=48), RunSettings(batch_size=3, workers=1)
        extraction.extract_folder(
            shared / "photos", folder / "out", settings, images=images, run=run
        )


def _read_shards(place: Path, shared: Path) -> Any:
    arguments = [*network(shared), "--size", 48, "--batch-size", 3, "--workers", 1, "-q"]
    photos("extract", shared / "photos", place / "out", *arguments)
    return features.open_descriptors(place / "out").vectors.copy()


def _train(out: Path, shared: Path, *more: object) -> str:
    how = ["--epochs", 2, "--size", 32, "--batch-size", 4, "--workers", 1, "-q"]
    return photos("train", shared / "photos", out, *network(shared), *how, *more)


def _build_training(folder: Path, shared: Path) -> None:
    epoch = Trainer._epoch

    def interrupted(self: Any, number: int) -> Any:
        if number:
            raise KeyboardInterrupt
        return epoch(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_epoch", interrupted)
        with contextlib.suppress(MisbehavedError):  # exit status 130
            _train(folder / "out", shared)
    (folder / "pairs.txt").write_text("class0/0.png\tclass0/2.png\nclass1/1.png\tclass1/3.png\n")


def _read_training(place: Path, shared: Path) -> Any:
    return _train(place / "out", shared)


def _build_pairs(folder: Path, shared: Path) -> None:
    (folder / "pairs.txt").write_text("class0/0.png\tclass0/2.png\nclass1/1.png\tclass1/3.png\n")


def _read_pairs(place: Path, shared: Path) -> Any:
    return _train(place / "out", shared, "--pairs", place / "pairs.txt")


# --- all of them ----------------------------------------------------------------------------------

_ARRAYS: dict[str, Mutator] = {"*.json": any_json, "*.npy": any_npy}
_TENSORS: dict[str, Mutator] = {
    "old.pth": any_pickle,
    "*.pth": any_torch,
    "*.safetensors": any_safetensors,
}
_PICTURES: dict[str, Mutator] = {"*.png": any_png, "*": any_bytes}


def _named(
    build: Callable[..., None], act: Callable[..., Any], name: str, damage: Any, weight: float
) -> Target:
    """Return the target of one of several files that are written and read alike."""
    return Target(partial(build, name), partial(act, name), damage, weight)


TARGETS: dict[str, Target] = {
    "vectors": Target(_build_vectors, _read_vectors, {"*": any_npy}),
    "neighbour lists": Target(_build_lists, _read_lists, {"*": any_npy}),
    "queries": Target(_build_queries, _read_queries, {"*": any_npy}),
    "results": Target(_build_results, _read_results, {"*": any_zip}, 2.0),
    "run": Target(_build_run, _read_run, {"*": any_text}, 2.0),
    "labels": Target(_build_labels, _read_labels, {"*": any_npy}),
    "fit": Target(_build_fit, _read_fit, _ARRAYS, 2.0, signed=True),
    **{
        name: _named(_build_truth, _read_truth, name, {"*.pkl": any_pickle, "*": any_bytes}, 0.5)
        for name in ("truth.pkl", "arrays.pkl", "truth.mat", "packed.mat")
    },
    **{
        name: _named(_build_weights, _read_weights, name, _TENSORS, 1.0)
        for name in ("w.pth", "old.pth", "w.safetensors")
    },
    "trained": Target(_build_trained, _read_trained, _TENSORS),
    "retrieval": Target(_build_retrieval, _read_retrieval, _TENSORS, 0.7),
    "whitening": Target(_build_whitening, _read_whitening, {"*": any_zip}, 2.0),
    **{name: _named(_build_image, _read_image, name, _PICTURES, 0.8) for name in _IMAGES},
    "names": Target(_build_names, _read_names, _PICTURES, 0.4),
    "descriptors": Target(_build_descriptors, _read_descriptors, _ARRAYS, signed=True),
    "photo index": Target(_build_photo_index, _read_photo_index, _ARRAYS, signed=True),
    "discovery": Target(_build_discovery, _read_discovery, _ARRAYS, signed=True),
    "shards": Target(_build_shards, _read_shards, {"*.npz": any_zip, **_ARRAYS}, 0.5, signed=True),
    "training": Target(_build_training, _read_training, {**_ARRAYS, **_TENSORS}, 0.12, signed=True),
    "pairs": Target(_build_pairs, _read_pairs, {"*": any_text}, 0.08),
}
# What a refused command may leave: work that the next call resumes.
_RESUMABLE = re.compile(r"(out|index\.partial|checkpoint)(/|$)")


def build(folder: Path, names: Collection[str] = tuple(TARGETS)) -> None:
    """Write the files of targets, and what they share."""
    with known_trunks():
        build_shared(folder / SHARED)
        for name in names:
            (folder / name).mkdir()
            TARGETS[name].build(folder / name, folder / SHARED)


def originals(folder: Path) -> dict[str, Files]:
    """Return the files of every target by its name."""
    return {name: read_folder(folder / name) for name in TARGETS if (folder / name).exists()}


_originals: dict[str, Files] = {}
_known = contextlib.ExitStack()
_shared = _place = Path()


def prepare(folder: Path) -> None:
    """Read the originals."""
    global _place, _shared
    _known.enter_context(known_trunks())
    torch.set_num_threads(1)
    _place = folder / f"worker-{os.getpid()}"
    _shared = folder / "originals" / SHARED
    _originals.update(originals(folder / "originals"))


def perform(case: Case) -> Outcome:
    """Write the damaged files, and have them read."""
    files: dict[str, Change] = applied(_originals[case.target], case.delta)
    if case.sign:
        for name in [name for name in files if Path(name).name == MANIFEST]:
            inside = name.removesuffix(MANIFEST)
            part = {n.removeprefix(inside): c for n, c in files.items() if n.startswith(inside)}
            files |= {inside + n: content for n, content in resigned(part).items()}
    shutil.rmtree(_place, ignore_errors=True)
    write_folder(_place, files)
    TARGETS[case.target].act(_place, _shared)
    return Outcome(FINE)


def _listed(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def draw(files: dict[str, Files], rng: Rng) -> Case:
    """Draw a case."""
    weights = np.array([target.weight for target in TARGETS.values()])
    name = str(rng.choice(list(TARGETS), p=weights / weights.sum()))
    target, own = TARGETS[name], files[name]
    sign = bool(target.signed and rng.random() < 0.6)
    if name == "names":
        return Case(name, _named_oddly(own, rng))
    file = sorted(own)[rng.integers(len(own))]
    return Case(name, {file: _damaged(target, own, file, rng, sign)}, sign)


def _damaged(target: Target, own: Files, file: str, rng: Rng, sign: bool) -> Change:
    if rng.random() < 0.03:
        made = any_special(own[file], rng)
        # Text may come from a pipe, such as that of another command, which is waited for.
        return made if made != Special("fifo") or not file.endswith(".txt") else None
    if sign and file.endswith(MANIFEST):
        return signed(other_json(json.loads(own[file]), rng))
    if sign and file.endswith(".npy"):
        return npy_values(own[file], rng)
    if rng.random() < 0.04:  # another file under the name of this one
        return own[sorted(own)[rng.integers(len(own))]]
    for pattern_, mutator in target.damage.items():
        if Path(file).match(pattern_):
            return mutator(own[file], rng)
    return any_bytes(own[file], rng)


def _named_oddly(own: Files, rng: Rng) -> Delta:
    ((good, content),) = own.items()
    delta: Delta = {}
    for _ in range(rng.integers(1, 4)):
        name = _NAMES[rng.integers(len(_NAMES))]
        if rng.random() < 0.3:
            name = f"{name.removesuffix('.png')}/{_NAMES[rng.integers(len(_NAMES))]}"
        new = content if rng.random() < 0.7 else any_special(content, rng)
        delta["photos/" + name] = any_png(content, rng) if rng.random() < 0.3 else new
    if rng.random() < 0.2:
        delta[good] = None
    return delta


def allowed(case: Case, outcome: Outcome) -> bool:
    """Return whether a reader may do this: read the file, or refuse it."""
    if outcome.kind == "memory":  # a file of a terabyte may not fit
        return any(isinstance(c, Special) and c.kind == "sparse" for c in case.delta.values())
    return outcome.kind in (FINE, "refused")
