"""Iteration over blocks of rows with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

# Rows searched or added to an index between two updates of the progress bar.
BLOCK = 1024


def row_blocks(n: int, description: str, *, show: bool, begin: int = 0) -> Iterator[slice]:
    """Yield slices that cover the rows from `begin` to n, and show a bar that counts rows.

    A single block shows no bar, which could only jump from nothing to everything.
    """
    hide = not show or n - begin <= BLOCK
    with tqdm(total=n, initial=begin, desc=description, unit="row", disable=hide) as bar:
        for start in range(begin, n, BLOCK):
            stop = min(n, start + BLOCK)
            yield slice(start, stop)
            bar.update(stop - start)
