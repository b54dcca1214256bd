"""Collections of many kinds and class sizes: generated ones, and subsets with few items per class.

A generator returns vectors, float32 (n, d), and the class of each, int64 (n,), class after class.
`split` and `few_each` divide them into gallery and queries. All randomness comes from a seed: the
same arguments give the same collection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError

from . import texts
from .collections import (
    Collection,
    Labelled,
    breast_cancer,
    digits,
    digits_by_parity,
    grocery,
    grocery_by_kind,
)

# The largest number of queries of a collection.
QUERIES = 400


def everything() -> list[Callable[[], Collection]]:
    """Return functions that generate 44 collections, four of them of text.

    Their classes have 2 to 1000 items and their galleries at most 2500. Each collection is
    generated when its function is called, so that only one is in memory at a time. The 13
    collections of photos of groceries are left out if their descriptors are absent.
    """
    makers: list[Callable[[], Collection]] = [
        digits,
        *(partial(_few, "digits", digits, n_each) for n_each in (2, 3, 5, 20)),
        partial(_few, "digits", digits, 20, objects=5, distractors=800),
        lambda: bursts("digits, exact bursts", digits(), 0.1, 8),
        lambda: bursts("digits 20 each, long bursts", _few("", digits, 20), 0.1, 60),
        lambda: split("turntable 20 × 72", *turntable(20, 72)),
        lambda: split("turntable 60 × 24", *turntable(60, 24, seed=1)),
        lambda: split("turntable 100 × 12", *turntable(100, 12, seed=2)),
        lambda: split("curves 30 × 50", *curves(30, 50)),
        lambda: split("walks 12 × 120", *walks(12, 120)),
        lambda: split("swiss roll 10 × 150", *swiss_roll(10, 150)),
        lambda: split(
            "clusters 2 to 500", *clusters([500, 400, 200, 100, 50, 20, 10, 5, 3, 2], d=24)
        ),
        lambda: split("clusters 2 to 300, Zipf", *clusters(zipf_sizes(120, 300), seed=1)),
        lambda: split("clusters 150 × 8", *clusters([8] * 150, seed=2)),
        lambda: split("clusters 300 × 4", *clusters([4] * 300, seed=3)),
        lambda: split("clusters 8 × 250", *clusters([250] * 8, seed=5)),
        lambda: few_each(
            "clusters 30 × 8 + 900", *clusters([20] * 30 + [1] * 900, seed=4), 8, distractors=900
        ),
        lambda: split("hubs 40 × 20", *hubs(40, 20)),
        lambda: split("hubs 8 × 150", *hubs(8, 150, signal=0.2, seed=1)),
        lambda: split("documents 20 × 50", *documents(20, 50)),
        lambda: split("documents 100 × 8", *documents(100, 8, seed=1)),
        lambda: split("faces 40 × 10", *faces(40, 10)),
        digits_by_parity,
        breast_cancer,
        lambda: split("docstrings, 64", *texts.docstrings(texts.tf_idf(64))),
        lambda: split("docstrings, 256", *texts.docstrings(texts.tf_idf(256))),
        lambda: split("error messages", *texts.messages(texts.tf_idf(64))),
        lambda: split("Unicode names", *texts.characters(texts.tf_idf(64))),
    ]
    if grocery(packages_only=True) is not None:
        packages, photos = partial(_present, grocery, True), partial(_present, grocery, False)
        makers += [
            packages,
            photos,
            *(partial(_present, grocery_by_kind, coarse) for coarse in (False, True)),
            *(partial(_few, "packages", packages, n_each) for n_each in (3, 5)),
            *(
                partial(_few, "grocery", photos, n_each, seed)
                for n_each in (3, 5)
                for seed in (0, 1)
            ),
            *(
                partial(_few, "grocery", photos, n_each, objects=40, distractors=1000)
                for n_each in (3, 5)
            ),
            lambda: bursts("packages, near bursts", packages(), 0.3, 8, noise=0.004),
        ]
    return makers


def _present(load: Callable[[bool], Collection | None], which: bool) -> Collection:
    collection = load(which)
    assert collection is not None
    return collection


def _few(
    name: str,
    load: Callable[[], Collection],
    n_each: int,
    seed: int = 0,
    *,
    objects: int | None = None,
    distractors: int = 0,
) -> Collection:
    """Return few items per class of a whole collection, under a name that says which."""
    whole = load()
    name += f" {n_each} each"
    name += f" of {objects} + {distractors}" if distractors else ""
    return few_each(
        f"{name}, seed {seed}" if seed else name,
        np.concatenate([whole.gallery, whole.queries]),
        np.concatenate([whole.gallery_labels, whole.query_labels]),
        n_each,
        seed,
        objects=objects,
        distractors=distractors,
    )


# --- gallery and queries -------------------------------------------------------------------------


def split(name: str, X: NDArray[Any], labels: NDArray[Any], seed: int = 0) -> Collection:
    """Draw a fifth as queries, at most 400, without those whose class is not in the gallery."""
    order = np.random.default_rng(seed).permutation(len(X))
    queries, gallery = np.split(order, [len(X) // 5])
    queries = queries[np.isin(labels[queries], labels[gallery])][:QUERIES]
    return Collection(name, X[gallery], X[queries], labels[gallery], labels[queries])


def few_each(
    name: str,
    X: NDArray[Any],
    labels: NDArray[Any],
    n_each: int,
    seed: int = 0,
    *,
    objects: int | None = None,
    distractors: int = 0,
) -> Collection:
    """Put a few items of every class into the gallery, and draw at most 400 others as queries.

    Parameters
    ----------
    name : str
    X : ndarray, shape (n, d)
    labels : ndarray, shape (n,)
    n_each : int >= 1
        Gallery items per class. Classes without any further items are left out, because they have
        no queries.
    seed : int
    objects : int, optional
        Number of classes, drawn at random; by default all.
    distractors : int, default 0
        Additional gallery items, from the classes that are left out.

    Returns
    -------
    Collection

    Raises
    ------
    DiffusionError
        If there are fewer classes or distractors than requested.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    classes, sizes = np.unique(labels, return_counts=True)
    classes = classes[sizes > n_each]
    if objects is not None:
        if objects > len(classes):
            raise DiffusionError(
                f"objects: expected at most {len(classes)}, the classes of more than {n_each} "
                f"items, got {objects}"
            )
        classes = rng.permutation(classes)[:objects]
    members = [order[labels[order] == label] for label in classes]
    others = order[~np.isin(labels[order], classes)]
    if distractors > len(others):
        raise DiffusionError(
            f"distractors: expected at most {len(others)}, the items of other classes, "
            f"got {distractors}"
        )
    gallery = np.concatenate([*(items[:n_each] for items in members), others[:distractors]])
    queries = rng.permutation(np.concatenate([items[n_each:] for items in members]))[:QUERIES]
    return Collection(name, X[gallery], X[queries], labels[gallery], labels[queries])


