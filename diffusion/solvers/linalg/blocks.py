"""The driver that runs work on blocks concurrently, and shares the cores among the blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...kernels import threads

Result = TypeVar("Result")

# Number of float32 values in the widest vector register.
LANES = 16

# Below this many nodes, a kernel is too short to be shared among cores.
SHARED_NODES = 20_000

# Bound on the memory of all blocks that run concurrently, in bytes.
_WORK_BYTES = 1 << 30


def padded(columns: int) -> int:
    """Return the number of columns to allocate for a block, a multiple of `LANES`.

    A few columns of zeros cost less than a remainder loop. A single column is not padded.
    """
    return 1 if columns == 1 else -(-columns // LANES) * LANES


def parts(total: int, width: int) -> list[slice]:
    """Return slices of `width` items that cover `total` items; the last may be shorter."""
    return [slice(start, min(total, start + width)) for start in range(0, total, width)]


def in_blocks(
    function: Callable[[slice], Result],
    columns: int,
    width: int,
    nodes: int,
    column_bytes: int = 0,
    *,
    concurrent: bool = True,
) -> list[Result]:
    """Apply a function that calls parallel kernels to blocks of columns.

    If memory allows, each core is given a block of its own, so that no core waits for another.
    If there are fewer blocks than cores, the cores share the nodes of each block.

    Parameters
    ----------
    function : callable
        Takes the slice of columns that make up a block.
    columns : int
        Total number of columns. If it is 0, the function is called once, with an empty slice.
    width : int
        Number of columns of a block; the last block may have fewer.
    nodes : int
        Number of rows of a block.
    column_bytes : int, default 0
        Memory that the function allocates for each column of a block.
    concurrent : bool, default True
        Whether several blocks may be worked on at the same time.

    Returns
    -------
    list
        The results of the function, in the order of the blocks.
    """
    blocks = parts(columns, width) or [slice(0, 0)]
    cores = threads.cores()
    affordable = max(1, _WORK_BYTES // max(1, column_bytes * width))
    workers = min(cores, len(blocks), affordable) if concurrent else 1
    shared = cores // workers if nodes >= SHARED_NODES else 1

    def run(block: slice) -> Result:
        with threads.using_cores(shared):
            return function(block)

    return threads.side_by_side(run, blocks, workers)
