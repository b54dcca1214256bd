"""Result lists in .npz files and TREC runs, and relevance judgements in TREC qrels."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .files import DAMAGED, errors_named, opened, read_archive, read_array, replacing

# Ids are int64, padded with -1, or str: an array of objects padded with None, or of str with "".
Lists = tuple[NDArray[np.float32], NDArray[Any]]

# The largest character.
_LAST_CHARACTER = 0x10FFFF

# Padding may make lists this many times as large as what was read, and a little more.
_PADDING, _LITTLE = 100, 1 << 24

# The last column of TREC runs.
TAG = "diffusion-rerank"

# Characters of a line of a text file that are read; a device may never end one.
_LONGEST = 1 << 16


def read_results(path: str | os.PathLike[str], *, names: bool = False) -> Lists:
    """Read result lists from an .npz file with `scores` and `ids`, or from a TREC run.

    Parameters
    ----------
    path : path-like
    names : bool, default False
        Whether the items of a TREC run are strings; otherwise they are integers.

    Returns
    -------
    scores : ndarray, shape (nq, k), float32
        Padded with -inf.
    ids : ndarray, shape (nq, k), int64 or object, or str from an .npz file
        Padded with -1, None or "".

    Raises
    ------
    DiffusionError
        If the file cannot be read, or has neither format.
    """
    if Path(path).suffix != ".npz":
        return _read_run(path, names)
    try:
        with opened(path, links=True) as stream:
            scores, ids = read_archive(stream, ("scores", "ids"), kinds="biufU").values()
        if scores.dtype.kind == "U":
            raise ValueError("scores: expected numbers")
        if ids.dtype.kind == "U" and ids.size:
            characters = np.ascontiguousarray(ids).view(f"{ids.dtype.byteorder}u4")
            if characters.max() > _LAST_CHARACTER:
                raise ValueError("ids: expected characters")
        if ids.ndim != 2 or scores.shape != ids.shape:
            raise ValueError(f"of one shape (nq, k), got {scores.shape} and {ids.shape}")
        return scores, ids
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DAMAGED as error:
        raise DiffusionError(f"{path}: expected arrays 'scores' and 'ids' ({error})") from None


def write_results(
    path: str | os.PathLike[str], scores: NDArray[np.float32], ids: NDArray[Any]
) -> None:
    """Write result lists atomically, to an .npz file if `path` says so, otherwise as a TREC run.

    Ids of str become an array of str in an .npz file, padded with "".
    """
    if Path(path).suffix == ".npz":
        if ids.dtype == object:
            ids = np.where(ids == None, "", ids).astype(str)  # noqa: E711 (element by element)
        with errors_named(path), replacing(path) as file:
            np.savez(file, scores=scores, ids=ids)
    else:
        lines = run_lines(scores, ids)
        with errors_named(path), replacing(path, "w") as file:
            file.writelines(lines)


def run_lines(scores: NDArray[np.float32], ids: NDArray[Any]) -> Iterator[str]:
    """Return the lines of a TREC run: `query Q0 item rank score tag`, ranks from 1, no padding.

    Raises
    ------
    DiffusionError
        Before the first line, if an id has white space, which separates the fields.
    """
    padding = None if ids.dtype == object else -1
    if padding is None:
        for item in ids.flat:
            if item is not None and len(item.split()) != 1:
                raise DiffusionError(
                    f"ids: expected ids without white space for a TREC run, got {item!r}; an .npz "
                    "file holds any"
                )
    return _lines(scores, ids, padding)


def _lines(scores: NDArray[np.float32], ids: NDArray[Any], padding: object) -> Iterator[str]:
    for query, (row_scores, row_ids) in enumerate(zip(scores, ids, strict=True)):
        for rank, (score, item) in enumerate(zip(row_scores, row_ids, strict=True), 1):
            if item != padding:
                yield f"{query} Q0 {item} {rank} {score:.9g} {TAG}\n"


def read_ids(path: str | os.PathLike[str]) -> NDArray[Any] | list[str]:
    """Read the ids of items from an .npy file of int64 or str, or from the lines of a text file.

    Raises
    ------
    DiffusionError
        If the file cannot be read or is neither.
    """
    if Path(path).suffix == ".npy":
        return read_array(path)
    try:
        with opened(path, links=True) as stream:
            lines = stream.read().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise DiffusionError(f"{path}: expected an .npy file or a text file in UTF-8") from None
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _fields(path: str | os.PathLike[str], count: int) -> Any:
    """Yield the number and the fields of each line; a line has `count` fields, or is empty."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST), ""), 1):
                if len(line) == _LONGEST:
                    raise DiffusionError(f"{path}: line {number}: expected {count} fields")
                fields = line.split()
                if fields and len(fields) != count:
                    raise DiffusionError(
                        f"{path}: line {number}: expected {count} fields, got {len(fields)}"
                    )
                if fields:
                    yield number, fields
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise DiffusionError(f"{path}: expected an .npz file or a text file in UTF-8") from None


