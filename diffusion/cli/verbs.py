"""The command `diffusion`: the library's verbs over files."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from .._version import __version__
from ..affinity import AFFINITIES
from ..errors import DiffusionError
from ..index_state import pack
from ..neighbors import METHODS
from ..reranker import Reranker, load
from ..solvers import SOLVERS
from ..storage import directory as storage
from ..storage import runs
from ..validation import METRICS, check_integer
from . import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 for bad input."""
    return command.run(_parser(), arguments)


def _parser() -> command.Parser:
    parser = command.Parser(
        prog="diffusion", description="Re-rank nearest-neighbour search by diffusion."
    )
    parser.add_argument("--version", action="version", version=f"diffusion-rerank {__version__}")
    parser.set_defaults(smaller="; a smaller -k, or vectors in parts, needs less")
    verb = command.Verbs(parser).add

    demo = verb("demo", _demo, "Train a small network on digits, index them, re-rank, report.")
    demo.add_argument("--folder", default="demo", help="where the index and the page go (demo)")

    build = verb("build", _build, "Build an index from vectors, or from neighbour lists.")
    build.add_argument(
        "vectors",
        nargs="?",
        metavar="VECTORS",
        help="(n, d) array in .npy, or a folder that `features extract` wrote",
    )
    build.add_argument("index", metavar="INDEX", help="directory to write")
    build.add_argument("--neighbor-scores", metavar="FILE.npy", help="(n, k) scores, best first")
    build.add_argument("--neighbor-ids", metavar="FILE.npy", help="(n, k) ids, -1 padded")
    default = Reranker().get_params()
    build.add_argument(
        "-k", type=int, default=default["k"], help="neighbours an item (%(default)s)"
    )
    build.add_argument("--alpha", type=float, default=default["alpha"], help="(%(default)s)")
    build.add_argument("--gamma", type=float, default=default["gamma"], help="(%(default)s)")
    build.add_argument("--query-k", type=int, default=default["query_k"], help="(%(default)s)")
    build.add_argument("--metric", choices=METRICS, default=default["metric"])
    build.add_argument("--affinity", choices=AFFINITIES, default=default["affinity"])
    build.add_argument("--neighbors", choices=tuple(METHODS), default=default["neighbors"])
    build.add_argument("--solver", choices=tuple(SOLVERS), default=default["solver"])

    search = verb("search", _search, "Search an index for query vectors, or for images.")
    search.add_argument("index", metavar="INDEX")
    search.add_argument("queries", nargs="?", metavar="QUERIES.npy", help="(nq, d) or (d,) array")
    search.add_argument(
        "--image",
        nargs="+",
        default=[],
        metavar="FILE",
        help="search an index of images for these, and print the names of what is found",
    )
    search.add_argument(
        "--weights", metavar="FILE", help="where the network's weights are, if they were moved"
    )

    rerank = verb("rerank", _rerank, "Re-rank first-stage results of any engine.")
    rerank.add_argument("index", metavar="INDEX")
    rerank.add_argument("results", metavar="RESULTS", help=".npz with scores, ids, or a TREC run")
    rerank.add_argument(
        "--restrict-to-candidates", action="store_true", help="only re-order, bring nothing in"
    )
    for sub in (search, rerank):
        sub.add_argument("-k", type=int, default=100, help="results a query (%(default)s)")
        sub.add_argument(
            "-o", "--output", metavar="FILE", help=".npz, or a TREC run (default: run on stdout)"
        )

    evaluate = verb("evaluate", _evaluate, "Score result lists against the truth.")
    evaluate.add_argument("results", metavar="RESULTS", help=".npz with scores, ids, or a TREC run")
    evaluate.add_argument("--qrels", metavar="FILE", help="TREC qrels; a relevance below 0 is junk")
    evaluate.add_argument("--gallery-labels", metavar="FILE.npy", help="(n,) array")
    evaluate.add_argument("--query-labels", metavar="FILE.npy", help="(nq,) array")
    evaluate.add_argument("--at", type=int, nargs="+", default=[1, 5, 10], metavar="K")

    info = verb("info", _info, "Describe an index.")
    info.add_argument("index", metavar="INDEX")
    info.add_argument("--verify", action="store_true", help="compare every file's checksum")

    for sub in (evaluate, info):
        sub.add_argument("--json", action="store_true", help="print JSON")
    for sub in (demo, build, search, rerank):
        sub.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from features.demo import digits as demo

    demo.run(options.folder, progress=not options.quiet)


def _build(options: argparse.Namespace) -> None:
    names = ("k", "alpha", "gamma", "query_k", "metric", "affinity", "neighbors", "solver")
    ranker = Reranker(
        **{name: getattr(options, name) for name in names}, progress=not options.quiet
    )
    lists = (options.neighbor_scores, options.neighbor_ids)
    if (lists[0] is None) != (lists[1] is None):
        raise DiffusionError("--neighbor-scores, --neighbor-ids: expected both or neither")
    if lists[0] is None and options.vectors is None:
        raise DiffusionError("VECTORS.npy: expected a file, or --neighbor-scores, --neighbor-ids")
    storage.check_target(options.index)
    X: Any = None
    images: Any = None
    if options.vectors is not None and Path(options.vectors).is_dir():
        from features.index.photos import pack_images

        X, images = pack_images(options.vectors)
    elif options.vectors is not None:
        X = runs.read_array(options.vectors)
    if lists[0] is None:
        with _named(X=options.vectors), _writing(options.index):
            # Beside the index, so that a killed build goes on where it was.
            ranker.fit(X, checkpoint=f"{os.fspath(options.index).rstrip(os.sep)}.partial")
    else:
        with _named(X=options.vectors, scores=lists[0], ids=lists[1]):
            ranker.fit_neighbors(runs.read_array(lists[0]), runs.read_array(lists[1]), X)
    with _writing(options.index):
        content, arrays = pack(ranker)
        if images is not None:
            content, arrays = content | images[0], arrays | images[1]
        storage.save(options.index, content, arrays)
    print(f"{options.index}: {ranker.graph_}")


