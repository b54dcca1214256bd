"""Filters of answers: which items may be in them."""

from __future__ import annotations

from collections.abc import Callable, Set
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DiffusionError
from .ids import ItemIds
from .kernels.ranking import EVERYTHING

# Ids, a mask, or a function of an array of ids.
Allow: TypeAlias = ArrayLike | Set[Any] | Callable[[NDArray[Any]], NDArray[np.bool_]] | None

_NO_IDS = np.empty(0, np.int64)


def allowed_by(allow: Allow, items: ItemIds, unknown: NDArray[Any] = _NO_IDS) -> NDArray[np.uint8]:
    """Return which items a filter allows.

    Parameters
    ----------
    allow : array_like of ids or set of ids; array_like of bool, shape (n,); callable; or None
        As `Reranker.search` takes it.
    items : ItemIds
    unknown : ndarray, shape (u,)
        Further ids, of a `Coded`. A mask allows none of them.

    Returns
    -------
    ndarray, shape (n + u,) or (0,), uint8
        1 for the items that are allowed; (0,) if there is no filter.

    Raises
    ------
    DiffusionError
        If `allow` is none of these.
    """
    if allow is None:
        return EVERYTHING
    if callable(allow):
        return _called(allow, items, unknown)
    if isinstance(allow, Set):
        allow = list(allow)
    mask = _as_mask(allow)
    out = np.zeros(items.size + len(unknown), np.uint8)
    if mask is not None:
        if mask.shape != (items.size,):
            raise DiffusionError(
                f"allow: expected a mask of shape ({items.size},), one value for each item in the "
                f"order of ids_, got {mask.shape}"
            )
        out[: items.size] = mask
        return out
    if isinstance(allow, str | Integral):
        raise DiffusionError(f"allow: expected ids, a mask or a function of ids, got {allow!r:.60}")
    codes, others = items.coded(allow, "allow")
    if codes.ndim != 1:
        raise DiffusionError(f"allow: expected a list of ids, got shape {codes.shape}")
    out[codes[(codes >= 0) & (codes < items.size)]] = 1
    if len(unknown) and len(others):
        out[items.size :] = np.isin(unknown, others)
    return out


def _as_mask(allow: Any) -> NDArray[np.bool_] | None:
    """Return booleans as an array, None for anything else."""
    if hasattr(allow, "detach") and hasattr(allow, "cpu"):
        allow = allow.detach().cpu().numpy()
    if isinstance(allow, list | tuple):
        return np.array(allow) if allow and all(isinstance(v, bool) for v in allow) else None
    array = np.asarray(allow) if hasattr(allow, "__array__") else None
    return array if array is not None and array.dtype == bool else None


def _called(allow: Any, items: ItemIds, unknown: NDArray[Any]) -> NDArray[np.uint8]:
    """Return what a function of an array of ids allows."""
    ids = items.all()
    asked = np.concatenate([ids, unknown]) if len(unknown) else ids
    hint = (
        "expected a function that takes an array of ids and returns an array of as many booleans "
        "(np.vectorize(f, otypes=[bool]) makes one of a function of one id)"
    )
    try:
        answer = np.asarray(allow(asked))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DiffusionError(
            f"allow: {hint}; it raised {type(error).__name__}: {reason}"
        ) from error
    if answer.dtype != bool or answer.shape != asked.shape:
        raise DiffusionError(f"allow: {hint}; got {answer.dtype} of shape {answer.shape}")
    return answer.astype(np.uint8)
