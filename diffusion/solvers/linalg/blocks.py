"""The driver of work that is cut into blocks: how many run side by side, on how many cores each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba

from ...kernels import threads

Task = TypeVar("Task")
Result = TypeVar("Result")

# float32 values in the widest vector register.
LANES = 16

# Below this many nodes a kernel is over before it pays to share it among cores.
SHARED_NODES = 20_000

# Memory that the blocks which run at the same time may take together, in bytes.
_WORK_BYTES = 1 << 30


def padded(columns: int) -> int:
    """Return the number of columns that a block of so many is computed with.

    Whole vector registers: a few columns of zeros cost less than a remainder loop.
    """
    return 1 if columns == 1 else -(-columns // LANES) * LANES


def parts(total: int, width: int) -> list[slice]:
    """Cut `total` items into slices of `width`; the last may be shorter."""
    return [slice(start, min(total, start + width)) for start in range(0, total, width)]


def side_by_side(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int | None = None
) -> list[Result]:
    """Return the function's results for all tasks, in order, computed on up to `workers` threads.

    By default as many threads as numba may use.
    """
    tasks = list(tasks)
    workers = min(len(tasks), workers or numba.get_num_threads())
    if workers <= 1:
        return [function(task) for task in tasks]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, tasks))


def in_blocks(
    function: Callable[[slice], Result], columns: int, width: int, nodes: int, column_bytes: int = 0
) -> list[Result]:
    """Call a function that runs parallel kernels on blocks of columns; return its results in order.

    A block to each core where memory allows, so that no core waits for another; the cores that
    are left share the nodes of each block.

    Parameters
    ----------
    function : callable
        Takes the slice of a block's columns.
    columns : int
        Columns in all; without any, the function gets one empty slice.
    width : int
        Columns of a block; the last may have fewer.
    nodes : int
        Rows of a block.
    column_bytes : int, default 0
        Memory that the function takes for each column of a block.
    """
    blocks = parts(columns, width) or [slice(0, 0)]
    cores = numba.get_num_threads()
    affordable = max(1, _WORK_BYTES // max(1, column_bytes * width))
    workers = min(cores, len(blocks), affordable) if threads.concurrent() else 1
    shared = cores // workers if nodes >= SHARED_NODES else 1

    def run(block: slice) -> Result:
        with threads.using_cores(shared):
            return function(block)

    return side_by_side(run, blocks, workers)
