"""Result lists in .npz files and TREC runs, and relevance judgements in TREC qrels."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError
from .files import DAMAGED, errors_named, opened, read_archive, replacing

Lists = tuple[NDArray[np.float32], NDArray[np.int64]]

# Padding may make lists this many times as large as what was read, and a little more.
_PADDING, _LITTLE = 100, 1 << 24

# The last column of TREC runs.
TAG = "diffusion-rerank"

# Characters of a line of a text file that are read; a device may never end one.
_LONGEST = 1 << 16


def read_results(path: str | os.PathLike[str]) -> Lists:
    """Read result lists from an .npz file with `scores` and `ids`, or from a TREC run.

    Returns
    -------
    scores : ndarray, shape (nq, k), float32
        Padded with -inf.
    ids : ndarray, shape (nq, k), int64
        Padded with -1.

    Raises
    ------
    DiffusionError
        If the file cannot be read, or has neither format.
    """
    if Path(path).suffix != ".npz":
        return _read_run(path)
    try:
        with opened(path, links=True) as stream:
            scores, ids = read_archive(stream, ("scores", "ids")).values()
        if ids.ndim != 2 or scores.shape != ids.shape:
            raise ValueError(f"of one shape (nq, k), got {scores.shape} and {ids.shape}")
        return scores, ids
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DAMAGED as error:
        raise DiffusionError(f"{path}: expected arrays 'scores' and 'ids' ({error})") from None


def write_results(
    path: str | os.PathLike[str], scores: NDArray[np.float32], ids: NDArray[np.int64]
) -> None:
    """Write result lists atomically, to an .npz file if `path` says so, otherwise as a TREC run."""
    if Path(path).suffix == ".npz":
        with errors_named(path), replacing(path) as file:
            np.savez(file, scores=scores, ids=ids)
    else:
        with errors_named(path), replacing(path, "w") as file:
            write_run(file, scores, ids)


def write_run(file: IO[str], scores: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    """Write a TREC run: lines of `query Q0 item rank score tag`, ranks from 1, without padding."""
    for query, (row_scores, row_ids) in enumerate(zip(scores, ids, strict=True)):
        for rank, (score, item) in enumerate(zip(row_scores, row_ids, strict=True), 1):
            if item >= 0:
                file.write(f"{query} Q0 {item} {rank} {score:.9g} {TAG}\n")


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
        if not abs(value) < (1 << 62 if kind is int else 3e38):
            raise ValueError
        return value
    except ValueError:
        expected = "a row number" if kind is int else "a number"
        names = " (only `diffusion evaluate --qrels` reads names)" if kind is int else ""
        raise DiffusionError(
            f"{path}: line {number}: {name}: expected {expected}, got {text!r}{names}"
        ) from None


def _place(rank: str) -> int:
    """Return the rank that a line states; no tool relies on it, and some write other things."""
    return int(rank) if rank.isascii() and rank.isdigit() and len(rank) < 19 else 0


def _read_run(path: str | os.PathLike[str]) -> Lists:
    """Read a TREC run whose queries and items are row numbers; lists are ordered by rank."""
    rows: dict[int, list[tuple[int, float, int]]] = defaultdict(list)
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
                _number(path, number, "item", item),
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
    ids = np.full(shape, -1, np.int64)
    for query_row, entries in rows.items():
        entries.sort(key=lambda entry: entry[0])
        scores[query_row, : len(entries)] = [entry[1] for entry in entries]
        ids[query_row, : len(entries)] = [entry[2] for entry in entries]
    return scores, ids


def read_qrels(
    path: str | os.PathLike[str], queries: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Read TREC relevance judgements: lines of `query 0 item relevance`.

    Parameters
    ----------
    path : path-like
    queries : int
        Number of queries; judgements of other queries are an error.

    Returns
    -------
    relevant, junk : list of list of int
        The items with a relevance above 0, and below 0, for each query.
    """
    relevant: list[list[int]] = [[] for _ in range(queries)]
    junk: list[list[int]] = [[] for _ in range(queries)]
    for number, (query, _, item, relevance) in _fields(path, 4):
        row = _number(path, number, "query", query)
        if not 0 <= row < queries:
            raise DiffusionError(
                f"{path}: line {number}: query: expected a row of the results, in [0, {queries}), "
                f"got {row}"
            )
        grade = _number(path, number, "relevance", relevance)
        if grade:
            (relevant if grade > 0 else junk)[row].append(_number(path, number, "item", item))
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
    """Read a TREC run and its judgements; queries and items have any names, as for trec_eval.

    A list is ordered by descending score, as trec_eval does; equal scores are ordered by rank.

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
