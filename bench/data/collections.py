"""Collections to measure on: shipped with a dependency, generated, or read from a directory."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Vectors (n, d) and the class of each (n,).
Labelled: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Collection:
    """Gallery and query vectors with class labels; no item is in both."""

    name: str
    gallery: NDArray[np.float32]
    queries: NDArray[np.float32]
    gallery_labels: NDArray[Any]
    query_labels: NDArray[Any]


def _split(
    name: str, X: NDArray[Any], labels: NDArray[Any], n_queries: int | None = None
) -> Collection:
    """Draw a fifth of the items, or n_queries, as queries; the seed is 0."""
    order = np.random.default_rng(0).permutation(len(X))
    cut = len(X) // 5 if n_queries is None else n_queries
    queries, gallery = order[:cut], order[cut:]
    return Collection(name, X[gallery], X[queries], labels[gallery], labels[queries])


def digits() -> Collection:
    """Return scikit-learn's digits, raw pixels: 297 queries in 1500 images of 10 classes."""
    from sklearn.datasets import load_digits

    X, labels = load_digits(return_X_y=True)
    return _split("digits (raw pixels)", X.astype(np.float32), labels, 297)


def digits_by_parity() -> Collection:
    """Return the digits in two classes, odd and even, of five separate kinds of shapes each."""
    whole = digits()
    return replace(
        whole,
        name="digits, odd or even",
        gallery_labels=whole.gallery_labels % 2,
        query_labels=whole.query_labels % 2,
    )


def breast_cancer() -> Collection:
    """Return scikit-learn's measurements of cell nuclei, standardised: 569 items of 2 classes."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import scale

    X, labels = load_breast_cancer(return_X_y=True)
    return _split("breast cancer", scale(X).astype(np.float32), labels)


def data_folder() -> Path:
    """Return the directory of data outside the project: DIFFUSION_DATA or ../shared/data."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("DIFFUSION_DATA", beside))


def grocery(packages_only: bool) -> Collection | None:
    """Return MobileNetV2 descriptors of the Grocery Store data set, or None if they are absent."""
    found = _grocery()
    if found is None:
        return None
    X, labels, folders = found
    if not packages_only:
        return _split("grocery, all", X, labels)
    keep = folders[:, 0] == "Packages"
    return _split("grocery, packages", X[keep], labels[keep])


def grocery_by_kind(coarse: bool) -> Collection | None:
    """Return the same photos in 43 kinds, such as apples, or in 3: fruit, vegetables, packages."""
    found = _grocery()
    if found is None:
        return None
    X, _, folders = found
    _, labels = np.unique(folders[:, 0 if coarse else 1], return_inverse=True)
    return _split(f"grocery, {labels.max() + 1} kinds", X, labels)


def _grocery() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.str_]] | None:
    """Return the descriptors, the products, and the two directories above that of the product."""
    folder = data_folder() / "descriptors"
    if not (folder / "grocery_test.npy").exists():
        return None
    X = np.load(folder / "grocery_test.npy")
    files = (folder / "grocery_test_files.txt").read_text().split("\n")[: len(X)]
    folders = np.array([file.split("/")[1:3] for file in files])
    return X, np.load(folder / "grocery_test_labels.npy"), folders


