"""Several descriptors of the same items: each alone, concatenated, and joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import diffusion
from diffusion.baselines import expansion

from ..data.several import Several, several
from ..table import Table
from .survey import compared, diffused


def joined(collections: Sequence[Several] | None = None) -> Table:
    """Rank collections by each of their descriptors, by plain concatenation, and by `join`."""
    rows = []
    for each in several() if collections is None else collections:
        for name, unit, gallery, queries in _vectors(each):
            plain, default, lose = compared(each.with_vectors(gallery, queries), [diffused])
            figures = (round(figure, 1) for figure in (plain, default, lose))
            rows.append([each.collection.name, name, unit, *figures])
    return Table(
        "**Several descriptors**, class mAP",
        ("collection", "descriptor", "unit", "cosine", "defaults", "lose, %"),
        rows,
        [
            "orientations: histograms of gradients. colours: histograms of hue, saturation and "
            "value. concatenated: all descriptors, L2-normalised. joined: diffusion.join of them. "
            "unit: the mean range of the similarities of an item's neighbours. lose: share of the "
            "queries that lose more than one point of AP with the defaults against cosine."
        ],
    )


def _vectors(each: Several) -> Iterator[tuple[str, float | None, NDArray[Any], NDArray[Any]]]:
    galleries, queries = zip(*each.descriptors.values(), strict=True)
    vectors = diffusion.join(galleries)
    yield from zip(each.descriptors, vectors.units, galleries, queries, strict=True)
    X, Q = (np.hstack([expansion.normalize(one) for one in part]) for part in (galleries, queries))
    yield "concatenated", None, X, Q
    yield "joined", None, vectors.vectors, vectors(queries)
