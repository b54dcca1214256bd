"""Diffusion over the regions of images, with scores pooled per image.

Each row of X is a region, and `images` says which image it belongs to. The nodes of the graph are
regions, so an object is found whatever surrounds it in an image.

Source: Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds: Recovering
Small Objects with Compact CNN Representations. CVPR 2017.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from tqdm import tqdm

from .affinity import Pointwise
from .errors import DiffusionError
from .fitted import Results
from .index_state import IndexState, open_state, save_state
from .kernels import ranking
from .kernels.matrix import SparseRows
from .parameters import Parameters
from .reporting import Reporting
from .reranker import Reranker
from .scoring.ranking import no_results, rank
from .scoring.regions import Groups, generalized_max_pooling
from .solvers import Solution, Solver
from .storage.contents import COMPUTED, Array, Ascending, Between, Contents, Layout, finite
from .transfer import Transfer
from .validation import as_numeric, check_choice, check_integer, check_real

POOLINGS = ("gmp", "sum")
_KIND = "regional"
_OWN_PARAMETERS = ("pooling", "regularization")

# Limits of a batch: 256 MiB of diffused scores in float32, and about 250 MiB of list entries.
_BATCH_VALUES = 1 << 26
_BATCH_ENTRIES = 1 << 22

# The width of the solvers' blocks; batches are a multiple of it if memory allows.
_BLOCK = 32


def _layout(m: int, n: int) -> Layout:
    """Return what the arrays of m regions of n images must be, beside those of the Reranker."""
    return {
        "region_images": Array(np.int32, (m,), Between(0, n - 1)),
        "region_weights": Array(np.float32, (m,), finite(np.float32)),
        "image_numbers": Array(np.int64, (n,), Ascending()),
    }


class RegionalReranker(Reporting, Parameters):
    """Search images by diffusion over the graph of all their regions.

    Offline, a `Reranker` is fitted to the regions. Online, the nearest regions of the collection
    are found for each region q of a query. The observation sums over the query's regions,
    ``y_i = Σ_q max(<x_i, q>, 0)^γ``, and its `query_k` largest values are kept. The score of an
    image is the weighted sum ``Σ_j w_j x_j`` of the diffused scores x of its regions j. The
    weights are 1 for `"sum"`; for `"gmp"`, they are those of generalised max pooling, which makes
    similar regions count once (`generalized_max_pooling`).

    Parameters
    ----------
    k : int >= 1, default 200
        Neighbours per region in the graph. The paper uses 200 for the regions of R-MAC, and 50
        if they were reduced to a few per image.
    affinity : {"cosine", "gaussian"}, default "cosine"
        See `Reranker`.
    solver, alpha, transfer
        See `Reranker`.
    query_k : int >= 1, default 200
        Number of regions in a query's observation. Setting it on a fitted object takes effect
        immediately.
    gamma, metric, neighbors
        See `Reranker`.
    pooling : {"gmp", "sum"}, default "gmp"
        How the scores of regions are combined into the score of their image. Setting it takes
        effect immediately.
    regularization : float > 0, default 1.0
        The λ of generalised max pooling. If it is small, similar regions of an image share one
        vote, however many they are; if it is large, the pooling approaches a sum.
    progress : bool, default False
        Show progress bars on standard error.

    Attributes
    ----------
    ranker_ : Reranker
        The Reranker fitted to the regions; its `graph_` is the graph of regions.
    n_regions_, n_images_ : int
        Number of regions, and number of images that have at least one.
    weights_ : ndarray, shape (m,), float32
        The weight of each region in generalised max pooling.
    n_features_in_ : int
        Dimension of the regions.
    report_ : Report
        Residual, iterations and convergence of the last `search` of the calling thread, one value
        per query.

    Notes
    -----
    Threads: any number of threads may call `search`, `save` and `state` of a fitted object at the
    same time; each has its own `report_`. `fit` and `set_params` change the object, and no other
    call may run beside them.

    Memory: 8 bytes per region and 8 per image, in addition to the Reranker of m regions.

    The neighbour list of a query's region has max(k, query_k) entries; with k >= query_k, this is
    s_k(x|q) of the paper. If every image and every query has one region, the results equal those
    of `Reranker`.

    References
    ----------
    Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.
    Murray, Jégou, Perronnin, Zisserman. Interferences in Match Kernels. TPAMI 2017.

    Examples
    --------
    Images 0 and 1 share an object, images 1 and 2 another.

    >>> import numpy as np, diffusion
    >>> X = np.eye(6)[[0, 1, 0, 2, 3, 2]] + 0.1 * np.eye(6)
    >>> ranker = diffusion.RegionalReranker(k=2, query_k=2).fit(X, [0, 0, 1, 1, 2, 2])
    >>> scores, ids = ranker.search(np.eye(6)[[0, 5]], k=2)
    >>> ids.tolist()
    [0, 1]
    """

    def __init__(
        self,
        *,
        k: int = 200,
        affinity: str = "cosine",
        solver: str | Solver = "cg",
        alpha: float = 0.99,
        transfer: Transfer | None = None,
        query_k: int = 200,
        gamma: float = 3.0,
        metric: str = "cosine",
        neighbors: Any = "auto",
        pooling: str = "gmp",
        regularization: float = 1.0,
        progress: bool = False,
    ) -> None:
        self.k = k
        self.affinity = affinity
        self.solver = solver
        self.alpha = alpha
        self.transfer = transfer
        self.query_k = query_k
        self.gamma = gamma
        self.metric = metric
        self.neighbors = neighbors
        self.pooling = pooling
        self.regularization = regularization
        self.progress = progress

    def fit(
        self,
        X: ArrayLike,
        images: ArrayLike,
        *,
        index: object = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Build the graph of a collection's regions, and compute their weights for pooling.

        Parameters
        ----------
        X : array_like, shape (m, d)
            One row per region; see `Reranker.fit`.
        images : array_like, shape (m,), int
            The image number of each region, >= 0, in any order. Images without a region are
            never found.
        index, checkpoint : optional
            See `Reranker.fit`.

        Returns
        -------
        RegionalReranker
            Itself.

        Raises
        ------
        DiffusionError
            If a parameter or an argument is not as described; the message names it.
        """
        check_choice(self.affinity, "affinity", ("cosine", "gaussian"))
        check_choice(self.pooling, "pooling", POOLINGS)
        check_real(self.regularization, "regularization", low=0.0, strict=True)
        X = as_numeric(X, "X")
        groups = Groups.of(images, X, "images")
        shared = {n: v for n, v in self.get_params().items() if n not in _OWN_PARAMETERS}
        ranker = Reranker(**shared)
        ranker.fit_rows(X, index=index, checkpoint=checkpoint)
        weights = generalized_max_pooling(X, images, regularization=self.regularization)
        self._set(ranker, groups, weights)
        return self

    def _set(
        self,
        ranker: Reranker,
        groups: Groups,
        weights: NDArray[np.float32],
        contents: Contents = COMPUTED,
    ) -> None:
        self.ranker_ = ranker
        self.weights_ = weights
        self.n_regions_ = ranker.n_items_
        self.n_images_ = len(groups.names)
        self.n_features_in_ = ranker.n_features_in_
        self._groups = groups
        self._begin_reports()
        self._contents = contents

    # --- online ----------------------------------------------------------------------------------

    def search(self, Q: ArrayLike, queries: ArrayLike | None = None, k: int = 100) -> Results:
        """Search the collection for query images that are not part of its graph.

        Parameters
        ----------
        Q : array_like, shape (r, d) or (d,)
            The regions of all queries, of the same kind as the collection's. There may be none,
            (0, d).
        queries : array_like, shape (r,), int, optional
            The query number of each region, in any order; the numbers start at 0 and none is left
            out. By default, all regions belong to one query.
        k : int >= 1, default 100
            Length of the result lists.

        Returns
        -------
        scores : ndarray, shape (nq, k), or (k,) without `queries`, float32
            Descending, padded with -inf. A positive score is the pooled diffused score. Images
            that diffusion did not reach follow in the order of their most similar pair of
            regions; their scores are zero or negative: that similarity minus the query's best.
        ids : ndarray, shape (nq, k) or (k,), int64
            Image numbers as given to `fit`, padded with -1. Equal scores are ordered by
            ascending number.

        Raises
        ------
        DiffusionError
            If an argument is not as described; the message names it.
        """
        k = check_integer(k, "k", low=1)
        ranker = self._fitted()
        vectors = ranker.fitted().searched(Q)[1]
        asked = Groups.of_queries(queries, vectors)
        if not len(vectors):
            nothing_asked = np.empty((0, self.n_regions_))
            self._keep_report(ranker.solver_.solve(nothing_asked).report)
            return no_results(queries is None, k)
        nq, wanted = len(asked.names), min(k, self.n_images_)
        weights = self.weights_
        if self.pooling == "sum":
            weights = np.ones(self.n_regions_, np.float32)
        listed = ranker.fitted().affinity.depth_of(ranker.k)
        depth = max(listed, ranker.query_k, ranker.solver_.shortlist)
        # Lists of this length contain regions of at least k images for each region of a query.
        deep = k * int(self._groups.sizes.max())
        out_scores = np.empty((nq, k), np.float32)
        out_ids = np.empty((nq, k), np.int64)
        nothing = np.empty((nq, 0), np.float32), np.empty((nq, 0), np.int64)
        reports = []
        parts = list(self._batches(np.arange(nq), asked, depth))
        hide = not self.progress or len(parts) == 1
        with tqdm(total=nq, desc="diffuse", unit="query", disable=hide) as bar:
            for part in parts:
                solution = self._diffuse(*self._lists(vectors, asked, part, depth))
                reports.append(solution.report)
                x = self._pool(solution, weights)
                out = out_scores[part[0] : part[-1] + 1], out_ids[part[0] : part[-1] + 1]
                rank(x, nothing[0][part], nothing[1][part], *out, restrict=False)
                short = np.flatnonzero(out[1][:, wanted - 1] < 0)
                for rows in self._batches(short, asked, deep):
                    filled = out[0][rows], out[1][rows]
                    pairs = self._best_pairs(*self._lists(vectors, asked, part[rows], deep))
                    of_rows = x[rows] if isinstance(x, np.ndarray) else x.part(rows)
                    rank(of_rows, *pairs, *filled, restrict=False)
                    out[0][rows], out[1][rows] = filled
                bar.update(len(part))
        np.copyto(out_ids, self._groups.names[out_ids], where=out_ids >= 0)
        self._keep_report(type(reports[0]).concatenate(reports))
        return (out_scores[0], out_ids[0]) if queries is None else (out_scores, out_ids)

    def _fitted(self) -> Reranker:
        """Return the Reranker of the regions, with the settings that take effect immediately."""
        if not hasattr(self, "ranker_"):
            raise DiffusionError(
                "RegionalReranker: not fitted yet; expected a call of fit before this one"
            )
        check_integer(self.query_k, "query_k", low=1)
        check_choice(self.pooling, "pooling", POOLINGS)
        self._contents.check()
        return self.ranker_.set_params(query_k=self.query_k, progress=self.progress)

    def _batches(
        self, rows: NDArray[np.int64], asked: Groups, depth: int
    ) -> Iterator[NDArray[np.int64]]:
        """Divide rows of queries into batches that fit the memory limits for lists of a depth."""
        entries = int(asked.sizes.max()) * min(depth, self.n_regions_)
        size = min(_BATCH_VALUES // self.n_regions_, _BATCH_ENTRIES // entries)
        size = size // _BLOCK * _BLOCK if size > _BLOCK else max(1, size)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _lists(
        self, vectors: NDArray[np.float32], asked: Groups, part: NDArray[np.int64], depth: int
    ) -> Results:
        """Return the neighbour lists of some queries' regions, concatenated per query.

        The length of a row is the largest number of regions times `depth`; rows are padded with
        -inf and -1.
        """
        depth = min(depth, self.n_regions_)
        sizes = asked.sizes[part]
        place = np.arange(sizes.max()) < sizes[:, None]
        query, region = np.nonzero(place)
        own = vectors[asked.order[asked.starts[part[query]] + region]]
        scores = np.full((*place.shape, depth), -np.inf, np.float32)
        ids = np.full((*place.shape, depth), -1, np.int64)
        index = self.ranker_.fitted().index
        assert index is not None  # fit has made it
        scores[place], ids[place] = index.search(own, depth)
        return scores.reshape(len(part), -1), ids.reshape(len(part), -1)

    def _diffuse(self, scores: NDArray[np.float32], ids: NDArray[np.int64]) -> Solution:
        """Compute the observations of queries from their lists, and diffuse them."""
        fitted, m = self.ranker_.fitted(), self.n_regions_
        real = ids >= 0
        indptr = np.concatenate([[0], np.cumsum(real.sum(axis=1))])
        # The regions of a query are weighted together: a row is scaled as a whole to fit float32.
        assert isinstance(fitted.affinity, Pointwise)  # fit has checked it
        weights = fitted.affinity.observation(scores)
        y = sparse.csr_array((weights[real], ids[real], indptr), shape=(len(ids), m))
        y.sum_duplicates()
        counts = np.diff(y.indptr)
        row = np.repeat(np.arange(len(ids)), counts)
        best_first = np.lexsort((y.indices, -y.data, row))
        place = np.arange(len(row)) - np.repeat(y.indptr[:-1], counts)
        shortlist = min(fitted.solver.shortlist, m)
        candidates = np.full((len(ids), shortlist), -1, np.int64)
        listed = place < shortlist
        candidates[row[listed], place[listed]] = y.indices[best_first[listed]]
        kept = place < self.query_k
        chosen = best_first[kept]
        y = sparse.csr_array((y.data[chosen], (row[kept], y.indices[chosen])), shape=y.shape)
        return fitted.solver.solve(y, candidates=candidates)

    def _pool(
        self, solution: Solution, weights: NDArray[np.float32]
    ) -> NDArray[np.float32] | SparseRows:
        """Pool the scores of regions (b, m) into scores of images (b, n)."""
        members, n, x = self._groups.members, self.n_images_, solution.x
        if isinstance(x, np.ndarray):
            out = np.zeros((len(x), n), np.float32)
            ranking.pooled(x, members, weights, out)
            return out
        rows = np.arange(self.n_regions_ + 1)
        by_image = sparse.csr_array((weights, members, rows), shape=(self.n_regions_, n))
        return SparseRows.of_csr(x @ by_image)

    def _best_pairs(self, scores: NDArray[np.float32], ids: NDArray[np.int64]) -> Results:
        """Convert lists of regions to lists of images, with the best score of their regions."""
        images = np.where(ids >= 0, self._groups.members[ids], np.int64(-1))
        by_image = np.lexsort((-scores, images), axis=1)
        scores = np.take_along_axis(scores, by_image, axis=1)
        images = np.take_along_axis(images, by_image, axis=1)
        repeated = np.zeros(images.shape, bool)
        repeated[:, 1:] = images[:, 1:] == images[:, :-1]
        scores[repeated], images[repeated] = -np.inf, -1
        by_score = np.lexsort((images, -scores), axis=1)
        return (
            np.take_along_axis(scores, by_score, axis=1),
            np.take_along_axis(images, by_score, axis=1),
        )

    # --- storage ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a directory; see `Reranker.save`."""
        save_state(path, self.state())

    def state(self) -> IndexState:
        """Return the fitted state as plain values and arrays, which `from_state` takes."""
        state = self._fitted().state()
        return replace(
            state,
            kind=_KIND,
            parameters={
                **state.parameters,
                **{name: getattr(self, name) for name in _OWN_PARAMETERS},
            },
            sizes={**state.sizes, "images": self.n_images_},
            arrays={
                **state.arrays,
                "region_images": self._groups.members,
                "region_weights": self.weights_,
                "image_numbers": self._groups.names,
            },
        )

    @classmethod
    def from_state(cls, state: IndexState, *, index: object = None) -> Self:
        """Return a fitted RegionalReranker from its state; the arrays are not read.

        Parameters
        ----------
        state : IndexState
        index : object, optional
            The index that `fit` was given, as it takes it.

        Raises
        ------
        DiffusionError
            If the state is not that of a RegionalReranker.
        """
        ranker = Reranker.from_state(state, index=index)
        with state.described("an index of regions"):
            layout = _layout(ranker.n_items_, state.size("images", low=1))
            contents = Contents(state.arrays, layout, state.source)
            members, weights, numbers = (state.arrays[name] for name in layout)
            own = {name: state.parameters[name] for name in _OWN_PARAMETERS}
        shared = {name: getattr(ranker, name) for name in cls().get_params() if name not in own}
        regional = cls(**shared, **own)
        regional._set(ranker, Groups(numbers, members), weights, contents)
        return regional

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, verify: bool = False, index: object = None
    ) -> Self:
        """Open a saved index of regions; see `diffusion.load`.

        Raises
        ------
        DiffusionError
            If there is no index of regions, or it is truncated, altered or of a newer version.
        """
        state = open_state(path, verify=verify)
        if state.kind != _KIND:
            raise DiffusionError(
                f"{path}: an index of single vectors, not of regions; expected diffusion.load"
            )
        return cls.from_state(state, index=index)
