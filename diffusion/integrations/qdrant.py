"""Qdrant: a graph of a collection, and its searches re-ranked over the graph."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

import numpy as np
from numpy.typing import ArrayLike

from .. import storage
from ..errors import DiffusionError
from ..index_state import QDRANT, open_state, save_state
from ..reranker import Reranker
from ..validation import as_vectors, check_integer, is_single
from . import hits
from .filtering import rerank_passing
from .hits import Reranked
from .qdrant_points import Codes, Passing, Points, is_int64, models

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

# Queries that are searched at a time: their hits take about 0.6 MB each.
_QUERIES = 64

CHECKPOINT = storage.Format(
    "diffusion-rerank qdrant checkpoint",
    1,
    "a checkpoint of QdrantReranker.fit",
    frozenset({"pages", "fit", "fit.solver"}),
)


class Synced(NamedTuple):
    """What `QdrantReranker.sync` has changed: numbers of points."""

    added: int
    removed: int


class QdrantReranker:
    """Search a collection of Qdrant, re-ranked by diffusion over the graph of its points.

    `fit` builds the graph from the vectors of the collection. `search` takes its first stage from
    Qdrant; `rerank` takes hits that Qdrant has returned already. Both return points with their
    payloads, also those that diffusion has brought in, and apply a filter to all of them.

    Parameters
    ----------
    client : QdrantClient
        Of a server or in local mode. Only its documented methods are called, and the errors of a
        connection are those that it raises.
    collection : str
        Name of the collection. Its distance is the metric of the graph: Cosine, Dot or Euclid.
    using : str, optional
        Name of the vector, if the collection has named vectors. Points without it are left out.
    ranker : Reranker, optional
        A Reranker of the collection's metric: one to fit, or one that was fitted to the vectors of
        the collection. Its ids are described under Notes.
    **parameters
        Parameters of the `Reranker`, if `ranker` is not given, such as ``query_k=20`` and
        ``progress=True``, which shows progress bars. `metric` is that of the collection.

    Attributes
    ----------
    ranker : Reranker
        The Reranker, for `explain`, `tune` and its other methods.

    Raises
    ------
    DiffusionError
        If there is no such collection or vector, the vector is a multivector or sparse, or its
        distance is Manhattan.

    Notes
    -----
    Ids: Qdrant's ids are unsigned integers and UUIDs. The ids of the graph are int64 if all points
    have integers below 2^63. Otherwise, they are str, the decimal digits of an integer or the text
    of a UUID. All methods of this class take and return Qdrant's own ids; `point_ids` converts the
    ids of `ranker`.

    Memory: the graph and the vectors, as `Reranker` says. Meanwhile, `fit` takes 4 bytes per number
    of the vectors and about 100 bytes per point for ids in addition, and up to 300 bytes per point
    as long as it reads.

    Threads: searches may run at the same time if the client allows it, and beside `sync`. The
    client's local mode has no locks: nothing may run beside a change of its points.

    Examples
    --------
    >>> import numpy as np
    >>> from qdrant_client import QdrantClient, models
    >>> from diffusion.integrations.qdrant import QdrantReranker
    >>> angle = np.linspace(0, np.pi, 60)
    >>> X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> client = QdrantClient(":memory:")
    >>> vectors = models.VectorParams(size=2, distance=models.Distance.COSINE)
    >>> _ = client.create_collection("angles", vectors_config=vectors)
    >>> points = [models.PointStruct(id=i, vector=x.tolist()) for i, x in enumerate(X)]
    >>> _ = client.upsert("angles", points)
    >>> reranker = QdrantReranker(client, "angles", k=4, query_k=2).fit()
    >>> sorted(point.id for point in reranker.search(X[0], limit=5))
    [0, 1, 2, 3, 4]
    >>> client.close()
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        *,
        using: str | None = None,
        ranker: Reranker | None = None,
        **parameters: Any,
    ) -> None:
        self.client, self.collection, self.using = client, collection, using
        self._points = Points(client, collection, using)
        if ranker is None:
            ranker = _made(self._points.metric, parameters)
        elif parameters:
            raise DiffusionError(
                f"{min(parameters)}: expected either a ranker or parameters of one, got both"
            )
        self._check(ranker)
        self.ranker = ranker

    def _check(self, ranker: Reranker) -> None:
        if not isinstance(ranker, Reranker):
            raise DiffusionError(f"ranker: expected a Reranker, got {type(ranker).__name__}")
        own = self._points
        dimension = getattr(ranker, "n_features_in_", own.dimension)
        if (ranker.metric, dimension) != (own.metric, own.dimension):
            raise DiffusionError(
                f"ranker: expected the metric and the dimension of {self.collection!r}, "
                f"{own.metric!r} and {own.dimension}, got {ranker.metric!r} and {dimension}"
            )
        if hasattr(ranker, "graph_"):
            # With other ids, all hits would be unknown to the graph. One shows their kind.
            first = ranker.fitted().items.of_rows(np.zeros(1, np.int64)).tolist()[0]
            if not _is_point_id(first):
                raise DiffusionError(
                    "ranker: expected a Reranker that was fitted with the ids of the points, "
                    f"integers from 0 or UUIDs as Qdrant writes them, got the id {first!r:.60}"
                )

    # --- the graph --------------------------------------------------------------------------------

    def fit(self, *, checkpoint: str | os.PathLike[str] | None = None) -> Self:
        """Build the graph from the vectors of the collection.

        Parameters
        ----------
        checkpoint : path-like, optional
            A directory for what has been read and computed: 4 bytes per number of the vectors, and
            what `Reranker.fit` keeps. It is removed at the end. If this process is interrupted, the
            same call resumes.

        Returns
        -------
        QdrantReranker
            Itself.

        Raises
        ------
        DiffusionError
            If the collection has no vectors, or the checkpoint cannot be written.

        Notes
        -----
        Points are read by ascending id. At the end, their ids are compared with those that the
        collection has then: points that were added meanwhile are read, and those that were deleted
        are left out. A point whose vector was replaced after it had been read has the vector that
        was read. When a call resumes, it looks up one point of each page that was read before, and
        reads the page again if that vector has changed.
        """
        pages = None
        with contextlib.ExitStack() as stack:
            if checkpoint is not None:
                checkpoint = storage.as_path(checkpoint, "checkpoint")
                stack.enter_context(storage.claimed(checkpoint, CHECKPOINT))
                pages = storage.Shards(checkpoint / "pages")
            points, vectors = self._points.read(pages, show=self.ranker.progress)
            if not points:
                raise DiffusionError(_nothing(self.collection))
            ids = Codes(named=not all(map(is_int64, points))).of(points)
            partial = None if checkpoint is None else checkpoint / "fit"
            self.ranker.fit(vectors, ids=ids, checkpoint=partial)
            if checkpoint is not None:
                storage.remove(checkpoint, CHECKPOINT)
        return self

    def sync(self, *, changed: Iterable[Any] = ()) -> Synced:
        """Add the points to the graph that are new in the collection, and remove those deleted.

        The ids of the whole collection are read, and the vectors of new points.

        Parameters
        ----------
        changed : iterable of int, str or UUID, optional
            Ids of points whose vectors were replaced; they are read again. Ids do not show this:
            the vectors of all other points are taken to be as they were. `fit` reads all of them.

        Returns
        -------
        Synced
            The numbers of points added and removed. Those of `changed` count as both.

        Raises
        ------
        DiffusionError
            If the collection has no vectors any more, or has got ids that the graph cannot hold:
            UUIDs or integers from 2^63 on, where all were smaller integers. Another `fit` is needed
            then. Nothing is changed.

        Notes
        -----
        The graph is then that of a fit of the points that are there. Points are removed first and
        added afterwards: a search that runs between the two finds replaced points by their
        first-stage scores alone.
        """
        if isinstance(changed, str) or not isinstance(changed, Iterable):
            raise DiffusionError(f"changed: expected a list of ids, got {changed!r:.60}")
        replaced = {_point_id(point) for point in changed}
        items = self.ranker.fitted().items
        codes = Codes(items.named)
        own = items.all().tolist()
        known = dict(zip(codes.points(own), own, strict=True))
        present = dict.fromkeys(self._points.ids())
        gone = [c for point, c in known.items() if point in replaced or point not in present]
        fresh = [p for p in present if p in replaced or p not in known]
        points, vectors = self._points.fetched(fresh)
        if not items.named and not all(map(is_int64, points)):
            raise DiffusionError(
                f"collection: {self.collection!r} has got ids that are no integers below 2^63; "
                "the ids of the graph are int64, expected another fit"
            )
        if len(gone) == items.size:  # a graph without items cannot be
            if not points:
                raise DiffusionError(_nothing(self.collection))
            self.ranker.fit(vectors, ids=codes.of(points))
            return Synced(len(points), len(gone))
        as_vectors(vectors, "vectors", metric="euclidean", queries=True)
        if gone:
            self.ranker.remove(gone)
        if points:
            self.ranker.add(vectors, ids=codes.of(points))
        return Synced(len(points), len(gone))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a directory, as `Reranker.save` does, with the collection's name.

        `load` opens it; `diffusion.load` and the command `diffusion` accept it as well.
        """
        place = {"collection": self.collection, "using": self.using}
        save_state(path, self.ranker.state().with_part(QDRANT, place, {}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], client: QdrantClient) -> Self:
        """Open a saved index of a collection, without reading the collection.

        `sync` brings it up to date.

        Parameters
        ----------
        path : path-like
            A directory that `save` has written.
        client : QdrantClient
            A client that has the collection.

        Raises
        ------
        DiffusionError
            If there is no such index, or the collection has another dimension or distance now.
        """
        state = open_state(path)
        place = state.parts.get(QDRANT)
        if not isinstance(place, dict) or not isinstance(place.get("collection"), str):
            raise DiffusionError(
                f"{path}: expected an index that QdrantReranker.save has written; for another one, "
                "QdrantReranker(client, collection, ranker=diffusion.load(path))"
            )
        ranker = Reranker.from_state(state)
        return cls(client, place["collection"], using=place.get("using"), ranker=ranker)

    def point_ids(self, ids: ArrayLike) -> list[int | str]:
        """Return Qdrant's ids, int or str, of ids of `ranker`, shape (m,)."""
        return Codes(self.ranker.fitted().items.named).points(np.asarray(ids, object).tolist())

    # --- searches ---------------------------------------------------------------------------------

    def search(
        self,
        query: ArrayLike,
        *,
        limit: int = 10,
        query_filter: models.Filter | None = None,
        with_payload: Any = True,
    ) -> list[Any]:
        """Search the collection, and re-rank what Qdrant finds.

        Parameters
        ----------
        query : array_like, shape (d,) or (nq, d)
            One vector or several.
        limit : int >= 1, default 10
            Number of results of each query.
        query_filter : Filter, optional
            A filter of the results, for all queries. Diffusion passes through points that it
            excludes.
        with_payload : bool, list of str or a selector, default True
            Which of the payloads to return, as the client takes it.

        Returns
        -------
        list of ScoredPoint, or list of lists
            Best first, fewer than `limit` if fewer pass the filter; a list for each query if there
            are several. `score` is that of `Reranker.search`, and not a similarity.

        Raises
        ------
        DiffusionError
            If the query has another dimension than the collection or is not finite, or `fit` has
            not been called.

        Notes
        -----
        Qdrant is asked for the first 500 hits of each query, without the filter and without
        payloads, for what passes the filter, and for the payloads of the results. It lists all
        points that pass a narrow filter, and only looks the best of the ranking up for a broad one
        (`filtering.rerank_passing`). If fewer than `limit` points are found that pass, it is asked
        for the nearest of them.
        """
        limit = check_integer(limit, "limit", low=1)
        _check_filter(query_filter)
        fitted = self.ranker.fitted()
        queries = as_vectors(
            query, "query", metric="inner_product", dimension=self._points.dimension, queries=True
        ).tolist()
        depth = max(
            limit,
            fitted.solver.shortlist,
            fitted.score.depth,
            fitted.depth(int(self.ranker.query_k)),
        )
        out: list[Any] = []
        for start in range(0, len(queries), _QUERIES):
            block = queries[start : start + _QUERIES]
            out += self._searched(block, depth, limit, query_filter, with_payload)
        return out[0] if is_single(query) else out

    def _searched(
        self,
        queries: list[Any],
        depth: int,
        limit: int,
        query_filter: models.Filter | None,
        with_payload: Any,
    ) -> list[list[Any]]:
        """Re-rank the first `depth` hits of each query."""
        rows = self._points.hits(queries, depth)
        out = self._reranked(rows, limit, query_filter, with_payload, fetch_all=True)
        if query_filter is not None and any(len(row) < limit for row in out):
            # Diffusion has not reached all that pass: the nearest of them fill the results up.
            more = self._points.hits(queries, limit, query_filter)
            rows = [self._united(*lists) for lists in zip(rows, more, strict=True)]
            out = self._reranked(rows, limit, query_filter, with_payload, fetch_all=True)
        return out

    def _united(self, *lists: list[Any]) -> list[Any]:
        """Return the points of several lists of a query, each once, best first."""
        points = {point.id: point for row in reversed(lists) for point in row}
        sign = 1 if self.ranker.metric == "euclidean" else -1
        return sorted(points.values(), key=lambda point: sign * point.score)

    def rerank(
        self,
        points: Any,
        *,
        limit: int | None = None,
        query_filter: models.Filter | None = None,
        with_payload: Any = True,
    ) -> list[Any]:
        """Re-rank points that Qdrant has found.

        Parameters
        ----------
        points : list of ScoredPoint, list of lists, or QueryResponse
            The points of one query, or of each of several queries, of the collection's distance
            and without a filter: diffusion needs what is between the points that pass. A hundred
            or more are advisable.
        limit : int >= 1, optional
            Number of results of each query. By default, as many as it has points, at most.
        query_filter : Filter, optional
            A filter of the results, both of the points given and of those that diffusion brings in.
        with_payload : bool, list of str or a selector, default True
            Which of the payloads to fetch for points that diffusion brings in. Those given keep
            theirs.

        Returns
        -------
        list of ScoredPoint, or list of lists
            As `search` returns them. Points that were not given have the version 0.

        Raises
        ------
        DiffusionError
            If the points are not as described, or `fit` has not been called.
        """
        limit = None if limit is None else check_integer(limit, "limit", low=1)
        _check_filter(query_filter)
        rows, single = _rows_of(points)
        if limit is None:
            out = [
                self._reranked([row], max(1, len(row)), query_filter, with_payload)[0]
                for row in rows
            ]
        else:
            out = self._reranked(rows, limit, query_filter, with_payload)
        return out[0] if single else out

    def _reranked(
        self,
        rows: list[list[Any]],
        k: int,
        query_filter: models.Filter | None,
        with_payload: Any,
        *,
        fetch_all: bool = False,
    ) -> list[list[Any]]:
        """Re-rank lists of points; fetch the payloads of those that came in, or of all."""
        if not rows:
            return []
        codes = Codes(self.ranker.fitted().items.named)
        ids = [codes.of([point.id for point in row]) for row in rows]
        values = [[point.score for point in row] for row in rows]
        # Qdrant returns similarities, but for Euclid distances that are not squared.
        euclidean = self.ranker.metric == "euclidean"
        first = {"distances": values, "squared": False} if euclidean else {"scores": values}
        rank = functools.partial(hits.rerank, self.ranker, ids, **first)

        def passing(condition: models.Filter | None) -> Reranked:
            allowed = Passing(self._points, codes, condition)
            return rerank_passing(self.ranker, rank, ids, k, allowed)

        found = rank(k=k) if query_filter is None else passing(query_filter)
        wanted = _wanted(found, fetch_all)
        records = self._records(wanted, codes, with_payload)
        if len(records) < len(wanted) and query_filter is None:
            # Some points of the graph have been deleted: only those that are there count.
            found = passing(None)
            records = self._records(_wanted(found, fetch_all), codes, with_payload)
        return [
            _points(result, dict(zip(own, row, strict=True)), codes, records)
            for result, own, row in zip(zip(*found, strict=True), ids, rows, strict=True)
        ]

    def _records(self, wanted: set[Any], codes: Codes, with_payload: Any) -> dict[Any, Any]:
        """Return the records of the points that are there, by the ids of the graph."""
        records = list(self._points.records(codes.points(wanted), with_payload))
        return dict(zip(codes.of(record.id for record in records), records, strict=True))


