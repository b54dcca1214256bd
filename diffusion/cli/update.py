"""The verbs `add` and `remove`: an index of a collection that changes."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ..errors import DiffusionError
from ..index_state import open_state
from ..reranker import Reranker
from ..storage import read_array, runs
from .command import Verbs, report
from .files import named


def add_verbs(verbs: Verbs) -> None:
    """Add `add` and `remove`."""
    add = verbs.add("add", _add, "Add items to an index.")
    add.add_argument("index", metavar="INDEX")
    add.add_argument("vectors", metavar="VECTORS.npy", help="(m, d) array")
    add.add_argument(
        "--ids",
        metavar="FILE",
        help="their ids, as `build --ids` takes them; an index without own ids numbers them itself",
    )
    remove = verbs.add("remove", _remove, "Remove items from an index.")
    remove.add_argument("index", metavar="INDEX")
    remove.add_argument("items", nargs="*", metavar="ID", help="ids of items")
    remove.add_argument("--ids", metavar="FILE", help="ids in a file, as `build --ids` takes them")
    for verb in (add, remove):
        verb.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def _add(options: argparse.Namespace) -> None:
    ranker = opened(options)
    ids = None if options.ids is None else runs.read_ids(options.ids)
    with named(X=options.vectors, ids=options.ids):
        ranker.add(read_array(options.vectors), ids=of_kind(ranker, ids))
    _save(options, ranker)


def _remove(options: argparse.Namespace) -> None:
    if bool(options.items) == (options.ids is not None):
        raise DiffusionError("ID, --ids: expected ids, or a file of ids")
    ranker = opened(options)
    ids = options.items or runs.read_ids(options.ids)
    with named(ids=options.ids):
        ranker.remove(of_kind(ranker, ids))
    _save(options, ranker)


def opened(options: argparse.Namespace) -> Reranker:
    """Return the Reranker of an index that is to be changed."""
    state = open_state(options.index)
    if state.kind == "regional":
        raise DiffusionError(f"{options.index}: an index of regions cannot be changed")
    if state.fixed is not None:
        raise DiffusionError(f"{options.index}: {state.fixed}")
    return Reranker.from_state(state).set_params(progress=not options.quiet)


def of_kind(ranker: Reranker, ids: Any) -> Any:
    """Return ids that were read as text as integers if those of the index are."""
    if not isinstance(ids, list) or ranker.fitted().items.named:
        return ids
    try:
        return np.array([int(text) for text in ids], np.int64)
    except (ValueError, OverflowError):
        return ids  # the error says what is expected


def _save(options: argparse.Namespace, ranker: Reranker) -> None:
    ranker.save(options.index)
    report(f"{options.index}: {ranker.n_items_} items; {ranker.graph_}")
