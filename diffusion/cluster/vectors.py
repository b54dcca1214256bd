"""The vectors of a collection in ranges of rows, which tasks check, read and write.

Ranges depend on the number of vectors and on their dimension alone, so that what is made of them
does not depend on the number of shards or workers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..validation import as_vectors, center_of
from .common import create, write_rows
from .executors import Executor
from .inputs import Input
from .shards import open_array, save
from .tasks import run_stage

#: The most values of a range, of which a task holds three copies.
VALUES = 1 << 24

#: Rows of a range where there are few; there are at most so many ranges where rows are short.
_ROWS, _RANGES = 1 << 15, 512


class Run(NamedTuple):
    """Runs stages whose tasks are not those of shards.

    Attributes
    ----------
    executor : Executor
    work : str
        The folder of all results.
    progress : bool
    """

    executor: Executor
    work: str
    progress: bool

    def stage(
        self, stage: str, task: Callable[..., str], arguments: Sequence[tuple[Any, ...]]
    ) -> None:
        """Call ``task(path, *arguments[i])`` for each i that has no result yet."""
        listed = [(str(place(self.work, stage, i)), *own) for i, own in enumerate(arguments)]
        run_stage(self.executor, stage, task, listed, progress=self.progress)

    def common_file(self, stage: str, name: str, dtype: Any, shape: tuple[int, ...]) -> str:
        """Return the array file that the tasks of a stage write parts of; it is made if missing."""
        file = Path(self.work) / "arrays" / stage / f"{name}.npy"
        if not file.exists():
            self.remove(stage)  # what its tasks wrote is lost
            create(file, dtype, shape)
        return str(file)

    def remove(self, stage: str) -> None:
        """Remove the results of a stage."""
        shutil.rmtree(Path(self.work) / stage, ignore_errors=True)


class Vectors(NamedTuple):
    """The vectors (n, d) of a collection, as an index holds them.

    Attributes
    ----------
    source : Input
    metric : str
    center : ndarray, shape (d,), or None
        What is subtracted from them.
    """

    source: Input
    metric: str
    center: NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of vectors and dimension."""
        return self.source.n, self.source.width[0]

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of rows that are tasks, as their first row and the one after."""
        n, d = self.shape
        size = max(1, min(_ROWS * -(-n // (_RANGES * _ROWS)), VALUES // d))
        return [(first, min(n, first + size)) for first in range(0, n, size)]

    def read(self, first: int, last: int) -> NDArray[np.float32]:
        """Read the vectors of a range, and check them.

        Raises
        ------
        DiffusionError
            If a vector is not as `validation.as_vectors` expects it.
        """
        source = self.source
        name = f"{source.name} from row {first} on" if first else source.name
        raw = source.read(first, last)
        return as_vectors(raw, name, metric=self.metric, center=self.center)


def place(work: str, stage: str, number: int) -> Path:
    """Return where the result of a task is."""
    return Path(work) / stage / f"{number:05d}"


def opened_vectors(run: Run, source: Input, metric: str) -> Vectors:
    """Return the vectors of an input; for the Euclidean distance, their mean is computed first."""
    vectors = Vectors(source, metric)
    if metric != "euclidean":
        return vectors
    ranges = vectors.ranges()
    run.stage("sums", sums, [(source, *own) for own in ranges])
    file = place(run.work, "center", 0)
    if not file.exists():
        total = np.zeros(vectors.shape[1])
        for i in range(len(ranges)):
            total += open_array(place(run.work, "sums", i) / "sum.npy")
        save(file, {"center": total / source.n})
    return vectors._replace(center=np.array(open_array(file / "center.npy")))


def sums(path: str, source: Input, first: int, last: int) -> str:
    """Store the `sum` (d,) of vectors; values that are not finite are found by `checked`."""
    mean = center_of(source.read(first, last), source.name)
    return save(path, {"sum": (last - first) * mean})


def checked(
    path: str, vectors: Vectors, first: int, last: int, sample: int, file: str | None
) -> str:
    """Check vectors, store a `sample` (sample, d) and the rows without a direction, `zero`.

    The vectors are also written to the rows of a common file, if one is given.
    """
    own = vectors.read(first, last)
    if file is not None:
        write_rows(Path(file), first, own)
    chosen = np.random.default_rng([0, first]).choice(len(own), sample, replace=False)
    # For the Euclidean distance, a vector of zeros is a point like any other.
    zero = ~own.any(axis=1) & (vectors.metric != "euclidean")
    rows = (first + np.flatnonzero(zero)).astype(np.int32)
    return save(path, {"sample": own[np.sort(chosen)], "zero": rows})
