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
    blocks = (slice(start, min(n, start + size)) for start in range(begin, n, size))
    if not show or n - begin <= size:  # even a bar that is not shown takes as long as a search
        yield from blocks
        return
    with tqdm(total=n, initial=begin, desc=description, unit=unit) as bar:
        for block in blocks:
            yield block
            bar.update(block.stop - block.start)