def _number(path: object, number: int, name: str, text: str, kind: type = int) -> Any:
    try:
        value = kind(text)
        if not abs(value) < (1 << 63 if kind is int else 3e38):
            raise ValueError
        return value
    except ValueError:
        expected = "a row number" if kind is int else "a number"
        names = (
            " (only an index with ids of str and `evaluate --qrels` have names)"
            if kind is int
            else ""
        )
        raise DiffusionError(
            f"{path}: line {number}: {name}: expected {expected}, got {text!r}{names}"
        ) from None


def _place(rank: str) -> int:
    """Return the rank that a line states; no tool relies on it, and some write other things."""
    return int(rank) if rank.isascii() and rank.isdigit() and len(rank) < 19 else 0


def _read_run(path: str | os.PathLike[str], names: bool) -> Lists:
    """Read a TREC run whose queries are row numbers; lists are ordered by rank."""
    rows: dict[int, list[tuple[int, float, Any]]] = defaultdict(list)
    for number, (query, _, item, rank, score, _) in _fields(path, 6):
        query_row = _number(path, number, "query", query)
        if not 0 <= query_row < 1 << 24:
            raise DiffusionError(
                f"{path}: line {number}: query: expected a row number, got {query}"
            )
        rows[query_row].append(
            (
                _place(rank),
                _number(path, number, "score", score, float),
                item if names else _number(path, number, "item", item),
            )
        )
    if not rows:
        raise DiffusionError(f"{path}: expected a TREC run, found no line")
    if max(rows) >= 100 * len(rows) + 1000:
        raise DiffusionError(
            f"{path}: query: expected row numbers, got {max(rows)} among {len(rows)} queries"
        )
    longest = max(rows, key=lambda row: len(rows[row]))
    shape = (max(rows) + 1, len(rows[longest]))
    lines = sum(map(len, rows.values()))
    if shape[0] * shape[1] > _PADDING * lines + _LITTLE:
        raise DiffusionError(
            f"{path}: query {longest}: expected a list about as long as the others, because all "
            f"are padded to one length; it has {shape[1]} of {lines} lines for {shape[0]} queries"
        )
    scores = np.full(shape, -np.inf, np.float32)
    ids = np.full(shape, None, object) if names else np.full(shape, -1, np.int64)
    for query_row, entries in rows.items():
        entries.sort(key=lambda entry: entry[0])
        scores[query_row, : len(entries)] = [entry[1] for entry in entries]
        ids[query_row, : len(entries)] = [entry[2] for entry in entries]
    return scores, ids


