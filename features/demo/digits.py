"""The demo: search of handwritten digits with and without diffusion, and discovery of objects.

The demo trains a small network on 100 labelled images and searches a gallery of 1497 other images
for 200 queries, on raw pixels and on the network's descriptors, with the usual methods and with
diffusion. It writes an index, a page with the comparison, and one with the results of some queries
(`diffusion.page`). The data are scikit-learn's digits, which are installed with that package. A
third page shows recurring objects in drawn scenes (see `features.demo.objects`).

Notes
-----
The three parts of the data are disjoint: the training images are used for training only, and the
graph contains the gallery only. All methods have their published settings; diffusion is run with
its defaults as well. The number of training images is small because the graph helps most where
labels are few.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import diffusion
from diffusion import DiffusionError
from diffusion import page as results
from diffusion.baselines import expansion
from diffusion.metrics import average_precision, hits_from_labels

from ..pages.rendering import data_address
from . import objects as demo_objects
from . import report

SEED = 0


@dataclass(frozen=True)
class Settings:
    """Sizes of the parts of the data, and settings of the methods that are compared.

    Attributes
    ----------
    n_training, n_queries : int
        Images for training and queries; the remaining images are the gallery.
    aqe_neighbors, alpha_qe_neighbors, dba_neighbors : int
        Neighbours averaged by average query expansion, by alpha-weighted query expansion and by
        database augmentation.
    alpha : float
        Exponent of the weights in the last two.
    paper : dict
        Parameters of Iscen et al. (CVPR 2017), stated explicitly so that the page can print them.
    query_k : int
        Number of neighbours per query by default.
    shown : int
        Results per query that the page shows, and that are compared between the index that was
        saved and the ranker that it was saved from.
    searched : int
        Queries whose results are on a page of their own.
    timed : int
        Results per query in the timed searches, the usual length of a result list. mAP needs the
        whole gallery, whose sorting would dominate the time.
    repeats : int
        Timed runs. The fastest counts, because other programs disturbed it least.
    """

    n_training: int = 100
    n_queries: int = 200
    aqe_neighbors: int = 10
    alpha_qe_neighbors: int = 50
    dba_neighbors: int = 10
    alpha: float = 3.0
    paper: dict[str, Any] = field(
        default_factory=lambda: {
            "k": 50,
            "affinity": "cosine",
            "gamma": 3.0,
            "alpha": 0.99,
            "query_k": 10,
            "solver": "cg",
        }
    )
    query_k: int = 10
    shown: int = 10
    searched: int = 20
    timed: int = 100
    repeats: int = 5


SETTINGS = Settings()

Vectors = NDArray[np.float32]
Answer = Callable[[Vectors, int], NDArray[np.int64]]


class Part(NamedTuple):
    """Images (n, 8, 8), float32 in [0, 1], and their labels (n,), int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


class Searched(NamedTuple):
    """Results of all methods on one kind of descriptors.

    Attributes
    ----------
    queries : ndarray, shape (q, d), float32
    ranker : diffusion.Reranker
        The one behind the last method.
    rows : list of report.Row
    ranked : dict of str to ndarray, shape (q, n), int64
        The ranking of the whole gallery for each query, by method.
    precision : dict of str to ndarray, shape (q,), float64
        Average precision per query in percent, by method.
    """

    queries: Vectors
    ranker: diffusion.Reranker
    rows: list[report.Row]
    ranked: dict[str, NDArray[np.int64]]
    precision: dict[str, NDArray[np.float64]]


