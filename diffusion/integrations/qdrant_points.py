"""What `qdrant` reads: the points of a collection, their ids and their vectors."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import storage
from ..errors import DiffusionError

try:
    from qdrant_client import models
except ImportError:
    raise DiffusionError(
        "diffusion.integrations.qdrant: the client of Qdrant is not installed; "
        "pip install 'diffusion-rerank[qdrant]'"
    ) from None

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

# Metric of the graph by a collection's distance.
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


class Points:
    """The points of a collection, as the client returns them.

    Parameters
    ----------
    client : QdrantClient
    collection : str
    using : str or None
        Name of the vector.

    Attributes
    ----------
    dimension : int
        Of the vectors.
    metric : str
        That of the graph.

    Raises
    ------
    DiffusionError
        If there is no such collection or vector, or there is no graph for it.
    """

    def __init__(self, client: QdrantClient, collection: str, using: str | None) -> None:
        self._client, self._collection, self._using = client, collection, using
        self.dimension, self.metric = _space(client, collection, using)

    def count(self, query_filter: models.Filter | None = None, *, exact: bool = True) -> int:
        """Return the number of points that pass a filter; a server estimates it unless `exact`."""
        found = self._client.count(self._collection, count_filter=query_filter, exact=exact)
        return int(found.count)

    def ids(self, query_filter: models.Filter | None = None) -> Iterator[Any]:
        """Yield the ids of all points that pass a filter, ascending."""
        offset = None
        while True:
            records, offset = self._client.scroll(
                self._collection,
                scroll_filter=query_filter,
                limit=_IDS,
                offset=offset,
                with_payload=False,
            )
            yield from (record.id for record in records)
            if offset is None:
                return

    def hits(
        self, queries: list[Any], limit: int, query_filter: models.Filter | None = None
    ) -> list[list[Any]]:
        """Return the first hits of each query, without payloads."""
        ask = functools.partial(
            models.QueryRequest,
            using=self._using,
            limit=limit,
            filter=query_filter,
            with_payload=False,
        )
        requests = [ask(query=vector) for vector in queries]
        found = self._client.query_batch_points(self._collection, requests)
        return [list(response.points) for response in found]

    def records(self, points: Sequence[Any], with_payload: Any) -> Iterator[Any]:
        """Yield the records of those of some points that are there."""
        for start in range(0, len(points), _IDS):
            page = points[start : start + _IDS]
            yield from self._client.retrieve(self._collection, page, with_payload=with_payload)

    # --- vectors ----------------------------------------------------------------------------------

    def read(
        self, kept: storage.Shards | None, *, show: bool
    ) -> tuple[list[Any], NDArray[np.float32]]:
        """Return the ids and the vectors (n, d) of all points that have a vector.

        Parameters
        ----------
        kept : Shards or None
            Where pages are kept, and were kept before.
        show : bool
            Whether to show a progress bar.
        """
        points: list[Any] = []
        parts: list[NDArray[np.float32]] = []
        with tqdm(total=self.count(), desc="points", unit="point", disable=not show) as bar:
            for read, vectors in self._pages(kept):
                points += read
                parts.append(vectors)
                bar.update(len(read))
        # What has been added and deleted since the page was read.
        present = dict.fromkeys(self.ids())
        read_before = set(points)
        more, vectors = self.fetched([point for point in present if point not in read_before])
        here = np.fromiter((point in present for point in points), bool, len(points))
        points = [point for point, is_here in zip(points, here, strict=True) if is_here]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        parts = [part[mask] for part, mask in zip(parts, np.split(here, ends), strict=True)]
        return points + more, np.concatenate([*parts, vectors])

    def fetched(self, points: list[Any]) -> tuple[list[Any], NDArray[np.float32]]:
        """Return those of some points that are there and have a vector, with the vectors (m, d)."""
        size = self._page_size()
        found: list[Any] = []
        parts = [np.empty((0, self.dimension), np.float32)]
        for start in range(0, len(points), size):
            records = self._client.retrieve(
                self._collection,
                points[start : start + size],
                with_payload=False,
                with_vectors=self._selector(),
            )
            ids, vectors = self._vectors(records)
            found += ids
            parts.append(vectors)
        return found, np.concatenate(parts)

    def _page_size(self) -> int:
        return min(_MOST, max(_FEWEST, _NUMBERS // self.dimension))

    def _pages(
        self, kept: storage.Shards | None
    ) -> Iterator[tuple[list[Any], NDArray[np.float32]]]:
        """Yield the ids and vectors of all points, page by page, and keep the pages."""
        limit = self._page_size()
        place = [self._collection, self._using, self.dimension, self.metric, limit]
        offset = None
        while True:
            name = storage.fingerprint([*place, offset])
            page = None if kept is None else self._kept(kept.read(name))
            if page is None:
                records, following = self._client.scroll(
                    self._collection,
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
        points, vectors = self.fetched(page.meta["ids"][:1])
        return page if points and np.array_equal(vectors, page.arrays["vectors"][:1]) else None

    def _selector(self) -> Any:
        return True if self._using is None else [self._using]

    def _vectors(self, records: Iterable[Any]) -> tuple[list[Any], NDArray[np.float32]]:
        """Return the ids and the vectors of the records that have one."""
        found = [(record.id, self._vector(record.vector)) for record in records]
        found = [(point, vector) for point, vector in found if vector is not None]
        vectors = np.array([vector for _, vector in found], np.float32)
        return [point for point, _ in found], vectors.reshape(len(found), self.dimension)

    def _vector(self, vector: Any) -> Any:
        # Beside sparse vectors, the vector without a name has the name "".
        return vector.get(self._using or "") if isinstance(vector, dict) else vector


class Passing:
    """The points of a collection that pass a filter, or all of them, as a `filtering.Condition`."""

    def __init__(self, points: Points, codes: Codes, query_filter: models.Filter | None) -> None:
        self._points, self._codes, self._filter = points, codes, query_filter

    def count(self) -> int:
        """Return about how many points pass; a server estimates it."""
        return self._points.count(self._filter, exact=False)

    def every(self) -> set[Any]:
        """Return the ids of all points that pass."""
        return set(self._codes.of(self._points.ids(self._filter)))

    def among(self, ids: Sequence[Any]) -> set[Any]:
        """Return those of some ids that pass."""
        own = [] if self._filter is None else [self._filter]
        out: set[Any] = set()
        for start in range(0, len(ids), _IDS):
            points = self._codes.points(ids[start : start + _IDS])
            both = models.Filter(must=[*own, models.HasIdCondition(has_id=points)])
            out.update(self._codes.of(self._points.ids(both)))
        return out


class Codes:
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
        return [point if is_int64(point) else self._numbered(point) for point in points]

    def _numbered(self, point: Any) -> int:
        number = self._other.setdefault(point, -2 - len(self._other))
        self._of_other[number] = point
        return number

    def point(self, code: Any) -> Any:
        """Return the id of a point by that of the graph."""
        if self._named:
            return int(code) if code.isdecimal() else code
        return code if code >= 0 else self._of_other[code]

    def points(self, codes: Iterable[Any]) -> list[Any]:
        """Return the ids of points by those of the graph."""
        return [self.point(code) for code in codes]


def is_int64(point: Any) -> bool:
    """Return whether the id of a point is an integer below 2^63."""
    return isinstance(point, int) and 0 <= point < 1 << 63


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
