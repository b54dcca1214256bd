"""The verb `build`: from vectors or neighbour lists to an index."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .. import storage
from ..affinity import AFFINITIES
from ..errors import DiffusionError
from ..index_state import INDEX
from ..neighbors import METHODS
from ..reranker import Reranker
from ..solvers import SOLVERS
from ..storage import read_array
from ..validation import METRICS
from .command import Verbs
from .files import named, writing

_PARAMETERS = ("k", "alpha", "gamma", "query_k", "metric", "affinity", "neighbors", "solver")


def add_verbs(verbs: Verbs) -> None:
    """Add `build`."""
    build = verbs.add("build", _build, "Build an index from vectors, or from neighbour lists.")
    build.add_argument("vectors", nargs="?", metavar="VECTORS.npy", help="(n, d) array")
    build.add_argument("index", metavar="INDEX", help="directory to write")
    build.add_argument("--neighbor-scores", metavar="FILE.npy", help="(n, k) scores, best first")
    build.add_argument("--neighbor-ids", metavar="FILE.npy", help="(n, k) ids, -1 padded")
    default = Reranker().get_params()
    build.add_argument(
        "-k", type=int, default=default["k"], help="neighbours per item (%(default)s)"
    )
    build.add_argument("--alpha", type=float, default=default["alpha"], help="(%(default)s)")
    build.add_argument("--gamma", type=float, default=default["gamma"], help="(%(default)s)")
    build.add_argument("--query-k", type=int, default=default["query_k"], help="(%(default)s)")
    build.add_argument("--metric", choices=METRICS, default=default["metric"])
    build.add_argument("--affinity", choices=AFFINITIES, default=default["affinity"])
    build.add_argument("--neighbors", choices=tuple(METHODS), default=default["neighbors"])
    build.add_argument("--solver", choices=tuple(SOLVERS), default=default["solver"])
    build.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def _build(options: argparse.Namespace) -> None:
    parameters = {name: getattr(options, name) for name in _PARAMETERS}
    ranker = Reranker(**parameters, progress=not options.quiet)
    vectors, index = options.vectors, options.index
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
    if lists[0] is None:
        with named(X=vectors), writing(index):
            # The checkpoint stands beside the index, so that a killed build can be resumed.
            ranker.fit(read_array(vectors), checkpoint=f"{index.rstrip(os.sep)}.partial")
    else:
        X = None if vectors is None else read_array(vectors)
        with named(X=vectors, scores=lists[0], ids=lists[1]):
            ranker.fit_neighbors(read_array(lists[0]), read_array(lists[1]), X)
    with writing(index):
        ranker.save(index)
    print(f"{index}: {ranker.graph_}")
