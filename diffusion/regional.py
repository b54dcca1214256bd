"""Diffusion over the regions of images, with scores pooled per image.

Each row of X is a region, and `images` says which image it belongs to. The nodes of the graph are
regions, so an object is found whatever surrounds it in an image. With the contextual affinity, a
second graph joins whole images, by the mean similarity of their regions.

Source: Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds: Recovering
Small Objects with Compact CNN Representations. CVPR 2017.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from tqdm import tqdm

from .affinity import Context, Pointwise
from .errors import DiffusionError
from .fitted import Fitted, Results
from .index_state import IndexState, open_state, save_state
from .kernels import ranking
from .kernels.matrix import SparseRows
from .parameters import Parameters
from .reporting import Reporting
from .reranker import Reranker
from .scoring.fusion import Diffused, Fusion
from .scoring.ranking import no_results, rank
from .scoring.regions import Groups, best_first, generalized_max_pooling, image_lists, matched
from .solvers import Report, Solution, Solver
from .storage.contents import COMPUTED, Array, Ascending, Between, Contents, Layout, finite
from .transfer import Transfer
from .validation import as_numeric, check_choice, check_integer, check_real

POOLINGS = ("gmp", "sum")
_KIND = "regional"
_UNSET = "unset"  # the parameters that are None
_WHOLE = "whole_"  # what the names of the arrays of the graph of images begin with
_OWN_PARAMETERS = ("pooling", "regularization")

# Limits of a batch: 256 MiB of diffused scores in float32, and about 250 MiB of list entries.
_BATCH_VALUES = 1 << 26
_BATCH_ENTRIES = 1 << 22

# Settings that depend on the affinity: those of `Reranker`, and those of the paper.
_CONTEXT: dict[str, Any] = {"k": 50, "query_k": 10, "solver": "auto"}
_PAPER: dict[str, Any] = {"k": 200, "query_k": 200, "solver": "cg"}

# Rankings of up to this length are of one solution, so that each is the beginning of the longer.
_SHORTEST = 100

# Entries of the lists of images beyond `k`, of which those that the affinity uses are kept.
_SPARE = 16

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

    Offline, a `Reranker` is fitted to the regions; regions of the same image are not in each
    other's neighbour lists. A second one is fitted to the images. Its neighbour lists are made from
    those of the regions: the similarity of two images is the mean, over the regions of one, of the
    best similarity to a region of the other. Online, the neighbours of each region q of a query are
    found, and the score of an image I is the mean of the fused scores on both graphs (`Fusion`)::

        f_I = ((x_I / max x)^(3/8) + (z_I / max z)^(3/8)) / 2 + weight ((J_I + K_I) / 2 + e_I)
        x_I = Σ_j w_j x_j / sqrt(d_j)       over the regions j of I, x = h(W) Σ_q y_q
        J_I = mean_q max_j J_qj

    Here y_q and J_q are the observation of a region q of the query and the similarity of its
    neighbourhood (`Context`), and d are the degrees. The weights w are 1 for `"sum"`; for `"gmp"`,
    they are those of generalised max pooling, which makes similar regions count once
    (`generalized_max_pooling`). z, K and e are the diffused score, the similarity of neighbourhoods
    and the first-stage evidence of whole images. The graph of regions finds small objects; that of
    images finds images that are alike as a whole.

    With `affinity="cosine"`, the score is that of the paper: the observation sums over the
    query's regions, ``y_i = Σ_q max(<x_i, q>, 0)^γ``, its `query_k` largest values are kept, and
    an image has the score ``Σ_j w_j x_j``. There is no second graph then.

    Parameters
    ----------
    k : int >= 1, optional
        Neighbours per item in the lists, of regions and of images. By default 50 for the contextual
        affinity (see `Reranker`), or the largest scale of a `Context` if that is more, and 200 for
        the others: the paper uses 200 for the regions of R-MAC, and 50 if they were reduced to a
        few per image.
    affinity : {"context", "cosine", "gaussian"} or Context, default "context"
        See `Reranker`.
    solver : str or solver object, optional
        See `Reranker`; by default "auto" for the contextual affinity and "cg" for the others.
    alpha, transfer
        See `Reranker`.
    query_k : int >= 1, optional
        With the contextual affinity, the number of regions in the observation of each region of a
        query, by default 10. Otherwise, that of the query as a whole, by default 200. Setting it on
        a fitted object takes effect immediately.
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
    whole_ : Reranker or None
        The Reranker fitted to the images, without vectors: None unless the affinity is contextual.
    n_regions_, n_images_ : int
        Number of regions, and number of images that have at least one.
    weights_ : ndarray, shape (m,), float32
        The weight of each region in generalised max pooling.
    n_features_in_ : int
        Dimension of the regions.
    report_ : Report
        Residual, iterations and convergence of the last `search` of the calling thread on the
        graph of regions, one value per query.

    Notes
    -----
    Threads: any number of threads may call `search`, `save` and `state` of a fitted object at the
    same time; each has its own `report_`. `fit` and `set_params` change the object, and no other
    call may run beside them.

    Memory: 8 bytes per region and 8 per image, in addition to the Reranker of m regions and, with
    the contextual affinity, that of n images without vectors. Lists of regions are at most
    w = max(4 k, 200) wide in a fit with this affinity: 8 w bytes per region for a time.

    The neighbour list of a query's region has max(k, query_k) entries; with k >= query_k, this is
    s_k(x|q) of the paper. With the contextual affinity, it has 500 entries, for e; the observations
    of images are made of its first max(2 k, 100), like the neighbour lists of the images. A region
    that is in no list counts with the score of the list's last entry there.

    If every image and every query has one region, the results equal those of `Reranker`, up to
    copies, which are nodes of their own here. Results with up to 100 images do not depend on k.

    References
    ----------
    Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.
    Murray, Jégou, Perronnin, Zisserman. Interferences in Match Kernels. TPAMI 2017.

    Examples
    --------
    Images 0 and 1 share an object, images 1 and 2 another.

    >>> import numpy as np, diffusion
    >>> X = np.eye(6)[[0, 1, 0, 2, 3, 2]] + 0.1 * np.eye(6)
    >>> ranker = diffusion.RegionalReranker().fit(X, [0, 0, 1, 1, 2, 2])
    >>> scores, ids = ranker.search(np.eye(6)[[0, 5]], k=2)
    >>> ids.tolist()
    [0, 1]
    """

    def __init__(
        self,
        *,
        k: int | None = None,
        affinity: str | Context = "context",
        solver: str | Solver | None = None,
        alpha: float | None = None,
        transfer: Transfer | None = None,
        query_k: int | None = None,
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
        """Build the graphs of a collection, and compute the weights of its regions for pooling.

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
        check_choice(self.pooling, "pooling", POOLINGS)
        check_real(self.regularization, "regularization", low=0.0, strict=True)
        X = as_numeric(X, "X")
        groups = Groups.of(images, X, "images")
        ranker = Reranker(**self._shared())
        weights = generalized_max_pooling(X, images, regularization=self.regularization)
        if _is_pointwise(self.affinity):
            ranker.fit_rows(X, index=index, checkpoint=checkpoint)
            self._set(ranker, None, groups, weights)
            return self
        # The regions of an image overlap: that they are alike says nothing about other images.
        k = check_integer(ranker.k, "k", low=1)
        lists = ranker.fit_groups(X, groups.members, _listed(k), index=index, checkpoint=checkpoint)
        whole = Reranker(**self._shared()).fit_neighbors(*_lists_of_images(*lists, groups, k))
        self._set(ranker, whole, groups, weights)
        return self

    def _shared(self) -> dict[str, Any]:
        """Return the parameters of the Rerankers."""
        shared = {n: v for n, v in self.get_params().items() if n not in _OWN_PARAMETERS}
        given = {n: v for n, v in shared.items() if v is not None}
        return {**shared, **_defaults_of(self.affinity), **given}

    def _set(
        self,
        ranker: Reranker,
        whole: Reranker | None,
        groups: Groups,
        weights: NDArray[np.float32],
        contents: Contents = COMPUTED,
    ) -> None:
        self.ranker_ = ranker
        self.whole_ = whole
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
            Descending, padded with -inf. A positive score is the fused or pooled score. Images
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
        rows = as_numeric(Q, "Q")
        asked = Groups.of_queries(queries, ranker.fitted().searched(rows)[1])
        if not len(asked.members):
            nothing_asked = np.empty((0, self.n_regions_))
            self._keep_report(ranker.solver_.solve(nothing_asked).report)
            return no_results(queries is None, k)
        rows = np.atleast_2d(rows)[asked.order]
        nq, wanted = len(asked.names), min(k, self.n_images_)
        # Lists of this length contain regions of at least k images for each region of a query.
        deep = k * int(self._groups.sizes.max())
        out_scores = np.empty((nq, k), np.float32)
        out_ids = np.empty((nq, k), np.int64)
        nothing = np.empty((nq, 0), np.float32), np.empty((nq, 0), np.int64)
        reports = []
        parts = list(self._batches(np.arange(nq), asked, self._length))
        hide = not self.progress or len(parts) == 1
        with tqdm(total=nq, desc="diffuse", unit="query", disable=hide) as bar:
            for part in parts:
                scores, report = self._scores(*_regions_of(rows, asked, part), k)
                reports.append(report)
                out = out_scores[part[0] : part[-1] + 1], out_ids[part[0] : part[-1] + 1]
                rank(scores, nothing[0][part], nothing[1][part], *out, restrict=False)
                short = np.flatnonzero(out[1][:, wanted - 1] < 0)
                for again in self._batches(short, asked, deep):
                    filled = out[0][again], out[1][again]
                    pairs = self._best_pairs(*_regions_of(rows, asked, part[again]), deep)
                    of_rows = (
                        scores[again] if isinstance(scores, np.ndarray) else scores.part(again)
                    )
                    rank(of_rows, *pairs, *filled, restrict=False)
                    out[0][again], out[1][again] = filled
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
        query_k = self.query_k
        if query_k is None:
            query_k = _defaults_of(self.ranker_.affinity)["query_k"]
        query_k = check_integer(query_k, "query_k", low=1)
        check_choice(self.pooling, "pooling", POOLINGS)
        self._contents.check()
        return self.ranker_.set_params(query_k=query_k, progress=self.progress)

    @property
    def _k(self) -> int:
        k = self.ranker_.k
        assert k is not None  # fit has set it
        return k

    @property
    def _length(self) -> int:
        """Length of the neighbour lists of a query's regions."""
        ranker = self.ranker_
        k, shortlist = self._k, ranker.solver_.shortlist
        if isinstance(ranker.fitted().affinity, Context):
            return max(_listed(k), shortlist, ranker.fitted().score.depth)
        return max(k, ranker.query_k, shortlist)

    @property
    def _pooling_weights(self) -> NDArray[np.float32]:
        return self.weights_ if self.pooling == "gmp" else np.ones(self.n_regions_, np.float32)

    def _batches(
        self, rows: NDArray[np.int64], asked: Groups, depth: int
    ) -> Iterator[NDArray[np.int64]]:
        """Divide rows of queries into batches that fit the memory limits for lists of a depth."""
        entries = int(asked.sizes.max()) * min(depth, self.n_regions_)
        size = min(_BATCH_VALUES // self.n_regions_, _BATCH_ENTRIES // entries)
        size = size // _BLOCK * _BLOCK if size > _BLOCK else max(1, size)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _scores(
        self, regions: NDArray[Any], query: NDArray[np.int64], k: int
    ) -> tuple[Diffused, Report]:
        """Return the scores of images (b, n) for queries, and the report of their solution.

        Parameters
        ----------
        regions : ndarray, shape (r, d)
            The regions of the queries, query by query.
        query : ndarray, shape (r,)
            The query of each region, from 0 to b - 1.
        k : int
            Length of the ranking.
        """
        fitted = self.ranker_.fitted()
        if isinstance(fitted.score, Fusion):
            return self._fused(fitted, fitted.score, regions, query, k)
        solution = self._diffused(*self._lists(regions, self._length), query)
        return self._pool(solution, self._pooling_weights), solution.report

    def _lists(self, regions: NDArray[Any], depth: int) -> Results:
        """Return the neighbour lists of regions."""
        index, vectors = self.ranker_.fitted().searched(regions)
        return index.search(vectors, min(depth, self.n_regions_))

    # --- the score of the paper ------------------------------------------------------------------

    def _diffused(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64], query: NDArray[np.int64]
    ) -> Solution:
        """Compute the observations of queries from the lists (r, c) of their regions; diffuse."""
        fitted, m = self.ranker_.fitted(), self.n_regions_
        sizes = np.bincount(query)
        place = np.arange(len(query)) - (np.cumsum(sizes) - sizes)[query]
        shape = len(sizes), sizes.max(), scores.shape[1]
        joined, of_regions = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
        joined[query, place], of_regions[query, place] = scores, ids
        # The regions of a query are weighted together: a row is scaled as a whole to fit float32.
        assert isinstance(fitted.affinity, Pointwise)  # the score of the others is a fusion
        weights = fitted.affinity.observation(joined.reshape(len(sizes), -1))
        of_regions = of_regions.reshape(weights.shape)
        y = _summed(weights, of_regions, m)
        candidates = best_first(y, min(fitted.solver.shortlist, m))[1]
        values, chosen = best_first(y, int(self.ranker_.query_k))
        return fitted.solver.solve(_summed(values, chosen, m), candidates=candidates)

    # --- the fusion ------------------------------------------------------------------------------

    def _fused(
        self,
        fitted: Fitted,
        score: Fusion,
        regions: NDArray[Any],
        query: NDArray[np.int64],
        k: int,
    ) -> tuple[Diffused, Report]:
        """Do what `_scores` does, with the contextual affinity."""
        assert self.whole_ is not None  # fit has made it
        m, n, whole = self.n_regions_, self.n_images_, self.whole_.fitted()
        query_k = int(self.ranker_.query_k)
        lists, observed = fitted.first_stage(regions, self._length, query_k=query_k, progress=False)
        seen = fitted.affinity.observe(*observed, query_k)
        assert seen.J is not None
        of_queries = sparse.csr_array((np.ones(len(query)), (query, np.arange(len(query)))))
        y = SparseRows.of_csr(of_queries @ seen.y.csr(m))
        candidates = _shortlist(*lists, query, fitted.solver.shortlist, m)
        solver = fitted.solver.for_depth(max(k, _SHORTEST) * math.ceil(m / n))
        solution = solver.solve(y, candidates=candidates)
        x = self._pool(solution, self._pooling_weights * score.weights(fitted.graph))
        row = np.repeat(np.arange(len(query)), seen.J.counts)
        _, similar, values = seen.J.packed()
        J = matched(row, self._groups.members[similar], values, query, n).astype(np.float32)

        # Regions of zeros have a list, but no neighbours.
        heard = np.any(observed[1] >= 0, axis=1, keepdims=True)
        lists = lists[0], np.where(heard, lists[1], -1)
        first = ranking.FirstStage(*image_lists(*lists, query, self._groups.members, n))
        # Of the length of those that the graph of images is made of.
        short = lists[0][:, : _listed(self._k)], lists[1][:, : _listed(self._k)]
        depth = whole.depth(query_k)
        near = image_lists(*short, query, self._groups.members, n, depth)
        scale = whole.affinity.scale_of(near[0])
        of_regions = score.fused(x, SparseRows.of_csr(J), first, scale, np.ones(n))
        seen = whole.affinity.observe(*near, query_k)
        solver = whole.solver.for_depth(max(k, _SHORTEST))
        of_images = solver.solve(seen.y, candidates=first.ids)
        f = score.combine(of_images.values, seen, first, scale, whole.graph, of_images.roots)
        return _mean(of_regions, f, n), solution.report

    # --- pooling ---------------------------------------------------------------------------------

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

    def _best_pairs(self, regions: NDArray[Any], query: NDArray[np.int64], depth: int) -> Results:
        """Return lists of images by their best pair of regions, from lists of a depth."""
        scores, ids = self._lists(regions, depth)
        row, place = np.nonzero(ids >= 0)
        members = self._groups.members[ids[row, place]]
        queries = np.arange(int(query[-1]) + 1)
        pairs = matched(query[row], members, scores[row, place], queries, self.n_images_)
        values, images = best_first(pairs)
        return values.astype(np.float32), images

    # --- storage ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a directory; see `Reranker.save`."""
        save_state(path, self.state())

    def state(self) -> IndexState:
        """Return the fitted state as plain values and arrays, which `from_state` takes."""
        state = self._fitted().state()
        arrays = {
            **state.arrays,
            "region_images": self._groups.members,
            "region_weights": self.weights_,
            "image_numbers": self._groups.names,
        }
        own: dict[str, Any] = {name: getattr(self, name) for name in _OWN_PARAMETERS}
        own[_UNSET] = [name for name in _CONTEXT if getattr(self, name) is None]
        parameters, sizes = {**state.parameters, **own}, {**state.sizes, "images": self.n_images_}
        rows = state.rows
        if self.whole_ is not None:
            whole = self.whole_.state()
            arrays |= {_WHOLE + name: array for name, array in whole.arrays.items()}
            sizes |= {_WHOLE + name: size for name, size in whole.sizes.items()}
            rows += tuple(family.with_prefix(_WHOLE) for family in whole.rows)
        return replace(
            state, kind=_KIND, parameters=parameters, sizes=sizes, arrays=arrays, rows=rows
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
        pointwise = _is_pointwise(ranker.affinity)
        whole = None if pointwise else _whole_of(state)
        with state.described("an index of regions"):
            n = state.size("images", low=1)
            if whole is not None and whole.n_items_ != n:
                raise ValueError(f"{_WHOLE}items: expected {n}, got {whole.n_items_}")
            layout = _layout(ranker.n_items_, n)
            contents = Contents(state.arrays, layout, state.source)
            members, weights, numbers = (state.arrays[name] for name in layout)
            own = {name: state.parameters[name] for name in _OWN_PARAMETERS}
            unset = state.parameters.get(_UNSET, [])  # an index of an earlier version has none
            if not (isinstance(unset, list) and all(name in _CONTEXT for name in unset)):
                raise ValueError(f"{_UNSET}: {unset!r:.40}")
        shared = {name: getattr(ranker, name) for name in cls().get_params() if name not in own}
        shared |= dict.fromkeys(unset)
        regional = cls(**shared, **own)
        regional._set(ranker, whole, Groups(numbers, members), weights, contents)
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


def _is_pointwise(affinity: object) -> bool:
    """Return whether an affinity, given by a name or an object, is one of the papers'."""
    pointwise = isinstance(affinity, str) and affinity in ("cosine", "gaussian")
    return pointwise or isinstance(affinity, Pointwise)


def _defaults_of(affinity: object) -> dict[str, Any]:
    """Return the settings that stand for None with an affinity."""
    if isinstance(affinity, Context):
        return {**_CONTEXT, "k": max(_CONTEXT["k"], affinity.scales[-1])}
    return _PAPER if _is_pointwise(affinity) else _CONTEXT


def _whole_of(state: IndexState) -> Reranker:
    """Return the Reranker of whole images from the state of regions."""
    own = len(_WHOLE)
    sizes = {name[own:]: size for name, size in state.sizes.items() if name.startswith(_WHOLE)}
    arrays = state.with_prefix(_WHOLE)
    return Reranker.from_state(replace(state, kind=None, sizes=sizes, arrays=arrays))


def _listed(k: int) -> int:
    """Return the length of the lists of regions that lists of images are made of."""
    return max(2 * k, _SHORTEST)


def _lists_of_images(
    scores: NDArray[np.float32], ids: NDArray[np.int32], groups: Groups, k: int
) -> Results:
    """Return the neighbour lists of images, from those of their regions; see `image_lists`."""
    n, step = len(groups.names), max(1, _BATCH_ENTRIES // scores.shape[1])
    width = k + _SPARE
    out = np.empty((n, width), np.float32), np.empty((n, width), np.int64)
    # Whole images, of which each part has about as many regions.
    cuts = np.unique(np.searchsorted(groups.starts, np.arange(0, len(ids) + step, step)).clip(0, n))
    for start, stop in itertools.pairwise(cuts):
        rows = groups.order[groups.starts[start] : groups.starts[stop]]
        own = scores[rows], ids[rows], groups.members[rows] - start
        out[0][start:stop], out[1][start:stop] = image_lists(*own, groups.members, n, width)
    return out


def _regions_of(
    rows: NDArray[Any], asked: Groups, part: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the regions (r, d) of some queries, and the place in `part` of each one's query.

    `rows` are the regions of all queries, query by query.
    """
    sizes = asked.sizes[part]
    query = np.repeat(np.arange(len(part)), sizes)
    region = np.arange(len(query)) - (np.cumsum(sizes) - sizes)[query]
    return rows[asked.starts[part][query] + region], query


def _shortlist(
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    query: NDArray[np.int64],
    width: int,
    m: int,
) -> NDArray[np.int64]:
    """Return the regions of the lists (r, c) that are most similar to each query, (b, width)."""
    if not width:
        return np.empty((int(query[-1]) + 1, 0), np.int64)
    return image_lists(scores, ids, query, np.arange(m), m, min(width, m))[1]


def _mean(a: Diffused, b: Diffused, n: int) -> Diffused:
    """Return the mean of two scores of images, (b, n) or sparse rows."""
    if isinstance(a, SparseRows) and isinstance(b, SparseRows):
        return SparseRows.of_csr((a.csr(n) + b.csr(n)) * np.float32(0.5))
    dense = [f.csr(n).toarray() if isinstance(f, SparseRows) else f for f in (a, b)]
    return (dense[0] + dense[1]) * np.float32(0.5)


def _summed(values: NDArray[np.float64], ids: NDArray[np.int64], m: int) -> sparse.csr_array:
    """Return sparse rows (b, m) of the sums of listed values (b, c); -1 is padding."""
    row, place = np.nonzero(ids >= 0)
    rows = sparse.csr_array((values[row, place], (row, ids[row, place])), shape=(len(ids), m))
    rows.sum_duplicates()
    return rows