def bursts(
    name: str, collection: Collection, share: float, most: int, noise: float = 0.0
) -> Collection:
    """Repeat a share of the gallery's items, each 1 to `most` times more, and keep the queries.

    Exact copies are like one file under several names. With `noise`, the standard deviation of
    Gaussian noise on every value, copies are like the photos of a burst.
    """
    rng = np.random.default_rng(0)
    n = len(collection.gallery)
    times = np.where(rng.random(n) < share, rng.integers(2, most + 2, n), 1)
    items = np.repeat(np.arange(n), times)
    X = collection.gallery[items].astype(np.float64)
    X += noise * rng.standard_normal(X.shape)
    return replace(
        collection,
        name=name,
        gallery=X.astype(np.float32),
        gallery_labels=collection.gallery_labels[items],
    )


# --- objects on a turntable -----------------------------------------------------------------------


def turntable(n_objects: int, n_views: int, seed: int = 0, *, size: int = 16) -> Labelled:
    """Render objects that turn once on a table; the views of each form a thin closed manifold.

    An object is a union of two to five ellipsoids with waves of colour on them, lit by one lamp
    (Lambert's law) and seen by an orthographic camera 20 degrees above the table.

    Returns
    -------
    X : ndarray, shape (n_objects * n_views, 3 size²), float32
        Pixels in [0, 1] on a black background; the views of an object are in order.
    labels : ndarray, shape (n_objects * n_views,), int64
    """
    rng = np.random.default_rng(seed)
    across = (np.arange(size) + 0.5) / size * 2 - 1
    tilt = np.deg2rad(20)
    right, up = np.array([1, 0, 0]), np.array([0, np.sin(tilt), np.cos(tilt)])
    viewer = np.array([0, -np.cos(tilt), np.sin(tilt)])
    lamp = _unit(np.array([0.5, -0.8, 0.9]))
    plane = (across[None, :, None] * right - across[:, None, None] * up).reshape(-1, 3)
    turn = 2 * np.pi * np.arange(n_views) / n_views
    c, s, o = np.cos(turn), np.sin(turn), np.zeros(n_views)
    # A row vector in world coordinates times `turned` is that vector in object coordinates.
    turned = np.array([[c, -s, o], [s, c, o], [o, o, o + 1]]).transpose(2, 0, 1)
    pixels, towards, light = plane @ turned, viewer @ turned, lamp @ turned
    pictures = []
    for _ in range(n_objects):
        parts = rng.integers(2, 6)
        centers = rng.uniform(-0.4, 0.4, (parts, 3))
        radii = rng.uniform(0.18, 0.55, (parts, 3))
        tones = rng.uniform(0.2, 1, (parts, 3))
        waves = rng.standard_normal((3, 4)) * rng.uniform(2, 8)
        phase = rng.uniform(0, 2 * np.pi, 4)
        colours = rng.uniform(-0.3, 0.3, (4, 3))
        depth = np.full(pixels.shape[:2], -np.inf)
        image = np.zeros(pixels.shape)
        for center, radius, tone in zip(centers, radii, tones, strict=True):
            # The ray p + t v, in units of the radii, meets the unit sphere where
            # |v|² t² + 2 <p, v> t + |p|² = 1; the larger root is nearer to the viewer.
            p, v = (pixels - center) / radius, (towards / radius)[:, None]
            square, mixed = (v * v).sum(-1), (p * v).sum(-1)
            discriminant = mixed**2 - square * ((p * p).sum(-1) - 1)
            t = (np.sqrt(np.maximum(discriminant, 0)) - mixed) / square
            seen = (discriminant > 0) & (t > depth)
            depth[seen] = t[seen]
            view = np.nonzero(seen)[0]
            point = pixels[seen] + t[seen, None] * towards[view]
            normal = _unit((point - center) / radius**2)
            shade = 0.35 + 0.65 * np.maximum((normal * light[view]).sum(-1, keepdims=True), 0)
            image[seen] = np.clip(tone + np.sin(point @ waves + phase) @ colours, 0.02, 1) * shade
        pictures.append(image.reshape(n_views, -1))
    return np.concatenate(pictures).astype(np.float32), _labels([n_views] * n_objects)


