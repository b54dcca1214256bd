"""Qdrant: a graph of a collection, and its searches re-ranked over the graph."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from .. import storage
from ..errors import DiffusionError
from ..index_state import open_state, save_state
from ..reranker import Reranker
from ..validation import as_vectors, check_integer, is_single
from . import hits
from .filtering import rerank_passing
from .hits import Reranked

try:
    from qdrant_client import models
except ImportError:
    raise DiffusionError(
        "diffusion.integrations.qdrant: the client of Qdrant is not installed; "
        "pip install 'diffusion-rerank[qdrant]'"
    ) from None

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

# Metric of the graph by a collection's distance, and what `hits.rerank` calls the scores: Qdrant
# returns similarities, but for this one distances that are not squared.
_METRICS = {
    models.Distance.COSINE: "cosine",
    models.Distance.DOT: "inner_product",
    models.Distance.EUCLID: "euclidean",
}

# Numbers in the vectors of a page, about 5 MB as JSON, and the bounds of its points. Local mode
# sorts all ids for each page.
_NUMBERS, _FEWEST, _MOST = 1 << 18, 64, 4096
# Points of a page without vectors.
_IDS = 10_000

CHECKPOINT = storage.Format(
    "diffusion-rerank qdrant checkpoint",
    1,
    "a checkpoint of QdrantReranker.fit",
    frozenset({"pages", "fit", "fit.solver"}),
)

# The part of a saved index that names the collection.
_PART = "qdrant"


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
    of the vectors and about 100 bytes per point for ids in addition.

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
        self._dimension, metric = _space(client, collection, using)
        if ranker is None:
            ranker = _made(metric, parameters)
        elif parameters:
            raise DiffusionError(
                f"{min(parameters)}: expected either a ranker or parameters of one, got both"
            )
        self._check(ranker, metric)
        self.ranker = ranker

    def _check(self, ranker: Reranker, metric: str) -> None:
        if not isinstance(ranker, Reranker):
            raise DiffusionError(f"ranker: expected a Reranker, got {type(ranker).__name__}")
        dimension = getattr(ranker, "n_features_in_", self._dimension)
        if (ranker.metric, dimension) != (metric, self._dimension):
            raise DiffusionError(
                f"ranker: expected the metric and the dimension of {self.collection!r}, "
                f"{metric!r} and {self._dimension}, got {ranker.metric!r} and {dimension}"
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
            points, vectors = self._read(pages)
            if not points:
                raise DiffusionError(_nothing(self.collection))
            named = not all(_is_int64(point) for point in points)
            ids = _Codes(named).of(points)
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
        items = self.ranker.fitted().items
        codes = _Codes(items.named)
        own = items.all().tolist()
        known = dict(zip(codes.points(own), own, strict=True))
        present = dict.fromkeys(self._ids(None))
        replaced = {_point_id(point) for point in changed}
        gone = [c for point, c in known.items() if point in replaced or point not in present]
        fresh = [p for p in present if p in replaced or p not in known]
        points, vectors = self._fetched(fresh)
        if not items.named and not all(map(_is_int64, points)):
            raise DiffusionError(
                f"collection: {self.collection!r} has got ids that are no integers below 2^63; "
                "the ids of the graph are int64, expected another fit"
            )
        if len(gone) == items.size:  # a graph without items cannot be
            if not points:
                raise DiffusionError(_nothing(self.collection))
            self.ranker.fit(vectors, ids=codes.of(points))
            return Synced(len(points), len(gone))
        as_vectors(
            vectors.reshape(-1, self._dimension), "vectors", metric="euclidean", queries=True
        )
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
        save_state(path, self.ranker.state().with_part(_PART, place, {}))

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
        place = state.parts.get(_PART)
        if not isinstance(place, dict) or not isinstance(place.get("collection"), str):
            raise DiffusionError(
                f"{path}: expected an index that QdrantReranker.save has written; for another one, "
                "QdrantReranker(client, collection, ranker=diffusion.load(path))"
            )
        ranker = Reranker.from_state(state)
        return cls(client, place["collection"], using=place.get("using"), ranker=ranker)

    def point_ids(self, ids: ArrayLike) -> list[int | str]:
        """Return Qdrant's ids, int or str, of ids of `ranker`, shape (m,)."""
        return _Codes(self.ranker.fitted().items.named).points(np.asarray(ids, object).tolist())

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
        fitted = self.ranker.fitted()
        queries = as_vectors(
            query, "query", metric="inner_product", dimension=self._dimension, queries=True
        ).tolist()
        depth = max(
            limit,
            fitted.solver.shortlist,
            fitted.score.depth,
            fitted.depth(int(self.ranker.query_k)),
        )
        rows = self._hits(queries, depth, None)
        out = self._reranked(rows, limit, query_filter, with_payload, fetch_all=True)
        if query_filter is not None and any(len(row) < limit for row in out):
            # Diffusion has not reached all that pass: the nearest of them fill the results up.
            more = self._hits(queries, limit, query_filter)
            rows = [self._united(*lists) for lists in zip(rows, more, strict=True)]
            out = self._reranked(rows, limit, query_filter, with_payload, fetch_all=True)
        return out[0] if is_single(query) else out

    def _hits(
        self, queries: list[Any], limit: int, query_filter: models.Filter | None
    ) -> list[list[Any]]:
        """Return the first hits of each query, without payloads."""
        ask = functools.partial(
            models.QueryRequest,
            using=self.using,
            limit=limit,
            filter=query_filter,
            with_payload=False,
        )
        requests = [ask(query=vector) for vector in queries]
        found = self.client.query_batch_points(self.collection, requests)
        return [list(response.points) for response in found]

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
        codes = _Codes(self.ranker.fitted().items.named)
        ids = [codes.of([point.id for point in row]) for row in rows]
        values = [[point.score for point in row] for row in rows]
        euclidean = self.ranker.metric == "euclidean"
        first = {"distances": values, "squared": False} if euclidean else {"scores": values}
        rank = functools.partial(hits.rerank, self.ranker, ids, **first)

        def passing(condition: models.Filter | None) -> Reranked:
            allowed = _Passing(self, codes, condition)
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

    # --- reading the collection -------------------------------------------------------------------

    def _read(self, kept: storage.Shards | None) -> tuple[list[Any], NDArray[np.float32]]:
        """Return the ids and the vectors of all points that have a vector."""
        points: list[Any] = []
        parts: list[NDArray[np.float32]] = []
        count = self.client.count(self.collection).count
        with tqdm(
            total=count, desc="points", unit="point", disable=not self.ranker.progress
        ) as bar:
            for read, vectors in self._pages(kept):
                points += read
                parts.append(vectors)
                bar.update(len(read))
        # What has been added and deleted since the page was read.
        present = dict.fromkeys(self._ids(None))
        read_before = set(points)
        more, vectors = self._fetched([point for point in present if point not in read_before])
        here = np.fromiter((point in present for point in points), bool, len(points))
        points = [point for point, is_here in zip(points, here, strict=True) if is_here]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        parts = [part[mask] for part, mask in zip(parts, np.split(here, ends), strict=True)]
        return points + more, np.concatenate([*parts, vectors])

    def _pages(
        self, kept: storage.Shards | None
    ) -> Iterator[tuple[list[Any], NDArray[np.float32]]]:
        """Yield the ids and vectors of all points, page by page, and keep the pages."""
        limit = min(_MOST, max(_FEWEST, _NUMBERS // self._dimension))
        place = [self.collection, self.using, self._dimension, self.ranker.metric, limit]
        offset = None
        while True:
            name = storage.fingerprint([*place, offset])
            page = None if kept is None else self._kept(kept.read(name))
            if page is None:
                records, following = self.client.scroll(
                    self.collection,
                    limit=limit,
                    offset=offset,
                    with_payload=False,
                    with_vectors=self._selector(),
                )
                points, vectors = self._vectors(records)
                page = storage.Shard({"vectors": vectors}, {"ids": points, "next": following})
                if kept is not None:
                    with storage.errors_named(kept.path):
                        kept.write(name, page.arrays, **page.meta)
            yield page.meta["ids"], page.arrays["vectors"]
            offset = page.meta["next"]
            if offset is None:
                return

    def _kept(self, page: storage.Shard | None) -> storage.Shard | None:
        """Return a page that was read before, None if the collection is another one since."""
        if page is None or not page.meta["ids"]:
            return None
        points, vectors = self._fetched(page.meta["ids"][:1])
        return page if points and np.array_equal(vectors, page.arrays["vectors"][:1]) else None

    def _ids(self, query_filter: models.Filter | None) -> Iterator[Any]:
        """Yield the ids of all points that pass a filter, ascending."""
        offset = None
        while True:
            records, offset = self.client.scroll(
                self.collection,
                scroll_filter=query_filter,
                limit=_IDS,
                offset=offset,
                with_payload=False,
            )
            yield from (record.id for record in records)
            if offset is None:
                return

    def _fetched(self, points: list[Any]) -> tuple[list[Any], NDArray[np.float32]]:
        """Return those of some points that are there and have a vector, with the vectors."""
        size = min(_MOST, max(_FEWEST, _NUMBERS // self._dimension))
        found: list[Any] = []
        parts = [np.empty((0, self._dimension), np.float32)]
        for start in range(0, len(points), size):
            records = self.client.retrieve(
                self.collection,
                points[start : start + size],
                with_payload=False,
                with_vectors=self._selector(),
            )
            ids, vectors = self._vectors(records)
            found += ids
            parts.append(vectors)
        return found, np.concatenate(parts)

    def _selector(self) -> Any:
        return True if self.using is None else [self.using]

    def _vectors(self, records: Iterable[Any]) -> tuple[list[Any], NDArray[np.float32]]:
        """Return the ids and the vectors of the records that have one."""
        found = [
            (record.id, record.vector if self.using is None else record.vector.get(self.using))
            for record in records
            if record.vector
        ]
        found = [(point, vector) for point, vector in found if vector is not None]
        vectors = np.array([vector for _, vector in found], np.float32)
        return [point for point, _ in found], vectors.reshape(len(found), self._dimension)

    def _records(self, wanted: set[Any], codes: _Codes, with_payload: Any) -> dict[Any, Any]:
        """Return the records of the points that are there, by the ids of the graph."""
        points, out = codes.points(wanted), {}
        for start in range(0, len(points), _IDS):
            page = points[start : start + _IDS]
            for record in self.client.retrieve(self.collection, page, with_payload=with_payload):
                out[codes.of([record.id])[0]] = record
        return out


class _Passing:
    """The points of a collection that pass a filter, or all of them, as a `filtering.Condition`."""

    def __init__(
        self, reranker: QdrantReranker, codes: _Codes, query_filter: models.Filter | None
    ) -> None:
        self._reranker, self._codes, self._filter = reranker, codes, query_filter

    def count(self) -> int:
        """Return about how many points pass; a server estimates it."""
        own = self._reranker
        found = own.client.count(own.collection, count_filter=self._filter, exact=False)
        return int(found.count)

    def every(self) -> set[Any]:
        """Return the ids of all points that pass."""
        return set(self._codes.of(self._reranker._ids(self._filter)))

    def among(self, ids: Sequence[Any]) -> set[Any]:
        """Return those of some ids that pass."""
        own = [] if self._filter is None else [self._filter]
        out: set[Any] = set()
        for start in range(0, len(ids), _IDS):
            points = self._codes.points(ids[start : start + _IDS])
            both = models.Filter(must=[*own, models.HasIdCondition(has_id=points)])
            out.update(self._codes.of(self._reranker._ids(both)))
        return out


class _Codes:
    """What the graph calls points, and back.

    If its ids are int64 and a point has another id, the point has got it since the graph was built.
    It is given a number below -1, which no point of the graph has.
    """

    def __init__(self, named: bool) -> None:
        self._named = named
        self._other: dict[Any, int] = {}
        self._of_other: dict[int, Any] = {}

    def of(self, points: Iterable[Any]) -> list[Any]:
        """Return the graph's ids of points."""
        if self._named:
            return [str(point) for point in points]
        return [point if _is_int64(point) else self._numbered(point) for point in points]

    def _numbered(self, point: Any) -> int:
        number = self._other.setdefault(point, -2 - len(self._other))
        self._of_other[number] = point
        return number

    def point(self, code: Any) -> Any:
        """Return the id of a point by that of the graph."""
        if self._named:
            return int(code) if code.removeprefix("-").isdecimal() else code
        return code if code >= 0 else self._of_other[code]

    def points(self, codes: Iterable[Any]) -> list[Any]:
        """Return the ids of points by those of the graph."""
        return [self.point(code) for code in codes]


def _is_int64(point: Any) -> bool:
    return isinstance(point, int) and 0 <= point < 1 << 63


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
    result: tuple[Any, ...], given: dict[Any, Any], codes: _Codes, records: dict[Any, Any]
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


def _space(client: Any, collection: str, using: str | None) -> tuple[int, str]:
    """Return the dimension and the metric of the vectors of a collection."""
    if not isinstance(collection, str) or not client.collection_exists(collection):
        raise DiffusionError(f"collection: expected the name of a collection, got {collection!r}")
    config = client.get_collection(collection).config.params
    spaces, sparse = config.vectors or {}, config.sparse_vectors or {}
    if using in sparse:
        raise DiffusionError(f"using: expected a dense vector, {using!r} is sparse")
    if not isinstance(spaces, dict):
        spaces = {None: spaces}
    if using not in spaces:
        names = ", ".join(repr(name) for name in spaces) or "no dense vector"
        raise DiffusionError(
            f"using: expected the name of one of the vectors of {collection!r} ({names}), got "
            f"{using!r}"
        )
    space = spaces[using]
    if space.multivector_config is not None:
        raise DiffusionError(
            f"using: expected one vector for each point, {collection!r} has multivectors"
        )
    if space.distance not in _METRICS:
        raise DiffusionError(
            f"collection: expected the distance Cosine, Dot or Euclid, {collection!r} has "
            f"{space.distance.value}, for which there is no graph"
        )
    return int(space.size), _METRICS[space.distance]


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
