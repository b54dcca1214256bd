"""How well the groups of boxes are the objects of the collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.objects.groups import Groups

from ..table import Table

# A box shows the object that it overlaps this much: the intersection over the union, or the share
# of the true box that it covers, as long as it is no larger than this many times the true box.
OVERLAP = 0.5
COVERED, LARGEST = 0.8, 3.0

Boxes = NDArray[np.floating]
Ints = NDArray[np.int64]


class Agreement(NamedTuple):
    """How groups agree with objects; all but the counts are in [0, 1], the Rand index at most 1.

    Attributes
    ----------
    groups, objects : int
    purity : float
        Share of the boxes in groups whose object is the most frequent one of their group; boxes of
        the background are never right.
    purity_shown : float
        The same among the boxes in groups that show an object.
    completeness : float
        Mean over objects of the largest share of the photos that show it which one group holds.
    rand : float
        Adjusted Rand index of groups and objects over all boxes that show an object; those in no
        group are groups of their own.
    """

    groups: int
    objects: int
    purity: float
    purity_shown: float
    completeness: float
    rand: float


def shown_objects(boxes: Boxes, truth: Boxes, labels: Ints) -> Ints:
    """Return the object (k,) that each box of a photo shows, -1 for the background.

    Parameters
    ----------
    boxes : ndarray, shape (k, 4)
        Left, top, right, bottom in pixels.
    truth : ndarray, shape (m, 4)
        True boxes of the photo.
    labels : ndarray, shape (m,), int64
        Their objects.
    """
    if not len(truth) or not len(boxes):
        return np.full(len(boxes), -1)
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(axis=2)
    area, true_area = _areas(boxes)[:, None], _areas(truth)[None]
    overlap = inside / np.maximum(area + true_area - inside, 1e-9)
    covers = (inside >= COVERED * true_area) & (area <= LARGEST * true_area)
    best = overlap.argmax(axis=1)
    each = np.arange(len(boxes))
    shows = (overlap[each, best] >= OVERLAP) | covers[each, best]
    return np.where(shows, labels[best], -1)


def agreement(groups: Ints, objects: Ints, images: Ints, present: Sequence[Ints]) -> Agreement:
    """Compare groups with objects.

    Parameters
    ----------
    groups, objects : ndarray, shape (m,), int64
        The group and the object of each box, -1 for none.
    images : ndarray, shape (m,), int64
        The photo of each box.
    present : sequence of ndarray
        The objects of each photo, whether or not a box shows them.
    """
    grouped, shown = groups >= 0, objects >= 0
    both = grouped & shown
    counts = np.zeros((groups.max(initial=-1) + 1, objects.max(initial=-1) + 1), int)
    np.add.at(counts, (groups[both], objects[both]), 1)
    right = counts.max(axis=1, initial=0).sum()
    photos: dict[int, int] = {}
    for labels in present:
        for label in np.unique(labels[labels >= 0]).tolist():
            photos[label] = photos.get(label, 0) + 1
    held: dict[int, int] = dict.fromkeys(photos, 0)
    triples = np.unique(np.stack([objects, groups, images])[:, both], axis=1)
    pairs, held_photos = np.unique(triples[:2], axis=1, return_counts=True)
    for label, count in zip(pairs[0].tolist(), held_photos.tolist(), strict=True):
        held[label] = max(held.get(label, 0), count)
    shares = [held[label] / count for label, count in photos.items() if count > 1]
    alone = np.where(grouped, groups, groups.max(initial=-1) + 1 + np.arange(len(groups)))
    return Agreement(
        len(counts),
        sum(count > 1 for count in photos.values()),
        float(right / max(grouped.sum(), 1)),
        float(right / max(both.sum(), 1)),
        float(np.mean(shares)) if shares else 0.0,
        adjusted_rand(alone[shown], objects[shown]),
    )


def adjusted_rand(a: Ints, b: Ints) -> float:
    """Return the adjusted Rand index of two partitions (Hubert, Arabie, 1985)."""

    def pairs(counts: Ints) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both = np.unique(np.stack([a, b]), axis=1, return_counts=True)[1]
    together = pairs(both)
    of_a, of_b = (pairs(np.unique(x, return_counts=True)[1]) for x in (a, b))
    expected = of_a * of_b / max(len(a) * (len(a) - 1) / 2, 1)
    most = (of_a + of_b) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def grouping_table(
    name: str,
    groups: Groups,
    images: Ints,
    boxes: Boxes,
    truths: Sequence[tuple[Boxes, Ints]],
) -> Table:
    """Measure how well groups of boxes are the objects of a collection.

    Parameters
    ----------
    name : str
        Of the collection.
    groups : Groups
        Of m boxes.
    images : ndarray, shape (m,), int64
        The photo of each box.
    boxes : ndarray, shape (m, 4)
        Left, top, right, bottom in pixels of the image that the network was given.
    truths : sequence of (ndarray (t, 4), ndarray (t,), int64)
        The true boxes of each photo in the same pixels, and their objects, -1 for none.
    """
    objects = np.full(len(boxes), -1)
    for image, (truth, labels) in enumerate(truths):
        rows = np.flatnonzero(images == image)
        objects[rows] = shown_objects(boxes[rows], truth, labels)
    found = agreement(groups.labels, objects, images, [labels for _, labels in truths])
    table = Table(
        f"**Groups, {name}**: {len(boxes)} boxes in {len(truths)} photos, of which "
        f"{np.count_nonzero(objects >= 0)} show one of {found.objects} objects",
        ("groups", "boxes in groups", "purity", "purity of shown", "completeness", "Rand"),
        notes=[
            "A box shows the object whose true box it overlaps by a half, or of which it covers "
            f"{COVERED:.0%} without being {LARGEST:.0f} times as large. Purity: share of the boxes "
            "in groups that show the most frequent object of their group, of all and of those that "
            "show an object. Completeness: largest share of the photos of an object that one group "
            "holds, mean over objects in two photos or more. Rand: adjusted Rand index over the "
            "boxes that show an object."
        ],
    )
    shares = (found.purity, found.purity_shown, found.completeness, found.rand)
    grouped = int(np.count_nonzero(groups.labels >= 0))
    table.rows.append([found.groups, grouped, *(round(share, 3) for share in shares)])
    return table


def _areas(boxes: Boxes) -> NDArray[np.floating]:
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