# --- other manifolds -----------------------------------------------------------------------------


def curves(n_classes: int, n_each: int, d: int = 32, seed: int = 0) -> Labelled:
    """Generate random closed curves, one per class, that come close to each other in places."""
    rng = np.random.default_rng(seed)
    X = []
    for _ in range(n_classes):
        t = rng.uniform(0, 2 * np.pi, (n_each, 1))
        angles = np.concatenate([t, 2 * t], axis=1)
        weights = rng.standard_normal((4, d)) / np.array([[1], [2], [1], [2]])
        X.append(np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ weights)
        X[-1] += 0.5 * rng.standard_normal(d) + 0.15 * rng.standard_normal((n_each, d))
    return np.concatenate(X).astype(np.float32), _labels([n_each] * n_classes)


def walks(n_classes: int, n_each: int, d: int = 10, seed: int = 0) -> Labelled:
    """Generate random walks, one per class, like frames of a video: the nearest follow in time."""
    rng = np.random.default_rng(seed)
    steps = 0.35 * rng.standard_normal((n_classes, n_each, d))
    X = rng.standard_normal((n_classes, 1, d)) + np.cumsum(steps, axis=1)
    X += 0.05 * rng.standard_normal(X.shape)
    return X.reshape(-1, d).astype(np.float32), _labels([n_each] * n_classes)