def split(
    n: int, *, n_training: int, n_queries: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Split n images at random into training images, gallery and queries.

    Returns
    -------
    training, gallery, queries : ndarray of int64
        Disjoint row numbers: `n_training` of them, the remaining ones, and `n_queries`.
    """
    order = np.random.default_rng(seed).permutation(n)
    queries, training, gallery = np.split(order, [n_queries, n_queries + n_training])
    return training, gallery, queries


def run(
    folder: str | os.PathLike[str] = "demo",
    *,
    progress: bool = True,
    output: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Run the demo.

    Parameters
    ----------
    folder : path-like, default "demo"
        Created if it does not exist. `index/`, `report.html`, `search.html` and `objects.html` are
        written to it and replace those of an earlier run.
    progress : bool, default True
        Show progress bars on standard error.
    output : callable, default print
        Called with each message and with the table.

    Returns
    -------
    dict
        `rows`, the table: a list of dicts with `descriptors`, `method`, `mean_ap` (percent) and
        `milliseconds` (per query); `graph`: `nodes`, `edges`, `components`, `isolated`; `solver`:
        its `name`, and its `work`, in multiplications per query; `query`, the number of the query
        that the page shows; `index`, `report` and `search`, paths; `objects`, the result of
        `features.demo.objects.run`.

    Raises
    ------
    DiffusionError
        If `folder` cannot be created, or contains an `index` that is not an index.
    """
    folder = _made(folder)
    _warm_up(progress)
    training, gallery, queries = _load()
    network = _train(training, progress)

    with tqdm(total=12, desc="search", unit="method", disable=not progress) as bar:
        pixels, learned = (
            _search(name, describe(gallery.images), describe(queries.images), gallery, queries, bar)
            for name, describe in (("raw pixels", _pixels), ("CNN descriptors", network))
        )
    rows = [*pixels.rows, *learned.rows]
    output(_format(rows))

    figures = _figures(learned.ranker)
    graph = _said_of_graph(**figures["graph"])
    output(f"Graph of the CNN descriptors of the gallery: {graph}.")
    output(
        "The solver was {name!r}: {work:,} multiplications by an edge weight per query.".format(
            **figures["solver"]
        )
    )
    gain = learned.precision["diffusion"] - learned.precision["cosine"]
    example = _example(int(np.argmax(gain)), learned, gallery, queries)

    index, page, search = folder / "index", folder / "report.html", folder / "search.html"
    _save_and_check(learned.ranker, learned.queries[example.number], index)
    output(
        f"Saved {index} and loaded it memory-mapped: query {example.number} gives the same "
        f"{SETTINGS.shown} results with the same scores."
    )
    report.write(
        page,
        rows,
        example,
        gains=report.Gains.of(gain),
        nodes=figures["graph"]["nodes"],
        graph=graph,
        settings=SETTINGS,
        search=search.name,
    )
    _write_results(search, learned, gallery, queries, example.number)
    output(
        f"Wrote {page}: query {example.number} before and after diffusion, with an average "
        f"precision of {example.before.average_precision:.1f} and "
        f"{example.after.average_precision:.1f} %."
    )
    output(f"Wrote {search}: this query and {SETTINGS.searched - 1} others, with explanations.")
    objects = demo_objects.run(folder / "objects.html", seed=SEED, progress=progress, output=output)
    return {
        "rows": [asdict(row) for row in rows],
        **figures,
        "query": example.number,
        "index": str(index),
        "report": str(page),
        "search": str(search),
        "objects": objects,
    }


# --- steps ---------------------------------------------------------------------------------------


def _made(folder: str | os.PathLike[str]) -> Path:
    """Create the folder if it does not exist, and return its path."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiffusionError(f"folder: {folder} cannot be created ({error.strerror})") from None
    return folder


def _warm_up(progress: bool) -> None:
    """Import and compile beforehand, so that this is not counted as search time."""
    with tqdm(total=3, desc="warm-up", disable=not progress) as bar:
        import torch  # noqa: F401

        bar.update()
        X = np.random.default_rng(SEED).random((100, 8), np.float32)
        rankers = [diffusion.Reranker(**settings).fit(X) for settings in (SETTINGS.paper, {})]
        bar.update()
        for ranker in rankers:
            ranker.search(X, k=len(X))
        bar.update()


def _load() -> tuple[Part, Part, Part]:
    """Return training images, gallery and queries."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target.astype(np.int64)
    sizes = {"n_training": SETTINGS.n_training, "n_queries": SETTINGS.n_queries}
    parts = split(len(images), **sizes, seed=SEED)
    training, gallery, queries = (Part(images[rows], labels[rows]) for rows in parts)
    return training, gallery, queries


def _train(training: Part, progress: bool) -> Callable[[NDArray[np.float32]], Vectors]:
    """Train the network and return a function that describes images with it."""
    import torch

    from ..description.describe import describe
    from ..networks.backbones import LeNet
    from ..training.contrastive import train_contrastive

    network = LeNet(image_size=8, seed=SEED)
    threads = torch.get_num_threads()
    # Batches this small gain nothing from threads and wait long for them on a busy machine. With
    # one thread, the sums do not depend on the number of cores either.
    torch.set_num_threads(1)
    try:
        train_contrastive(network, *training, seed=SEED, progress=progress)
    finally:
        torch.set_num_threads(threads)
    return lambda images: describe(network, images)


def _pixels(images: NDArray[np.float32]) -> Vectors:
    return expansion.normalize(images.reshape(len(images), -1))


def _methods(
    X: Vectors, paper: diffusion.Reranker, ranker: diffusion.Reranker
) -> dict[str, Answer]:
    """Do the offline work of each method; return functions that list the k first results."""
    augmented = expansion.augment_database(X, SETTINGS.dba_neighbors, alpha=SETTINGS.alpha)

    def expanding(database: Vectors, neighbors: int, alpha: float) -> Answer:
        def answer(Q: Vectors, k: int) -> NDArray[np.int64]:
            scores, ids = expansion.search(Q, database, neighbors)
            expanded = expansion.average(Q, database, scores, ids, alpha=alpha)
            return expansion.search(expanded, database, k)[1]

        return answer

    return {
        "cosine": lambda Q, k: expansion.search(Q, X, k)[1],
        "AQE": expanding(X, SETTINGS.aqe_neighbors, 0.0),
        "alpha-QE": expanding(X, SETTINGS.alpha_qe_neighbors, SETTINGS.alpha),
        "DBA + alpha-QE": expanding(augmented, SETTINGS.alpha_qe_neighbors, SETTINGS.alpha),
        "diffusion, cosine": lambda Q, k: paper.search(Q, k)[1],
        "diffusion": lambda Q, k: ranker.search(Q, k)[1],
    }


def _search(
    descriptors: str, X: Vectors, Q: Vectors, gallery: Part, queries: Part, bar: tqdm[Any]
) -> Searched:
    """Search the gallery's descriptors X for the queries' descriptors Q with every method."""
    paper = diffusion.Reranker(**SETTINGS.paper).fit(X)
    ranker = diffusion.Reranker().fit(X)
    searched = Searched(Q, ranker, [], {}, {})
    for method, answer in _methods(X, paper, ranker).items():
        ids = answer(Q, len(X))
        precision = 100 * average_precision(*hits_from_labels(ids, gallery.labels, queries.labels))
        searched.ranked[method], searched.precision[method] = ids, precision
        mean_ap, milliseconds = float(precision.mean()), _milliseconds(answer, Q)
        searched.rows.append(report.Row(descriptors, method, mean_ap, milliseconds))
        bar.update()
    return searched


def _milliseconds(answer: Answer, Q: Vectors) -> float:
    """Return the online time per query in milliseconds, with all queries in one call."""
    seconds = []
    for _ in range(SETTINGS.repeats):
        start = perf_counter()
        answer(Q, SETTINGS.timed)
        seconds.append(perf_counter() - start)
    return 1000 * min(seconds) / len(Q)


def _save_and_check(ranker: diffusion.Reranker, query: Vectors, path: Path) -> None:
    ranker.save(path)
    scores, ids = ranker.search(query, k=SETTINGS.shown)
    loaded_scores, loaded_ids = diffusion.load(path).search(query, k=SETTINGS.shown)
    if not (np.array_equal(ids, loaded_ids) and np.array_equal(scores, loaded_scores)):
        raise RuntimeError(
            f"{path}: the loaded index gives other results than the one that was saved"
        )


def _write_results(
    path: Path, searched: Searched, gallery: Part, queries: Part, first: int
) -> None:
    """Write the page with the results of some queries, with the one that the report shows first."""
    chosen = [first, *(n for n in range(SETTINGS.searched) if n != first)][: SETTINGS.searched]
    answers = results.answers(
        searched.ranker,
        searched.queries[chosen],
        [f"query {number}, a handwritten {queries.labels[number]}" for number in chosen],
        name_of=lambda item: f"{gallery.labels[item]} (no. {item})",
        title="Handwritten digits before and after diffusion",
    )
    images = [*queries.images[chosen], *gallery.images[answers.ids]]
    pictures = (data_address(report.ink(image)) for image in images)
    results.write(path, {**answers.data, "pixelated": True}, pictures)


def _figures(ranker: diffusion.Reranker) -> dict[str, Any]:
    """Return the figures of a ranker's graph, and of the solver in its last search."""
    graph, solved = ranker.graph_, ranker.report_
    return {
        "graph": {
            "nodes": graph.n_nodes,
            "edges": graph.n_edges,
            "components": graph.n_components,
            "isolated": graph.n_isolated,
        },
        "solver": {
            "name": solved.solver,
            "work": round(float(solved.work.mean())),
        },
    }


# --- words ---------------------------------------------------------------------------------------


def _format(rows: Sequence[report.Row]) -> str:
    lines = [f"{'descriptors':<17}{'method':<18}{'mAP %':>6}{'ms per query':>14}"]
    for number, row in enumerate(rows):
        if number and row.descriptors != rows[number - 1].descriptors:
            lines.append("")
        lines.append(
            f"{row.descriptors:<17}{row.method:<18}{row.mean_ap:>6.1f}{row.milliseconds:>14.3f}"
        )
    lines += [
        "",
        f"Times are online times for the first {SETTINGS.timed} results. DBA, the graph and the "
        "descriptors are computed beforehand.",
    ]
    return "\n".join(lines)


def _said_of_graph(nodes: int, edges: int, components: int, isolated: int) -> str:
    parts = "1 component" if components == 1 else f"{components} components"
    return f"{nodes} nodes, {edges} edges, {parts}, {isolated} isolated nodes"


def _example(number: int, searched: Searched, gallery: Part, queries: Part) -> report.Example:
    """Return a query with its first results before and after diffusion."""

    def ranking(title: str, method: str) -> report.Ranking:
        first = searched.ranked[method][number, : SETTINGS.shown]
        precision = float(searched.precision[method][number])
        return report.Ranking(title, precision, gallery.images[first], gallery.labels[first])

    return report.Example(
        number,
        queries.images[number],
        int(queries.labels[number]),
        ranking("Before: cosine", "cosine"),
        ranking("After: diffusion", "diffusion"),
    )
