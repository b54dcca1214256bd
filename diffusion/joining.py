"""Several descriptors of the same items, joined into one vector for each item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DiffusionError
from .neighbors import Exact, NeighborIndex
from .validation import as_vectors, check_real, count_of, is_single

# The unit of a list is the range of its twelve highest distinct scores, as in `Fusion`; it is
# looked for in lists of this length, in which a few duplicates leave enough distinct ones.
_PLACE, _LENGTH = 12, 48

# Number of items over which the units are averaged.
_SAMPLE = 2048

# Similarities that differ by less are equal up to rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Joined:
    """Several descriptors of the same items, joined; calling it joins the same ones of queries.

    Attributes
    ----------
    vectors : ndarray, shape (n, d_1 + ... + d_m), float32
        For `Reranker.fit` with the metric "cosine" or "inner_product". An item that has all
        descriptors has norm 1.
    units : tuple of m floats
        The unit of each descriptor's similarities. They are all that `join` needs to join
        queries in another process.
    dimensions : tuple of m ints
        The dimensions d_a of the descriptors.
    """

    vectors: NDArray[np.float32]
    units: tuple[float, ...]
    dimensions: tuple[int, ...]

    def __call__(self, Q: Sequence[ArrayLike]) -> NDArray[np.float32]:
        """Join the descriptors of queries with the units of the items.

        Parameters
        ----------
        Q : list of m array_like, shapes (nq, d_a) or (d_a,)
            The descriptors of the queries, in the order in which `join` got those of the items.

        Returns
        -------
        ndarray, shape (nq, d_1 + ... + d_m) or (d_1 + ... + d_m,), float32

        Raises
        ------
        DiffusionError
            If the number of descriptors, their dimensions or their lengths do not fit.
        """
        parts = _parts(Q, "Q", queries=True)
        single = all(map(is_single, Q))
        _check_count(self.units, "units", len(parts), "Q")
        dimensions = tuple(part.shape[1] for part in parts)
        if dimensions != self.dimensions:
            raise DiffusionError(
                f"Q: expected descriptors of dimensions {self.dimensions}, as those of the items, "
                f"got {dimensions}"
            )
        vectors = _concatenated(parts, self.units)
        return vectors[0] if single else vectors


def join(X: Sequence[ArrayLike], *, units: Sequence[float] | None = None) -> Joined:
    """Join several descriptors of the same items into one vector for each item.

    Descriptors differ in the range of their similarities: those of one may lie between 0.9 and 1,
    where the similarities of another fall from 0.8 to 0.2 within the neighbours of an item. In a
    plain concatenation the second descriptor alone decides. `join` divides each descriptor by the
    root of its unit, the mean range of the similarities of an item's neighbours, so that a
    neighbour of an item is as far above the others in one descriptor as in another::

        unit_a = mean over items of s_(1) - s_(12)
        x = (x_1 / sqrt(unit_1), ..., x_m / sqrt(unit_m)) / sqrt(Σ_a 1 / unit_a)

    Here x_a is the L2-normalised descriptor a, and s_(1) and s_(12) are the highest and the twelfth
    highest of the distinct cosines of an item with the others (or the lowest, if there are fewer).
    The inner product of two joined vectors is the mean of the cosines of their descriptors,
    weighted with 1 / unit_a. A descriptor that an item does not have may be a row of zeros: with
    the metric "cosine" the item is compared by the others.

    A unit tells how far the similarities of a descriptor reach, and not how good it is: joined with
    a much weaker one, a good descriptor ranks worse than alone. If there are labelled queries,
    compare the joined vectors with each descriptor; `units` takes others, and a larger one lowers
    the weight of its descriptor.

    Parameters
    ----------
    X : list of m array_like, shapes (n, d_a)
        Descriptors of the same n items; row i of each describes item i. Any real dtype.
    units : sequence of m floats, optional
        Units found before, as `Joined.units` has them, or of your own. By default they are
        measured, on 2,048 of the items if there are more, each of which is compared with all.

    Returns
    -------
    Joined

    Raises
    ------
    DiffusionError
        If `X` is not a list of matrices with equal numbers of rows, or holds NaN or infinity; if
        the similarities of a descriptor do not differ, so that it has no unit; or if `units` are
        not m positive numbers.

    Examples
    --------
    >>> import numpy as np, diffusion
    >>> rng = np.random.default_rng(0)
    >>> shapes, colours = rng.standard_normal((200, 32)), rng.random((200, 8))
    >>> joined = diffusion.join([shapes, colours])
    >>> ranker = diffusion.Reranker().fit(joined.vectors)
    >>> scores, ids = ranker.search(joined([shapes[:3], colours[:3]]), k=5)
    >>> ids[:, 0].tolist()
    [0, 1, 2]
    """
    parts = _parts(X, "X")
    if units is None:
        known = tuple(_unit(part, f"X[{a}]") for a, part in enumerate(parts))
    else:
        if count_of(units) is None:
            raise DiffusionError(
                f"units: expected a sequence of {len(parts)} numbers, got {units!r:.40}"
            )
        known = tuple(
            check_real(unit, f"units[{a}]", low=0, strict=True) for a, unit in enumerate(units)
        )
        _check_count(known, "units", len(parts), "X")
    dimensions = tuple(part.shape[1] for part in parts)
    return Joined(_concatenated(parts, known), known, dimensions)


def _parts(
    values: Sequence[ArrayLike], name: str, *, queries: bool = False
) -> list[NDArray[np.float32]]:
    if not isinstance(values, list | tuple) or not values:
        raise DiffusionError(
            f"{name}: expected a list of arrays, one for each descriptor, got "
            f"{type(values).__name__}{' of length 0' if isinstance(values, list | tuple) else ''}"
        )
    parts = [
        as_vectors(part, f"{name}[{a}]", metric="cosine", queries=queries)
        for a, part in enumerate(values)
    ]
    for a, part in enumerate(parts):
        if len(part) != len(parts[0]):
            raise DiffusionError(
                f"{name}: expected equal numbers of rows, got {len(parts[0])} in {name}[0] and "
                f"{len(part)} in {name}[{a}]"
            )
    return parts


def _check_count(units: tuple[float, ...], name: str, count: int, of: str) -> None:
    if len(units) != count:
        raise DiffusionError(
            f"{name}: expected one for each descriptor, got {len(units)} and {count} in {of}"
        )


def _unit(vectors: NDArray[np.float32], name: str) -> float:
    """Return the mean range of the highest distinct similarities of an item with the others."""
    n = len(vectors)
    asked = np.arange(n)
    if n > _SAMPLE:
        asked = np.sort(np.random.default_rng(0).choice(n, _SAMPLE, replace=False))
    scores, ids = NeighborIndex(vectors, "inner_product", Exact()).search(
        vectors[asked], _LENGTH + 1
    )
    # An item may be behind its exact duplicates in its own list, even behind the end of it.
    own = ids == asked[:, None]
    own[~own.any(axis=1), -1] = True
    others = scores[~own].reshape(len(asked), -1)
    falls = np.cumsum(others[:, 1:] < others[:, :-1], axis=1)
    places = np.concatenate([np.zeros((len(others), 1), np.int64), falls], axis=1)
    lowest = np.where((places < _PLACE) & (others > -np.inf), others, np.inf).min(axis=1)
    ranges = others[:, 0] - lowest if n > 1 else np.zeros(1)
    # A list of nothing but exact duplicates tells no range.
    ranges = ranges[ranges > _ROUNDING]
    if not len(ranges):
        raise DiffusionError(
            f"{name}: expected items whose similarities differ; those of an item's nearest "
            "neighbours are all the same"
        )
    return float(ranges.mean(dtype=np.float64))


def _concatenated(
    parts: list[NDArray[np.float32]], units: tuple[float, ...]
) -> NDArray[np.float32]:
    weights = 1 / np.array(units)
    factors = np.sqrt(weights / weights.sum())
    return np.concatenate(
        [part * np.float32(factor) for part, factor in zip(parts, factors, strict=True)], axis=1
    )
