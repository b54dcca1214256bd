"""A campaign of damaged indexes: each is opened and asked in a worker, and its answers judged."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import diffusion
from diffusion import RegionalReranker, Reranker
from diffusion.index_state import IndexState, open_state, save_state
from diffusion.storage import contents, deltas
from features.description.descriptors import stored_whitening
from features.index.photos import image_names, photo_names
from features.index.results import PhotoResults, write_lines

from .campaigns import Case
from .mutations import (
    Change,
    Delta,
    Files,
    Rng,
    any_bytes,
    any_json,
    any_npy,
    any_special,
    applied,
    npy_header,
    npy_values,
    other_json,
    read_folder,
    resigned,
    signed,
    write_folder,
)
from .workers import Outcome

FINE = "right"
MANIFEST = "manifest.json"
ARRAYS = "arrays-00000000"
# An array of every index that has vectors, which a change does not write anew.
LASTING = "vectors.npy"
N, D = 70, 6
K = 12


def _vectors() -> Any:
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((4, D))
    return centres[np.arange(N) % 4] + 0.5 * rng.standard_normal((N, D))


def _queries() -> Any:
    rng = np.random.default_rng(6)
    return _vectors()[[3, 10, 20]] + 0.1 * rng.standard_normal((3, D))


_SPARSE = {"rank": 12, "dense_nodes": 8}
# Every affinity, every solver that stores arrays, every way of finding neighbours.
RERANKERS: dict[str, dict[str, Any]] = {
    "context": {},
    "context diffusion": {"score": "diffusion", "affinity": diffusion.Context((3, 8))},
    "cosine": {"affinity": "cosine"},
    "cosine inner product": {"affinity": "cosine", "metric": "inner_product"},
    "gaussian": {"affinity": "gaussian", "metric": "euclidean"},
    "context euclidean": {"metric": "euclidean"},
    "spectral": {"affinity": "cosine", "solver": diffusion.Spectral(**_SPARSE)},
    "spectral sparse": {
        "solver": diffusion.Spectral(**_SPARSE, sparsity=0.5),
        "transfer": diffusion.HeatKernel(),
    },
    "hybrid": {"affinity": "cosine", "solver": diffusion.Hybrid(rank=6, min_nodes=4)},
    "columns": {"affinity": "cosine", "solver": diffusion.Columns(size=30, keep=20)},
    "truncated": {"solver": diffusion.Truncated(size=20)},
    "local": {"affinity": "cosine", "solver": "local"},
    "chebyshev": {"solver": "chebyshev", "transfer": diffusion.TruncatedRandomWalk()},
    "ivf": {"neighbors": diffusion.IVF(nlist=4, nprobe=2)},
    "hnsw": {"affinity": "cosine", "neighbors": "hnsw"},
    # Opened as if they were too large to be checked whole.
    "large": {"solver": diffusion.Local(certify=0)},
    "large certified": {"affinity": "gaussian", "metric": "euclidean", "solver": "local"},
    "large ivf": {"solver": "local", "neighbors": diffusion.IVF(nlist=4, nprobe=2)},
}
LISTS, REGIONS, PHOTOS = "neighbor lists", "regions", "photos"
# Indexes that were changed and saved again.
CHANGED = {"changed context": "context", "changed ivf": "ivf", "changed columns": "columns"}
TARGETS = (*RERANKERS, *CHANGED, LISTS, REGIONS, PHOTOS)


# --- the originals --------------------------------------------------------------------------------


def build(folder: Path) -> None:
    """Write an index of every kind."""
    X = _vectors()
    for name, parameters in RERANKERS.items():
        _write(folder / name, Reranker(k=K, query_k=5, **parameters).fit(X).state())
    for name, kind in CHANGED.items():
        old, new = (
            Reranker(k=K, query_k=5, **RERANKERS[kind]).fit(vectors).state()
            for vectors in (X[:-3], X)
        )
        _write_changed(folder / name, old, new)
    lists = diffusion.nearest_neighbors(X, k=K)
    _write(folder / LISTS, Reranker(k=K, query_k=5).fit_neighbors(*lists).state())
    regional = RegionalReranker(k=K, query_k=8).fit(X, np.arange(N) // 3)
    _write(folder / REGIONS, regional.state())
    names = [f"{number:02}.jpg" for number in range(N)]
    text = "".join(names).encode()
    photos = {
        "image_names": np.frombuffer(text, np.uint8),
        "image_name_ends": np.arange(6, 6 * N + 1, 6, dtype=np.int64),
        "whitening_mean": np.zeros(D),
        "whitening_projection": np.eye(D),
    }
    state = Reranker(k=K, query_k=5).fit(X).state()
    _write(folder / PHOTOS, state.with_part("images", {"recipe": {}}, photos))


def _write(path: Path, state: IndexState) -> None:
    save_state(path, state)
    _plainly_named(path)


def _plainly_named(path: Path) -> None:
    """Give the folder of arrays, whose name is drawn, a name that a seed can repeat."""
    text = (path / MANIFEST).read_text()
    # First the folder that was written first.
    folders = sorted(path.glob("arrays-*"), key=lambda folder: not (folder / LASTING).exists())
    for number, folder in enumerate(folders):
        name = f"{ARRAYS[:-1]}{number}"
        text = text.replace(folder.name, name)
        folder.rename(path / name)
    (path / MANIFEST).write_bytes(signed(json.loads(text)))


def _write_changed(path: Path, old: IndexState, new: IndexState) -> None:
    """Write an index, and then another over it, of which what differs is appended or patched."""
    with patch.multiple(deltas, SMALL_INDEX=0, SMALL_ARRAY=0, SHARE=1):
        save_state(path, old)
        save_state(path, new)
    entries = json.loads((path / MANIFEST).read_text())["arrays"]
    assert (path / entries["vectors"]["file"]).name == LASTING
    for part in ("patch", "appended"):
        assert any(part in entry for entry in entries.values()), part
    _plainly_named(path)


def originals(folder: Path) -> dict[str, Files]:
    """Return the files of every index by its name."""
    return {name: read_folder(folder / name) for name in TARGETS}


# --- in a worker ----------------------------------------------------------------------------------

_originals: dict[str, Files] = {}
_expected: dict[str, list[Any]] = {}
_place = Path()


def prepare(folder: Path) -> None:
    """Read the originals, and what they answer."""
    global _place
    _place = folder / f"worker-{os.getpid()}"
    _originals.update(originals(folder / "originals"))
    for name in TARGETS:
        _expected[name] = _ask(name, folder / "originals" / name, verify=True)[0]


def perform(case: Case) -> Outcome:
    """Write the damaged index, open it and ask it."""
    files: dict[str, Change] = applied(_originals[case.target], case.delta)
    if case.sign:
        files = resigned(files)
    shutil.rmtree(_place, ignore_errors=True)
    write_folder(_place, files)
    answers, fault = _ask(case.target, _place, verify=case.verify)
    if fault:
        return Outcome("malformed", fault)
    expected = _expected[case.target]
    same = len(answers) == len(expected) and all(map(_equal, answers, expected))
    return Outcome("right" if same else "wrong")


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray):
        return bool(one == other)
    floats = one.dtype.kind == "f"
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=floats)


def _ask(target: str, path: Path, *, verify: bool) -> tuple[list[Any], str]:
    """Return all that an index answers, and what is wrong with the form of it, if anything."""
    Q = _queries()
    if target == REGIONS:
        regional = RegionalReranker.load(path, verify=verify)
        scores, ids = regional.search(np.repeat(Q, 2, axis=0), [0, 0, 1, 1, 2, 2], k=9)
        return [scores, ids, regional.n_images_], _form(scores, ids, None)
    if target == PHOTOS:
        state = open_state(path, verify=verify)
        ranker = Reranker.from_state(state)
        # A forged manifest may leave the whitening out, which is optional.
        whitening = stored_whitening(state.arrays)
        scores, ids = ranker.search(Q if whitening is None else whitening.apply(Q), k=5)
        text = io.StringIO()
        write_lines(text, PhotoResults(["a", "b", "c"], scores, photo_names(state, ids)))
        return [scores, ids, image_names(state), text.getvalue()], _form(scores, ids, N)
    large = target.startswith("large")
    with patch.object(contents, "SMALL", -1 if large else contents.SMALL):
        ranker = diffusion.load(path, verify=verify)
        return _ask_reranker(target, ranker, Q, whole=not large)


def _ask_reranker(target: str, ranker: Any, Q: Any, *, whole: bool) -> tuple[list[Any], str]:
    """Return what `_ask` does, with answers from the whole graph if these are wanted."""
    answers: list[Any] = []
    faults = []

    def keep(scores: Any, ids: Any) -> None:
        answers.extend((scores, ids))
        faults.append(_form(scores, ids, ranker.n_items_))

    if target != LISTS:
        keep(*ranker.search(Q, k=9))
    first = np.array([[5, 9, 2, -1], [1, 0, 40, 60]])
    near = np.array([[0.9, 0.5, 0.4, 0.0], [0.8, 0.8, 0.1, 0.1]], np.float32)
    if ranker.metric == "euclidean":
        near -= 1
    keep(*ranker.rerank(near, first, k=6))
    keep(*ranker.rerank(near, first, k=4, restrict_to_candidates=True))
    if not whole:
        return answers, next(filter(None, faults), "")
    W = ranker.graph_.W
    answers += [W.data, W.indices, W.indptr, str(ranker.diagnose())]
    if target == "spectral":
        embedded = ranker.embedding_, ranker.embed(Q)
        answers += embedded
        faults += ["" if np.isfinite(e).all() else "embedding: NaN or infinite" for e in embedded]
    return answers, next(filter(None, faults), "")


def _form(scores: Any, ids: Any, n: int | None) -> str:
    """Return what no answer may be like, whatever the index; an empty text if all is well."""
    real = ids >= 0
    if n is not None and ((ids < -1) | (ids >= n)).any():
        return "ids out of range"
    if n is not None and any(len(set(row[row >= 0])) < (row >= 0).sum() for row in ids):
        return "an item twice in a row"
    if not np.isfinite(scores[real]).all():
        return "scores: NaN or infinite"
    if (np.diff(np.where(real, scores, -np.inf), axis=1) > 0).any():
        return "scores that increase"
    return ""


# --- the cases ------------------------------------------------------------------------------------


def draw(files: dict[str, Files], rng: Rng) -> Case:
    """Draw a case."""
    target = str(rng.choice(TARGETS))
    sign, verify = rng.random() < 0.45, rng.random() < 0.4
    return Case(target, _damage(files[target], rng, sign), bool(sign), bool(verify))


def _damage(files: Files, rng: Rng, sign: bool) -> Delta:
    names = sorted(name for name in files if name != MANIFEST)
    name = names[rng.integers(len(names))]
    how = rng.random()
    if how < 0.04:
        name = MANIFEST if rng.random() < 0.3 else name
        return {name: any_special(files[name], rng)}
    if how < 0.16:
        if sign:
            return {MANIFEST: _rewritten(files[MANIFEST], rng)}
        return {MANIFEST: any_json(files[MANIFEST], rng)}
    if how < 0.22:
        other = names[rng.integers(len(names))]
        return {name: files[other], other: files[name]}
    if how < 0.27:  # the manifest and an array that it describes
        return {
            MANIFEST: _rewritten(files[MANIFEST], rng),
            name: npy_values(files[name], rng),
        }
    if how < 0.32:
        return {
            name: npy_values(files[name], rng),
            names[0]: any_npy(files[names[0]], rng),
        }
    if sign:
        damage = (npy_values, npy_values, npy_header, any_bytes)[rng.integers(4)]
    else:
        damage = (any_bytes, any_npy)[rng.integers(2)]
    return {name: damage(files[name], rng)}


def _rewritten(content: bytes, rng: Rng) -> bytes:
    """Change the manifest where its meaning is, and sign it again."""
    manifest = json.loads(content)
    part = str(rng.choice(["parameters", "sizes", "kind", "all"]))
    if part == "all" or not isinstance(manifest.get(part), dict):
        return signed(other_json(manifest, rng))
    manifest[part] = other_json(manifest[part], rng)
    return signed(manifest)


# --- judging --------------------------------------------------------------------------------------


def allowed(case: Case, outcome: Outcome) -> bool:
    """Return whether a damaged index may do this.

    It is refused, or answers. A wrong answer is one that nothing could have known to be wrong: the
    damage was signed, or it is in arrays whose checksums were not asked for.
    """
    if outcome.kind == "wrong":
        return case.sign or not (case.verify or set(case.delta) == {MANIFEST})
    return outcome.kind in ("right", "refused")