def manifold(n: int, d: int = 128, seed: int = 0) -> NDArray[np.float32]:
    """Generate unit vectors on a smooth closed three-dimensional manifold of uneven density.

    Points of a torus are drawn from overlapping Gaussian clusters and a uniform background. They
    are embedded by low random frequencies, x = (cos(Fu + φ), sin(Fu + φ)), with a little noise.
    Almost all nodes of their reciprocal graph of 50 neighbours are connected; `bench speed` prints
    how many.
    """
    rng = np.random.default_rng(seed)
    clusters = rng.uniform(0, 2 * np.pi, (64, 3))
    u = clusters[rng.integers(len(clusters), size=n)] + 0.5 * rng.standard_normal((n, 3))
    background = rng.random(n) < 0.3
    u[background] = rng.uniform(0, 2 * np.pi, (int(background.sum()), 3))
    frequencies = rng.integers(-2, 3, (3, d // 2))
    phase = rng.uniform(0, 2 * np.pi, d // 2)
    X = np.empty((n, d), np.float32)
    for start in range(0, n, 1 << 16):
        part = slice(start, min(n, start + (1 << 16)))
        angle = u[part] @ frequencies + phase
        X[part] = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        X[part] += 0.02 * rng.standard_normal(X[part].shape)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X


def descriptors(n: int, d: int = 128, scenes: int = 2000, seed: int = 0) -> NDArray[np.float32]:
    """Generate unit vectors like descriptors of photos: objects of scenes, with a falling spectrum.

    Each item is the sum of a scene, of an object (n / 50 of them) and of noise, whose variances
    fall with the dimension. Scenes have very different numbers of items (Zipf's law). Their
    neighbours are harder to find than those on a manifold of three dimensions.
    """
    rng = np.random.default_rng(seed)
    spectrum = (np.arange(1, d + 1) ** -0.6).astype(np.float32)
    centers = spectrum * rng.standard_normal((scenes, d), np.float32)
    objects = 0.7 * spectrum * rng.standard_normal((max(1, n // 50), d), np.float32)
    objects += centers[rng.zipf(1.3, len(objects)) % scenes]
    X = np.empty((n, d), np.float32)
    for start in range(0, n, 1 << 16):
        part = slice(start, min(n, start + (1 << 16)))
        X[part] = objects[rng.integers(len(objects), size=part.stop - part.start)]
        X[part] += 0.6 * spectrum * rng.standard_normal(X[part].shape, np.float32)
        X[part] /= np.linalg.norm(X[part], axis=1, keepdims=True)
    return X


def objects(n: int, d: int = 128, seed: int = 0) -> NDArray[np.float32]:
    """Generate unit vectors of views of objects: noisy points of a circle for each object.

    The n items are in the order of their objects, of which each has 50 to 100.
    """
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n // 50 + 1), rng.integers(50, 101, n // 50 + 1))[:n]
    center, x, y = rng.standard_normal((3, n // 50 + 1, d), np.float32) / np.float32(d**0.5)
    angle = rng.uniform(0, 2 * np.pi, (n, 1)).astype(np.float32)
    X = np.empty((n, d), np.float32)
    for start in range(0, n, 1 << 16):
        part = slice(start, min(n, start + (1 << 16)))
        own, turn = owner[part], angle[part]
        X[part] = center[own] + 0.6 * (np.cos(turn) * x[own] + np.sin(turn) * y[own])
        X[part] += 0.02 * rng.standard_normal(X[part].shape, np.float32)
        X[part] /= np.linalg.norm(X[part], axis=1, keepdims=True)
    return X


def lattice_lists(
    side: int, k: int = 50, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Generate the neighbour lists of side³ points of a periodic cubic lattice, ids at random.

    All neighbours are reciprocal, so no graph of k neighbours has more edges. Scores fall with
    distance. The side is at least 7.
    """
    reach = np.arange(-3, 4)
    offsets = np.stack(np.meshgrid(reach, reach, reach), axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(offsets, axis=1)
    # Both ±offset are taken, so that neighbours are mutual.
    half = [o for o in np.argsort(lengths, kind="stable") if tuple(offsets[o]) > (0, 0, 0)]
    chosen = np.repeat(offsets[half[: k // 2]], 2, axis=0) * np.tile([[1], [-1]], (k // 2, 1))
    score = np.exp(-(np.linalg.norm(chosen, axis=1) ** 2) / 8).astype(np.float32)
    n = side**3
    names = np.random.default_rng(seed).permutation(n)
    cell = np.stack(np.unravel_index(np.arange(n), (side,) * 3), axis=1)
    ids = np.empty((n, len(chosen)), np.int64)
    for a, offset in enumerate(chosen):
        other = np.ravel_multi_index(tuple(((cell + offset) % side).T), (side,) * 3)
        ids[names, a] = names[other]
    return np.tile(score, (n, 1)), ids