def swiss_roll(n_classes: int, n_each: int, d: int = 20, seed: int = 0) -> Labelled:
    """Generate a rolled-up sheet in d dimensions; the classes are consecutive stretches of it."""
    rng = np.random.default_rng(seed)
    n = n_classes * n_each
    t = np.sort(1.5 * np.pi * (1 + 2 * rng.random(n)))
    sheet = np.stack([t * np.cos(t), 15 * rng.random(n), t * np.sin(t)], axis=1)
    X = sheet @ rng.standard_normal((3, d)) + 0.3 * rng.standard_normal((n, d))
    # Shifted from the origin, so that angles and distances agree.
    return (X + 12).astype(np.float32), _labels([n_each] * n_classes)


# --- clusters, hubs, words, faces ----------------------------------------------------------------


def clusters(sizes: Sequence[int], d: int = 64, seed: int = 0) -> Labelled:
    """Generate overlapping Gaussian clusters of given sizes, some wide and some narrow."""
    rng = np.random.default_rng(seed)
    labels = _labels(sizes)
    centers = rng.standard_normal((len(sizes), d))
    spread = 1.3 * np.exp(0.4 * rng.standard_normal((len(sizes), 1)))
    X = centers[labels] + spread[labels] * rng.standard_normal((len(labels), d))
    return X.astype(np.float32), labels


def zipf_sizes(n_classes: int, largest: int, smallest: int = 2) -> list[int]:
    """Return sizes that fall as 1/rank down to the smallest."""
    return [max(largest // rank, smallest) for rank in range(1, n_classes + 1)]


def hubs(
    n_classes: int, n_each: int, d: int = 300, *, signal: float = 0.35, seed: int = 0
) -> Labelled:
    """Generate weak classes in many dimensions, off-centre: a few items are near all others."""
    rng = np.random.default_rng(seed)
    labels = _labels([n_each] * n_classes)
    noise = rng.standard_normal((len(labels), d)) * rng.lognormal(0, 0.35, (len(labels), 1))
    X = signal * rng.standard_normal((n_classes, d))[labels] + noise
    return (X + 0.8 * rng.standard_normal(d)).astype(np.float32), labels


def documents(n_classes: int, n_each: int, vocabulary: int = 1000, seed: int = 0) -> Labelled:
    """Generate tf-idf bags of words: three topics per class on a shared Zipf background."""
    rng = np.random.default_rng(seed)
    background = 1 / np.arange(1, vocabulary + 1)
    background *= 0.7 / background.sum()
    counts = []
    for _ in range(n_classes):
        topics = rng.dirichlet(np.full(vocabulary, 0.02), 3)
        words = 0.3 * rng.dirichlet([0.7] * 3, n_each) @ topics + background
        words /= words.sum(axis=1, keepdims=True)
        counts.append(rng.multinomial(rng.integers(30, 120, n_each), words))
    X = np.concatenate(counts)
    inverse_frequency = np.log(len(X) / np.maximum((X > 0).sum(axis=0), 1))
    return (np.log1p(X) * inverse_frequency).astype(np.float32), _labels([n_each] * n_classes)


def faces(n_people: int, n_each: int, d: int = 400, seed: int = 0) -> Labelled:
    """Generate linear faces whose shared modes, such as pose and light, outweigh the person.

    This is a counter-example: the neighbours of an item are other persons in the same pose, and so
    are the items reached along the graph, so re-ranking without labels makes the rankings worse.
    """
    rng = np.random.default_rng(seed)
    labels = _labels([n_each] * n_people)
    n = len(labels)
    person = rng.standard_normal((n_people, d))
    pose = rng.standard_normal((n, 8)) * np.geomspace(1.5, 0.3, 8)
    X = 2 * rng.standard_normal(d) + person[labels] + pose @ rng.standard_normal((8, d))
    expressions = rng.standard_normal((n_people, 2, d))
    X += 0.5 * np.einsum("na,nad->nd", rng.standard_normal((n, 2)), expressions[labels])
    return (X + 0.5 * rng.standard_normal((n, d))).astype(np.float32), labels


def _labels(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(sizes)), sizes)


def _unit(X: NDArray[np.float64]) -> NDArray[np.float64]:
    return X / np.linalg.norm(X, axis=-1, keepdims=True)
