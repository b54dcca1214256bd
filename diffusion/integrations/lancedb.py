"""LanceDB: a reranker for its searches, and the graph of a table."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from .. import reranker as engine
from ..errors import DiffusionError
from ..validation import as_vectors, check_choice, check_switch
from . import hits
from .filtering import rerank_passing
from .hits import Reranked

try:
    import pyarrow as pa
    from lancedb.rerankers import Reranker
    from lancedb.table import Table
except ImportError:
    raise DiffusionError(
        "diffusion.integrations.lancedb: LanceDB is not installed; "
        "pip install 'diffusion-rerank[lancedb]'"
    ) from None

# The metric of the graph by LanceDB's name of a distance.
_METRICS = {"l2": "euclidean", "cosine": "cosine", "dot": "inner_product"}

# What the rounding of float32 adds to a distance.
_ROUNDING = 1e-3

# Rows that are read, or keys that are looked up, at a time.
_ROWS, _KEYS = 8192, 10_000

# What no item of a Reranker is called.
_NO_KEYS = (None, "", -1)

_DISTANCE, _QUERY, _RELEVANCE = "_distance", "query_index", "_relevance_score"


class DiffusionReranker(Reranker):
    """Re-rank the results of LanceDB's searches by diffusion over the graph of the table.

    It is an argument of ``.rerank(...)``:
    ``table.search(q).limit(50).rerank(reranker, query_string="")``. LanceDB requires the text,
    which is not used.

    Parameters
    ----------
    ranker : diffusion.Reranker
        A Reranker that was fitted to the vectors of the table, with the values of the column `id`
        as its ids; `from_table` makes one.
    table : Table, optional
        Required for rows that diffusion brings in, and for `where`.
    id : str, default "id"
        The column of the keys: different integers or strings. (`_rowid` is not a key: an update of
        a row and `optimize` change it.)
    vector : str, default "vector"
        The column of the vectors, for hybrid searches.
    where : str, optional
        A condition in SQL that all results satisfy. It replaces the search's own ``.where(...)``,
        which a reranker does not see: the search is not filtered, so that diffusion can pass
        through all rows.
    restrict_to_candidates : bool, optional
        Only reorder the rows that the search has found. By default, diffusion may bring in other
        rows if `where` is given; otherwise it may not, because they might violate the condition of
        the search. False is right for searches without a condition.
    query : array_like, shape (d,), optional
        The query vector, for hybrid searches; see `with_query`.
    return_score : {"relevance", "all"}, default "relevance"
        Whether to keep `_distance` and `_score`. Both are null for rows that diffusion brought in.

    Attributes
    ----------
    ranker : diffusion.Reranker

    Raises
    ------
    DiffusionError
        If an argument is not as described.

    Notes
    -----
    The result has as many rows as the search, in descending order of the column
    `_relevance_score`: that of `Reranker.search`. There are fewer if `where` is given and
    diffusion, which starts from the rows of the search, reaches fewer that satisfy it. If
    several vectors were searched at once, this holds for each value of `query_index`. Rows without
    a key (null, "" or -1), and rows of a text search without a vector, cannot be ranked: they
    follow at the end with a score of null, and are left out if `where` is given.

    The search has to use the distance that the graph was built with: ``.distance_type("cosine")``
    for a Reranker with ``metric="cosine"``, "dot" for "inner_product", and LanceDB's default, "l2",
    for "euclidean". Results do not state their distance, so that only impossible values are
    recognised.

    Diffusion starts from the rows of the search: a limit of a hundred or more is advisable.
    """

    def __init__(
        self,
        ranker: engine.Reranker,
        table: Table | None = None,
        *,
        id: str = "id",
        vector: str = "vector",
        where: str | None = None,
        restrict_to_candidates: bool | None = None,
        query: ArrayLike | None = None,
        return_score: str = "relevance",
    ) -> None:
        if not isinstance(ranker, engine.Reranker):
            raise DiffusionError(f"ranker: expected a Reranker, got {type(ranker).__name__}")
        ranker.fitted()  # an error unless it is
        restrict = _checked_options(table, id, where, restrict_to_candidates, return_score)
        super().__init__(return_score)
        self.ranker, self.table, self.id, self.vector = ranker, table, id, vector
        self.where, self.restrict_to_candidates = where, restrict
        self._passing = None if table is None else _Passing(table, id, where)
        self._query = None if query is None else self._checked(query)

    @classmethod
    def from_table(
        cls,
        table: Table,
        *,
        id: str = "id",
        vector: str = "vector",
        distance_type: str | None = None,
        where: str | None = None,
        restrict_to_candidates: bool | None = None,
        return_score: str = "relevance",
        **parameters: Any,
    ) -> Self:
        """Build the graph of a table, and return its reranker.

        Parameters
        ----------
        table : Table
        id, vector : str
            Columns, as above. The vectors have one length and real values. Rows in which one of the
            two is null are left out.
        distance_type : {"l2", "cosine", "dot"}, optional
            The distance of the searches. By default, that of the index of the column, and "l2" if
            there is none, as for a search.
        where, restrict_to_candidates, return_score
            As above.
        **parameters
            Parameters of the `diffusion.Reranker`, such as ``query_k=20`` and ``progress=True``.

        Raises
        ------
        DiffusionError
            If the columns are not as described.

        Notes
        -----
        The table is read in batches. Beside the Reranker, this takes 4 bytes per number of the
        vectors, and the keys.
        """
        _check_columns(table, id, vector)
        _checked_options(table, id, where, restrict_to_candidates, return_score)
        if distance_type is None:
            distance_type = _distance_of(table, vector)
        metric = _METRICS[check_choice(distance_type, "distance_type", tuple(_METRICS))]
        if "metric" in parameters:
            raise DiffusionError(
                f"metric: expected distance_type instead, got {parameters['metric']!r}"
            )
        try:
            ranker = engine.Reranker(metric=metric, **parameters)
        except TypeError as error:
            raise DiffusionError(f"parameters: expected those of Reranker ({error})") from None
        keys, vectors = _read(table, id, vector, show=ranker.progress)
        return cls(
            ranker.fit(vectors, ids=keys),
            table,
            id=id,
            vector=vector,
            where=where,
            restrict_to_candidates=restrict_to_candidates,
            return_score=return_score,
        )

    def with_query(self, query: ArrayLike) -> Self:
        """Return this reranker for the hybrid search of a query vector, (d,).

        LanceDB passes no query vector on, and scales the distances of a hybrid search to [0, 1].
        The similarities are therefore computed from the query and the column of the vectors.
        """
        other = copy.copy(self)
        other._query = self._checked(query)
        return other

    def _checked(self, query: ArrayLike) -> NDArray[np.float32]:
        dimension = getattr(self.ranker, "n_features_in_", None)
        checked = as_vectors(
            query, "query", metric=self.ranker.metric, dimension=dimension, queries=True
        )
        if len(checked) != 1:
            raise DiffusionError(f"query: expected one vector, got {len(checked)}")
        return checked[0]

    # --- what LanceDB calls -----------------------------------------------------------------------

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """Re-rank the results of a vector search; the text of the query is not used."""
        self._check_results(vector_results, (self.id, _DISTANCE))
        return self._reranked(vector_results, self._scores_of(vector_results[_DISTANCE]))

    def rerank_hybrid(
        self, query: str, vector_results: pa.Table, fts_results: pa.Table
    ) -> pa.Table:
        """Re-rank the rows that a vector search and a text search have found.

        The scores of the text are not used: a row that only the text search has found is a
        candidate like others, with its similarity to the query vector.

        Raises
        ------
        DiffusionError
            If there is no query vector (`with_query`), or the column of the vectors was not
            selected.
        """
        if self._query is None:
            raise DiffusionError(
                "query: LanceDB scales the distances of a hybrid search, so that they cannot be "
                "used; expected the query vector, as in .rerank(reranker.with_query(q))"
            )
        filled = [table for table in (vector_results, fts_results) if table.num_rows]
        for table in filled:
            self._check_results(table, (self.id, self.vector))
        results = self.merge_results(*filled) if len(filled) == 2 else (*filled, vector_results)[0]
        return self._reranked(results, self._similarities(results))

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """Raise an error: the scores of a text are no similarities of vectors."""
        raise DiffusionError(
            "rerank_fts: diffusion starts from similarities of vectors, which a text search has "
            'not; expected a vector search or a hybrid one (query_type="hybrid")'
        )

    def rerank_multivector(
        self, vector_results: Any, query: str | None = None, deduplicate: bool = False
    ) -> pa.Table:
        """Raise an error: results of different vectors are not one list."""
        raise DiffusionError(
            "rerank_multivector: the distances of different searches are not comparable; expected "
            "a search of all vectors at once, table.search([q1, q2]), which are re-ranked apart"
        )

    def _check_results(self, results: pa.Table, columns: Sequence[str]) -> None:
        for column in columns:
            if column not in results.column_names:
                raise DiffusionError(
                    f"{column}: expected this column in the results, got {results.column_names}; "
                    f"add it to .select([...])"
                )

    # --- re-ranking -------------------------------------------------------------------------------

    def _scores_of(self, distances: pa.ChunkedArray) -> NDArray[np.float64]:
        """Return the distances of a search as scores in the metric of the graph."""
        values = distances.to_numpy().astype(np.float64)
        metric = self.ranker.metric
        if metric != "inner_product":
            most = np.inf if metric == "euclidean" else 2.0
            wrong = values[(values < -_ROUNDING) | (values > most + _ROUNDING)]
            if len(wrong):
                name = next(name for name, own in _METRICS.items() if own == metric)
                raise DiffusionError(
                    f"{_DISTANCE}: expected those of a search with .distance_type({name!r}), "
                    f"because the graph has metric={metric!r}; got {wrong[0]:.6g}"
                )
        return -values if metric == "euclidean" else 1 - values

    def _similarities(self, results: pa.Table) -> NDArray[np.float64]:
        """Return the scores of rows for the query vector, NaN for rows without a vector."""
        column, query = results[self.vector], self._query
        assert query is not None
        valid = ~np.asarray(column.is_null())
        scores = np.full(len(valid), np.nan)
        if not valid.any():
            return scores
        vectors = as_vectors(
            _matrix(column.filter(pa.array(valid)), self.vector),
            self.vector,
            metric=self.ranker.metric,
            dimension=len(query),
        ).astype(np.float64)
        if self.ranker.metric == "euclidean":
            scores[valid] = -((vectors - query) ** 2).sum(axis=1)
        else:
            scores[valid] = vectors @ query
        return scores

    def _reranked(self, results: pa.Table, scores: NDArray[np.float64]) -> pa.Table:
        """Return the results of one query or several in their new order."""
        keys = results[self.id].to_pylist()
        several = _QUERY in results.column_names
        queries = results[_QUERY].to_pylist() if several else [0] * len(keys)
        tables, size = [results], len(keys)
        places: list[int] = []
        relevance: list[float | None] = []
        numbers: list[int] = []
        for query in dict.fromkeys(queries):
            rows = [row for row, own in enumerate(queries) if own == query]
            ranked = [row for row in rows if keys[row] not in _NO_KEYS and np.isfinite(scores[row])]
            place = {keys[row]: row for row in ranked}
            if len(place) < len(ranked):
                key = next(keys[row] for row in ranked if place[keys[row]] != row)
                raise DiffusionError(
                    f"id: expected a column of different keys, two rows have {self.id} = {key!r}"
                )
            found, fetched = self._ranked(
                [keys[row] for row in ranked], scores[ranked].tolist(), results
            )
            place |= {key: size + row for row, key in enumerate(fetched[self.id].to_pylist())}
            tables.append(fetched)
            size += fetched.num_rows
            entries: list[tuple[int, float | None]] = [
                (place[key], score)
                for key, score in zip(found.ids, found.scores, strict=True)
                if key in place
            ]
            if self.where is None:
                apart = set(rows) - set(ranked)
                entries += [(row, None) for row in rows if row in apart]
            places += [row for row, _ in entries]
            relevance += [score for _, score in entries]
            numbers += [query] * len(entries)
        out = pa.concat_tables(tables, promote_options="default").take(pa.array(places, pa.int64()))
        if several:
            at = out.column_names.index(_QUERY)
            out = out.set_column(at, out.field(at), pa.array(numbers, out.field(at).type))
        out = out.append_column(_RELEVANCE, pa.array(relevance, pa.float32()))
        return self._keep_relevance_score(out)

    def _ranked(
        self, keys: list[Any], scores: list[float], results: pa.Table
    ) -> tuple[Reranked, pa.Table]:
        """Re-rank the rows of one query; return the rows as well that came in."""
        none = results.select([self.id]).slice(0, 0)
        if not keys:
            return Reranked([], [], []), none
        rank = functools.partial(hits.rerank, self.ranker, [keys], [scores])
        k, passing = len(keys), self._passing
        if passing is None or self.restrict_to_candidates:
            allow = None if passing is None or self.where is None else passing.among(keys)
            found, rows = rank(k=k, allow=allow, restrict_to_candidates=True), none
        else:
            names = set(passing.columns)
            columns = [name for name in results.column_names if name in names]
            fetch = functools.partial(
                passing.rows, columns=columns, with_row_id="_rowid" in results.column_names
            )
            filtered = functools.partial(rerank_passing, self.ranker, rank, [keys], k, passing)
            found = rank(k=k) if self.where is None else filtered()
            rows = fetch(found.new_ids)
            if rows.num_rows < len(found.new_ids) and self.where is None:
                # Some rows of the graph have been deleted: only those that are there count.
                found = filtered()
                rows = fetch(found.new_ids)
        return Reranked(*(column[0] for column in found)), rows


class _Passing:
    """The rows of a table that satisfy a condition, or all of them, as a `filtering.Condition`."""

    def __init__(self, table: Table, id: str, where: str | None) -> None:
        self._table, self._id, self._where = table, id, where

    @property
    def columns(self) -> list[str]:
        """The columns of the table."""
        return list(self._table.schema.names)

    def count(self) -> int:
        """Return how many rows pass."""
        return int(self._table.count_rows(self._where))

    def every(self) -> set[Any]:
        """Return the keys of all rows that pass."""
        rows = self._table.search().select([self._id]).limit(None)
        rows = rows if self._where is None else rows.where(self._where)
        return set(rows.to_arrow()[self._id].to_pylist()) - {None}

    def among(self, ids: Sequence[Any]) -> set[Any]:
        """Return those of some keys that pass."""
        return set(self.rows(ids, [self._id])[self._id].to_pylist())

    def rows(
        self, ids: Sequence[Any], columns: list[str], *, with_row_id: bool = False
    ) -> pa.Table:
        """Return columns of those rows with some keys that pass, in any order."""
        parts = []
        for start in range(0, max(1, len(ids)), _KEYS):
            literals = ", ".join(map(_literal, ids[start : start + _KEYS]))
            condition = f"{_quoted(self._id)} IN ({literals})" if literals else "false"
            if self._where is not None:
                # A comment at the end of the condition must not swallow the rest.
                condition = f"({self._where}\n) AND {condition}"
            rows = self._table.search().where(condition).select(columns).limit(None)
            parts.append((rows.with_row_id(True) if with_row_id else rows).to_arrow())
        return pa.concat_tables(parts)


# --- tables ---------------------------------------------------------------------------------------


def _quoted(name: str) -> str:
    """Return the name of a column for a condition in SQL."""
    return "`" + name.replace("`", "``") + "`"


def _literal(key: Any) -> str:
    """Return a key as a literal of SQL, which knows no other escape than a doubled quote."""
    return str(key) if isinstance(key, int) else "'" + key.replace("'", "''") + "'"


def _checked_options(
    table: Any, id: str, where: Any, restrict_to_candidates: Any, return_score: Any
) -> bool:
    """Check the options of a reranker; return whether it only reorders."""
    check_choice(return_score, "return_score", ("relevance", "all"))
    restrict = where is None if restrict_to_candidates is None else restrict_to_candidates
    check_switch(restrict, "restrict_to_candidates")
    if table is not None:
        _check_columns(table, id)
    elif where is not None or not restrict:
        raise DiffusionError(
            "table: expected the table, from which rows that diffusion brings in are fetched and "
            "on which the condition is evaluated; got None"
        )
    if where is not None and not (isinstance(where, str) and where.strip()):
        raise DiffusionError(f"where: expected a condition in SQL or None, got {where!r}")
    if where is not None:
        try:
            table.count_rows(where)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DiffusionError(f"where: expected a condition in SQL ({reason})") from None
    return bool(restrict)


def _check_columns(table: Any, id: str, vector: str | None = None) -> None:
    if not isinstance(table, Table):
        raise DiffusionError(f"table: expected a Table of LanceDB, got {type(table).__name__}")
    for argument, name in (("id", id), ("vector", vector)):
        if name is not None and name not in table.schema.names:
            raise DiffusionError(
                f"{argument}: expected one of the columns {table.schema.names}, got {name!r}"
            )
    kind = table.schema.field(id).type
    if not (
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ):
        raise DiffusionError(f"id: expected a column of integers or strings, {id!r} is {kind}")
    if vector is not None:
        kind = table.schema.field(vector).type
        if not (_is_list(kind) and _is_real(kind.value_type)):
            several = _is_list(kind) and _is_list(kind.value_type)
            wrong = "holds several vectors in a row" if several else f"is {kind}"
            raise DiffusionError(f"vector: expected a column of vectors, {vector!r} {wrong}")


def _is_list(kind: Any) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_real(kind: Any) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _distance_of(table: Table, vector: str) -> str:
    """Return the distance that a search of a column uses unless it is told another."""
    for index in table.list_indices():
        if list(index.columns) == [vector]:
            found = table.index_stats(index.name)
            if found is not None and found.distance_type:
                return str(found.distance_type).lower()
    return "l2"


def _matrix(column: Any, name: str) -> NDArray[Any]:
    """Return a column of vectors without nulls as a matrix."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_rows(chunk, name) for chunk in chunks if len(chunk)]
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise DiffusionError(f"vector: expected vectors of one length, {name!r} has {widths}")
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _rows(chunk: pa.Array, name: str) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(chunk.type):
        width = chunk.type.list_size
    else:
        widths = sorted(set(np.diff(chunk.offsets.to_numpy()).tolist()))
        if len(widths) > 1:
            raise DiffusionError(f"vector: expected vectors of one length, {name!r} has {widths}")
        width = widths[0]
    return chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), width)


