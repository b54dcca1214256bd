"""Iteration over blocks of rows with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

# Rows searched or added to an index between two updates of the progress bar.
BLOCK = 1024


def row_blocks(
    n: int,
    description: str,
    *,
    show: bool,
    begin: int = 0,
    size: int | None = None,
    unit: str = "row",
) -> Iterator[slice]:
    """Yield slices that cover the rows from `begin` to n, and show a bar that counts them.

    They have `size` rows, by default `BLOCK`. A single block shows no bar, which could only jump
    from nothing to everything.
    """
    size = size or BLOCK
    hide = not show or n - begin <= size
    with tqdm(total=n, initial=begin, desc=description, unit=unit, disable=hide) as bar:
        for start in range(begin, n, size):
            stop = min(n, start + size)
            yield slice(start, stop)
            bar.update(stop - start)
