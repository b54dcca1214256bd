"""Results of searches for photos, as lines of text and in files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.storage import errors_named, replacing
from diffusion.storage.runs import TAG
from diffusion.storage.strings import printable


class PhotoResults(NamedTuple):
    """What searches with photos have found.

    Attributes
    ----------
    queries : sequence of str
        The query photos, as they were named.
    scores : ndarray, shape (nq, k), float32
        Padded with -inf.
    names : ndarray, shape (nq, k), object
        The photos that were found, padded with None.
    """

    queries: Sequence[str]
    scores: NDArray[np.float32]
    names: NDArray[Any]

    def rows(self) -> Iterator[tuple[str, list[tuple[int, str, float]]]]:
        """Yield each query with the rank, the name and the score of its results."""
        for query, names, scores in zip(self.queries, self.names, self.scores, strict=True):
            found = zip(names.tolist(), scores.tolist(), strict=True)
            yield query, [(rank, n, s) for rank, (n, s) in enumerate(found, 1) if n is not None]


def write_lines(file: IO[str], results: PhotoResults) -> None:
    """Write lines of query, rank, score and name, separated by tabs, without padding.

    Control characters of names are written as escapes.
    """
    encoding = getattr(file, "encoding", None) or "utf-8"
    for query, found in results.rows():
        for rank, name, score in found:
            line = f"{printable(query)}\t{rank}\t{score:.6g}\t{printable(name)}\n"
            # Characters that the output cannot encode are replaced.
            file.write(line.encode(encoding, "replace").decode(encoding))


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise unless the suffix of a file of results names a format."""
    if Path(path).suffix not in _WRITERS:
        raise DiffusionError(
            f"-o {os.fspath(path)!r}: expected a name that ends in .json, in .npz, or in .trec, "
            ".run or .txt for a TREC run"
        )


def write_file(path: str | os.PathLike[str], results: PhotoResults) -> None:
    """Write results atomically, in the format that the suffix of the file names.

    `.json`: a list with an object for each query, with its photo as "query" and its "results", each
    with "rank" (from 1), "name" and "score". `.npz`: arrays `queries` (nq,), `names` (nq, k), str,
    padded with "", and `scores` (nq, k), float32, padded with -inf. `.trec`, `.run` or `.txt`: a
    TREC run, in whose names "%" and what is not printable or a blank are written as in a URL.

    Raises
    ------
    DiffusionError
        If the suffix is another, or the file cannot be written.
    """
    check_suffix(path)
    write, mode = _WRITERS[Path(path).suffix]
    with errors_named(path), replacing(path, mode) as file:
        write(file, results)


def _write_json(file: IO[str], results: PhotoResults) -> None:
    listed = [
        {
            "query": query,
            "results": [{"rank": rank, "name": name, "score": s} for rank, name, s in found],
        }
        for query, found in results.rows()
    ]
    # ASCII, which also holds names that are no valid Unicode.
    json.dump(listed, file, indent=1)
    file.write("\n")


def _write_npz(file: IO[bytes], results: PhotoResults) -> None:
    names = np.array([[name or "" for name in row] for row in results.names.tolist()], str)
    names = names.reshape(results.names.shape)
    np.savez(file, queries=np.array(results.queries, str), names=names, scores=results.scores)


# What separates the fields or lines of a run, what marks an escape, and bytes that are no text.
_ESCAPED = re.compile("[%\\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _field(name: str) -> str:
    return _ESCAPED.sub(lambda found: quote(found[0], safe="", errors="surrogateescape"), name)


def _write_run(file: IO[str], results: PhotoResults) -> None:
    for query, found in results.rows():
        for rank, name, score in found:
            file.write(f"{_field(query)} Q0 {_field(name)} {rank} {score:.9g} {TAG}\n")


_WRITERS: dict[str, tuple[Callable[[Any, PhotoResults], None], str]] = {
    ".json": (_write_json, "w"),
    ".npz": (_write_npz, "wb"),
    ".trec": (_write_run, "w"),
    ".run": (_write_run, "w"),
    ".txt": (_write_run, "w"),
}