def read_qrels(
    path: str | os.PathLike[str], queries: int, *, names: bool = False
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Read TREC relevance judgements: lines of `query 0 item relevance`.

    Parameters
    ----------
    path : path-like
    queries : int
        Number of queries; judgements of other queries are an error.
    names : bool, default False
        Whether items are strings; otherwise they are integers.

    Returns
    -------
    relevant, junk : list of list of int or str
        The items with a relevance above 0, and below 0, for each query.
    """
    relevant: list[list[Any]] = [[] for _ in range(queries)]
    junk: list[list[Any]] = [[] for _ in range(queries)]
    for number, (query, _, item, relevance) in _fields(path, 4):
        row = _number(path, number, "query", query)
        if not 0 <= row < queries:
            raise DiffusionError(
                f"{path}: line {number}: query: expected a row of the results, in [0, {queries}), "
                f"got {row}"
            )
        grade = _number(path, number, "relevance", relevance)
        if grade:
            name = item if names else _number(path, number, "item", item)
            (relevant if grade > 0 else junk)[row].append(name)
    return relevant, junk


@dataclass(frozen=True)
class Judged:
    """A TREC run with judgements, in which names of items have become numbers.

    Attributes
    ----------
    ids : ndarray, shape (nq, k), int64
        Ranked items of each query, padded with -1. The queries of the run come first, in its
        order; they are followed by queries that have relevant items and no results.
    relevant, junk : list of list of int
        The items with a relevance above 0, and below 0, for each query.
    missing : int
        Number of queries that have relevant items and no results.
    """

    ids: NDArray[np.int64]
    relevant: list[list[int]]
    junk: list[list[int]]
    missing: int


def read_judged(results: str | os.PathLike[str], qrels: str | os.PathLike[str]) -> Judged:
    """Read result lists and their judgements; queries and items have any names, as for trec_eval.

    The lists are those of a TREC run, or of an .npz file with ids of str, whose queries are row
    numbers. A list of a run is ordered by descending score, as trec_eval does; equal scores are
    ordered by rank.

    Raises
    ------
    DiffusionError
        If a file cannot be read or a line is malformed, if an item is repeated in a list, or if
        no query of the run is judged.
    """
    numbers: dict[str, int] = {}
    lists = _ranked(results, numbers)
    found = len(lists)
    relevant: dict[str, list[int]] = {query: [] for query in lists}
    junk: dict[str, list[int]] = defaultdict(list)
    judged: set[str] = set()
    for number, (query, _, item, relevance) in _fields(qrels, 4):
        judged.add(query)
        grade = _number(qrels, number, "relevance", relevance)
        if grade:
            graded = relevant.setdefault(query, []) if grade > 0 else junk[query]
            graded.append(numbers.setdefault(item, len(numbers)))
    if judged and judged.isdisjoint(lists):
        raise DiffusionError(
            f"{qrels}: expected judgements of the queries of {results}, such as "
            f"{next(iter(lists))!r}; got those of others, such as {min(judged)!r}"
        )
    width, lines = max(map(len, lists.values())), sum(map(len, lists.values()))
    if len(relevant) * width > _PADDING * lines + _LITTLE:
        raise DiffusionError(f"{results}: expected lists of similar lengths, one has {width} lines")
    ids = np.full((len(relevant), width), -1, np.int64)
    for row, ranked in zip(ids, lists.values(), strict=False):
        row[: len(ranked)] = ranked
    return Judged(
        ids, list(relevant.values()), [junk[query] for query in relevant], len(relevant) - found
    )


def _ranked(path: str | os.PathLike[str], numbers: dict[str, int]) -> dict[str, list[int]]:
    """Read the list of each query of a run; add the numbers of items to those given by name."""
    rows: dict[str, dict[int, tuple[float, int]]] = defaultdict(dict)
    if Path(path).suffix == ".npz":
        _, ids = read_results(path)
        return {
            str(query): [numbers.setdefault(item, len(numbers)) for item in row if item]
            for query, row in enumerate(ids.tolist())
        }
    for number, (query, _, item, rank, score, _) in _fields(path, 6):
        key = numbers.setdefault(item, len(numbers))
        if key in rows[query]:
            raise DiffusionError(
                f"{path}: line {number}: expected each item at most once per query, query "
                f"{query!r} has {item!r} twice"
            )
        rows[query][key] = -_number(path, number, "score", score, float), _place(rank)
    if not rows:
        raise DiffusionError(f"{path}: expected a TREC run, found no line")
    return {query: sorted(entries, key=entries.__getitem__) for query, entries in rows.items()}