def _search(options: argparse.Namespace) -> None:
    _check_output(options)
    if (options.queries is None) == (not options.image):
        raise DiffusionError("QUERIES.npy, --image: expected one of them")
    ranker = load(options.index).set_params(progress=not options.quiet)
    if options.image:
        from features.index.photos import describe_queries, write_names

        stored = storage.load(options.index)
        Q = describe_queries(stored, options.image, weights=options.weights)
        scores, ids = ranker.search(Q, options.k)
        if options.output is None:
            write_names(sys.stdout, stored, options.image, scores, ids)
        else:
            _write(options, scores, ids)
        return
    with _named(Q=options.queries):
        _write(options, *ranker.search(runs.read_array(options.queries), options.k))


def _rerank(options: argparse.Namespace) -> None:
    _check_output(options)
    ranker = load(options.index).set_params(progress=not options.quiet)
    scores, ids = runs.read_results(options.results)
    with _named(scores0=options.results, ids0=options.results):
        results = ranker.rerank(
            scores, ids, options.k, restrict_to_candidates=options.restrict_to_candidates
        )
    _write(options, *results)


def _check_output(options: argparse.Namespace) -> None:
    """Complain before the work about what would only fail after it."""
    if options.output is not None:
        path = Path(options.output).absolute()
        if not options.output or path.is_dir() or not path.parent.is_dir():
            raise DiffusionError(
                f"-o {options.output!r}: expected a file in a directory that exists"
            )


def _write(options: argparse.Namespace, scores: Any, ids: Any) -> None:
    scores, ids = np.atleast_2d(scores), np.atleast_2d(ids)
    if options.output is None:
        runs.write_run(sys.stdout, scores, ids)
    else:
        runs.write_results(options.output, scores, ids)


def _evaluate(options: argparse.Namespace) -> None:
    labels = (options.gallery_labels, options.query_labels)
    if (options.qrels is None) == (None in labels) or (options.qrels is not None and any(labels)):
        raise DiffusionError(
            "--qrels, or --gallery-labels and --query-labels: expected one of them"
        )
    _, ids = runs.read_results(options.results)
    if options.qrels is not None:
        with _named(ids=options.results):
            hits, relevant = metrics.hits_from_lists(ids, *runs.read_qrels(options.qrels, len(ids)))
    else:
        with _named(ids=options.results, gallery_labels=labels[0], query_labels=labels[1]):
            hits, relevant = metrics.hits_from_labels(ids, *map(runs.read_array, labels))
    if not (relevant > 0).any():
        raise DiffusionError(f"{options.results}: expected a query with something relevant to find")
    figures = {
        "mAP": metrics.average_precision(hits, relevant),
        "mAP (trapezoidal)": metrics.trapezoidal_average_precision(hits, relevant),
    }
    for k in options.at:
        check_integer(k, "--at", low=1)
        figures[f"mP@{k}"] = metrics.precision_at(hits, relevant, k)
        figures[f"recall@{k}"] = metrics.recall_at(hits, relevant, k)
    means = {name: float(np.nanmean(values)) for name, values in figures.items()}
    summary = {"queries": len(ids), "queries with relevant items": int((relevant > 0).sum())}
    _print({**summary, **means}, options.json)


def _info(options: argparse.Namespace) -> None:
    stored = storage.load(options.index, verify=options.verify)
    manifest = stored.manifest
    diagnosis = load(options.index).diagnose()
    size = sum(entry["bytes"] for entry in manifest["arrays"].values())
    facts = {
        "format version": manifest["version"],
        "written by": f"diffusion-rerank {manifest['library']}",
        **manifest["sizes"],
        **manifest["parameters"],
        "bytes": size,
        "graph": asdict(diagnosis) if options.json else str(diagnosis),
        "arrays": {name: f"{a.dtype} {a.shape}" for name, a in stored.arrays.items()},
        "checksums": "verified" if options.verify else "not read (--verify reads them)",
    }
    _print(facts, options.json)


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        text = text.replace("\n", "\n" + " " * (width + 2))
        print(f"{name:<{width}}  {text}")


@contextlib.contextmanager
def _named(**files: str | None) -> Iterator[None]:
    """Put a file's name where an error names the library's argument."""
    try:
        yield
    except DiffusionError as error:
        argument, _, rest = str(error).partition(":")
        if files.get(argument):
            raise DiffusionError(f"{files[argument]}:{rest}") from None
        raise


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Report a file or directory that cannot be written as bad input."""
    try:
        yield
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be written ({error.strerror or error})") from None
