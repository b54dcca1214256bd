"""First-stage distances as the similarities that the collection's own lists have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DiffusionError
from .validation import as_numeric, is_ragged, only_rise, rectangular

_NAMES = ("distances0", "ids0")

# The error of a distance of 0 or of the largest one, which rounding explains.
_ROUNDING = 1e-4


def similarities(
    distances: Any, ids: Any, metric: str, squared: bool | None
) -> tuple[NDArray[np.float64], Any]:
    """Check the distances of hits, and return them as scores, with the ids in the same form.

    Parameters
    ----------
    distances : array_like, shape (nq, m) or (m,), or sequence of lists
        1 - cosine for `metric="cosine"`; for `"euclidean"` distances, or squared ones.
    ids : ndarray of the same shape, or list of ndarray
        -1 stands for padding.
    metric : {"cosine", "inner_product", "euclidean"}
    squared : bool or None
        Whether they are squared: a bool for `"euclidean"`, None otherwise.

    Raises
    ------
    DiffusionError
        If they cannot be such distances, or `squared` is not as described.
    """
    if metric == "inner_product":
        raise DiffusionError(
            "distances0: metric='inner_product' has no distance; expected scores0, inner products"
        )
    if metric == "euclidean" and not isinstance(squared, bool | np.bool_):
        raise DiffusionError(
            f"squared: expected True or False, got {squared!r}: whether distances0 are squared, as "
            "faiss, hnswlib and Milvus return them, or not, as Qdrant, pgvector and scikit-learn do"
        )
    if metric == "cosine" and squared is not None:
        raise DiffusionError(
            f"squared: expected None, got {squared!r}: distances0 of metric='cosine' are 1 - cosine"
        )
    if is_ragged(distances) or is_ragged(ids) or isinstance(ids, list):
        distances, ids = rectangular(distances, ids, _NAMES)
    values = as_numeric(distances, "distances0").astype(np.float64)
    if values.shape != ids.shape:
        raise DiffusionError(
            f"distances0: expected the shape of ids0, {ids.shape}, got {values.shape}"
        )
    real = ids >= 0
    most = 2.0 if metric == "cosine" else np.inf
    near = _ROUNDING * (1.0 if metric == "cosine" else float(values[real].max(initial=0)))
    with np.errstate(invalid="ignore"):
        wrong = real & ~((values >= -near) & (values <= most + near) & np.isfinite(values))
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0])
        noun = (
            "distances from 0 to 2, 1 - cosine" if most == 2 else "finite distances of at least 0"
        )
        raise DiffusionError(
            f"distances0: expected {noun}; row {at[0] if len(at) > 1 else 0} has "
            f"{values[at]:.9g} at place {at[-1]}"
        )
    if only_rise(np.atleast_2d(-values), np.atleast_2d(ids)):
        raise DiffusionError(
            "distances0: expected distances, nearest first; these never rise along a row, and fall "
            "in many places (similarities are passed as scores0)"
        )
    values = np.maximum(values, 0)
    if metric == "cosine":
        return 1 - np.minimum(values, 2), ids
    return (-values if squared else -(values**2)), ids
