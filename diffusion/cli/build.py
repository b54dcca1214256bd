"""The verb `build`: from vectors or neighbour lists to an index."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .. import storage
from ..cluster.build import build_sharded
from ..cluster.executors import open_executor
from ..cluster.inputs import Input, open_input
from ..errors import DiffusionError
from ..index_state import INDEX
from ..reranker import Reranker, load
from ..storage import read_array, runs
from .command import Verbs, report
from .files import named
from .parameters import add_parameters, reranker_of


def add_verbs(verbs: Verbs) -> None:
    """Add `build`."""
    build = verbs.add("build", _build, "Build an index from vectors, or from neighbour lists.")
    build.add_argument("vectors", nargs="?", metavar="VECTORS.npy", help="(n, d) array")
    build.add_argument("index", metavar="INDEX", help="directory to write")
    build.add_argument("--neighbor-scores", metavar="FILE.npy", help="(n, k) scores, best first")
    build.add_argument("--neighbor-ids", metavar="FILE.npy", help="(n, k) ids, -1 padded")
    build.add_argument(
        "--cluster",
        metavar="WHERE",
        help="build on threads:N, processes:N, local:N (Dask on this machine) or the scheduler of "
        "Dask at an address; VECTORS.npy and lists may then be folders of .npy or Parquet files; "
        "repeated after an interruption, it resumes",
    )
    build.add_argument(
        "--shards", type=int, metavar="N", help="tasks per stage, for --cluster (default: files)"
    )
    build.add_argument(
        "--vector-column",
        metavar="NAME",
        help="the column of VECTORS, if these are Parquet files (default: vectors)",
    )
    build.add_argument(
        "--id-column",
        metavar="NAME",
        help="the column with the ids of the items, if VECTORS are Parquet files",
    )
    build.add_argument(
        "--ids",
        metavar="FILE",
        help="ids of the items: (n,) int64 or str in a .npy file, or lines of text "
        "(default: row numbers)",
    )
    add_parameters(build)
    build.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def _build(options: argparse.Namespace) -> None:
    ranker = reranker_of(options, progress=not options.quiet)
    vectors, index = options.vectors, options.index
    if options.cluster is not None:
        _build_sharded(options, ranker)
        return
    for name in ("shards", "vector_column", "id_column"):
        if getattr(options, name) is not None:
            raise DiffusionError(f"--{name.replace('_', '-')}: expected --cluster, too")
    lists = (options.neighbor_scores, options.neighbor_ids)
    if (lists[0] is None) != (lists[1] is None):
        raise DiffusionError("--neighbor-scores, --neighbor-ids: expected both or neither")
    if lists[0] is None and vectors is None:
        raise DiffusionError("VECTORS.npy: expected a file, or --neighbor-scores, --neighbor-ids")
    if vectors is not None and Path(vectors).is_dir():
        raise DiffusionError(
            f"{vectors}: expected a .npy file, this is a directory; an index of photos is built "
            "by `features index PHOTOS INDEX`"
        )
    storage.check_target(index, INDEX)
    items = None if options.ids is None else runs.read_ids(options.ids)
    if lists[0] is None:
        with named(X=vectors, ids=options.ids):
            # The checkpoint stands beside the index, so that a killed build can be resumed.
            partial = f"{index.rstrip(os.sep)}.partial"
            ranker.fit(read_array(vectors), ids=items, checkpoint=partial)
    else:
        X = None if vectors is None else read_array(vectors)
        with named(X=vectors, scores=lists[0], ids=lists[1], item_ids=options.ids):
            ranker.fit_neighbors(read_array(lists[0]), read_array(lists[1]), X, item_ids=items)
    ranker.save(index)
    report(f"{index}: {ranker.graph_}")


def _build_sharded(options: argparse.Namespace, ranker: Reranker) -> None:
    """Build by tasks on the workers that `--cluster` names."""
    lists = (options.neighbor_scores, options.neighbor_ids)
    if (lists[0] is None) != (lists[1] is None):
        raise DiffusionError("--neighbor-scores, --neighbor-ids: expected both or neither")
    if lists[0] is None and options.vectors is None:
        raise DiffusionError("VECTORS: expected a path, or --neighbor-scores, --neighbor-ids")
    names = {"scores": "--neighbor-scores", "ids": "--neighbor-ids", "vectors": "VECTORS.npy"}
    with (
        named(**names, cluster="--cluster", shards="--shards", item_ids=options.ids),
        open_executor(options.cluster) as executor,
    ):
        vectors, items = _columns(options)
        build_sharded(
            None if lists[0] is None else lists,
            options.index,
            ranker,
            executor=executor,
            vectors=vectors,
            item_ids=items,
            shards=options.shards,
            progress=not options.quiet,
        )
    report(f"{options.index}: {load(options.index).graph_}")


def _columns(options: argparse.Namespace) -> tuple[Input | None, Any]:
    """Return the vectors and the ids of the items, each None if there are none."""
    items = None if options.ids is None else runs.read_ids(options.ids)
    path = options.vectors
    if path is None and (options.vector_column or options.id_column):
        raise DiffusionError("--vector-column, --id-column: expected VECTORS, too")
    vectors = None if path is None else open_input(path, "vectors", column=options.vector_column)
    if options.id_column is None or vectors is None:
        return vectors, items
    if items is not None:
        raise DiffusionError("--ids, --id-column: expected one of them")
    if vectors.column is None:
        raise DiffusionError("--id-column: expected VECTORS that are Parquet files")
    return vectors, open_input(path, "item_ids", kinds="iuU", ndim=1, column=options.id_column)