def _batches(table: Table, id: str, vector: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield the keys and the vectors of the rows that have both."""
    for batch in table.search().select([id, vector]).limit(None).to_batches(_ROWS):
        keys, vectors = batch.column(id), batch.column(vector)
        both = pa.array(~(np.asarray(keys.is_null()) | np.asarray(vectors.is_null())))
        yield keys.filter(both), vectors.filter(both)


def _read(
    table: Table, id: str, vector: str, *, show: bool
) -> tuple[list[Any], NDArray[np.float32]]:
    """Return the keys and the vectors of a table."""
    keys: list[Any] = []
    parts: list[NDArray[np.float32]] = []
    with tqdm(total=table.count_rows(), desc="rows", unit="row", disable=not show) as bar:
        for some, vectors in _batches(table, id, vector):
            if not len(some):
                continue
            part = _matrix(vectors, vector).astype(np.float32)
            finite = np.isfinite(part).all(axis=1)
            if not finite.all():
                key = some[int(np.argmin(finite))].as_py()
                raise DiffusionError(
                    f"vector: expected finite values, the row with {id} = {key!r} holds NaN, null "
                    "or infinity"
                )
            keys += some.to_pylist()
            parts.append(part)
            bar.update(len(some))
    if not keys:
        raise DiffusionError(f"table: expected rows with {id!r} and {vector!r}, found none")
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise DiffusionError(f"vector: expected vectors of one length, {vector!r} has {widths}")
    return keys, np.concatenate(parts)
