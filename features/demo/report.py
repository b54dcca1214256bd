"""The page that the demo writes: one query before and after diffusion, and the table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pages import rendering


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    descriptors, method : str
    mean_ap : float
        Mean average precision in percent.
    milliseconds : float
        Online time of a query.
    """

    descriptors: str
    method: str
    mean_ap: float
    milliseconds: float


@dataclass(frozen=True)
class Ranking:
    """The first results of a query by one method.

    Attributes
    ----------
    title : str
    average_precision : float
        In percent, over the full ranking.
    images : ndarray, shape (r, h, w), float
        In [0, 1], best first.
    labels : ndarray, shape (r,), int
    """

    title: str
    average_precision: float
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """A query with its results before and after.

    Attributes
    ----------
    number : int
        Of the query.
    image : ndarray, shape (h, w), float
        In [0, 1].
    label : int
    before, after : Ranking
    """

    number: int
    image: NDArray[np.float32]
    label: int
    before: Ranking
    after: Ranking


@dataclass(frozen=True)
class Gains:
    """What diffusion changes in the average precision of the queries.

    Attributes
    ----------
    better, worse : int
        Numbers of queries.
    median, largest_loss : float
        In points.
    """

    better: int
    worse: int
    median: float
    largest_loss: float

    @classmethod
    def of(cls, gain: NDArray[np.float64]) -> Gains:
        """Sum up the gain of each query in points."""
        return cls(
            int(np.count_nonzero(gain > 0)),
            int(np.count_nonzero(gain < 0)),
            float(np.median(gain)),
            float(-gain.min()),
        )


def write(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    example: Example,
    *,
    gains: Gains,
    nodes: int,
    graph: str,
    settings: object,
) -> None:
    """Write the page; the file appears whole or not at all.

    Parameters
    ----------
    path : path-like
    rows : sequence of Row
        Those of the same descriptors next to each other; the last of them is set off.
    example : Example
    gains : Gains
    nodes : int
        Of the graph.
    graph : str
        Figures of the graph.
    settings : Settings
        Those of the run.
    """
    groups = [(name, list(group)) for name, group in groupby(rows, lambda row: row.descriptors)]
    rendering.write(
        path,
        "features.demo",
        "digits.html",
        groups=groups,
        example=example,
        gains=gains,
        nodes=nodes,
        graph=graph,
        settings=settings,
        ink=ink,
    )


def ink(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a grey image (h, w) in [0, 1] as dark ink, where it is 1, on white."""
    return np.round(255 * (1 - np.clip(image, 0, 1))).astype(np.uint8)