def _check_filter(query_filter: Any) -> None:
    if query_filter is not None and not isinstance(query_filter, models.Filter):
        raise DiffusionError(
            f"query_filter: expected a Filter of Qdrant, got {type(query_filter).__name__}"
        )


def _is_point_id(code: Any) -> bool:
    """Return whether an id of a graph is one that `Codes` gives a point."""
    if isinstance(code, int):
        return code >= 0
    try:
        return code.isdecimal() or str(UUID(code)) == code
    except ValueError:
        return False


def _point_id(value: Any) -> Any:
    """Return an id that a user gives as Qdrant returns it."""
    if isinstance(value, np.integer):
        return int(value)
    try:
        return value if isinstance(value, int) else str(UUID(str(value)))
    except ValueError:
        raise DiffusionError(f"changed: expected integers and UUIDs, got {value!r:.60}") from None


def _wanted(found: Reranked, fetch_all: bool) -> set[Any]:
    return {
        code
        for ids, _, new in zip(*found, strict=True)
        for code, is_new in zip(ids, new, strict=True)
        if is_new or fetch_all
    }


def _points(
    result: tuple[Any, ...], given: dict[Any, Any], codes: Codes, records: dict[Any, Any]
) -> list[Any]:
    """Return the results of a query as points: those given, with the records that were fetched."""
    out = []
    for code, score, new in zip(*result, strict=True):
        if code in records:
            fetched = {"payload": records[code].payload}
        elif new:  # deleted since the store was asked about it
            continue
        else:
            fetched = {}
        if new:
            out.append(models.ScoredPoint(id=codes.point(code), version=0, score=score, **fetched))
        else:
            out.append(given[code].model_copy(update={"score": score, **fetched}))
    return out


def _rows_of(points: Any) -> tuple[list[list[Any]], bool]:
    """Return the points of each query, and whether they are those of one."""
    points = getattr(points, "points", points)  # of a QueryResponse
    points = list(points) if isinstance(points, list | tuple) else [points]
    points = [getattr(row, "points", row) for row in points]
    nested = [isinstance(p, list | tuple) for p in points]
    rows = [list(row) for row in points] if points and all(nested) else [points]
    for row in rows:
        for point in row:
            if not isinstance(point, models.ScoredPoint):
                raise DiffusionError(
                    "points: expected the points of a query of Qdrant (ScoredPoint), or a list of "
                    f"them for each query, got {type(point).__name__}"
                )
    return rows, not (points and all(nested))


def _made(metric: str, parameters: dict[str, Any]) -> Reranker:
    if parameters.setdefault("metric", metric) != metric:
        raise DiffusionError(
            f"metric: expected that of the collection, {metric!r}, got {parameters['metric']!r}"
        )
    try:
        return Reranker(**parameters)
    except TypeError as error:
        raise DiffusionError(f"parameters: expected those of Reranker ({error})") from None


def _nothing(collection: str) -> str:
    return f"collection: expected points with a vector in {collection!r}, found none"
