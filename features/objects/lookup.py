"""The nodes of a collection that are nearest to given vectors, in a time that hardly grows.

Up to 32,768 nodes, all are compared, which takes less time up to there than a search of cells.
Above that, the nodes are divided into k-means cells, and those of the nearest cells, about 4,096
nodes per vector, are compared.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion.neighbors.cells import Cells, Partition, partition
from diffusion.neighbors.methods import IVF
from diffusion.storage.contents import Array, Arrays, Between, Contents, Layout, Offsets, finite

# The most nodes that are all compared with a vector, and those compared in larger collections.
_EXACT, _COMPARED = 1 << 15, 4096


class NodeLookup:
    """Nearest nodes of vectors.

    Parameters
    ----------
    vectors : ndarray, shape (r, d), float32
        Unit vectors of the nodes, image by image. They may be memory-mapped.
    starts : ndarray, shape (n_images + 1,), int64
        The nodes of image i are starts[i] to starts[i + 1].
    partition : Partition, optional
        The k-means cells of the nodes. Without it, all nodes are compared with each vector.

    Notes
    -----
    Results do not depend on the number of threads. With cells, the vectors are held a second time,
    sorted by cell, from the first search on: 4 d bytes per node.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        starts: NDArray[np.int64],
        partition: Partition | None = None,
    ) -> None:
        self._vectors, self._starts, self._partition = vectors, starts, partition
        self._contents: Contents | None = None
        self._cells: Cells | None = None

    @classmethod
    def build(
        cls, vectors: NDArray[np.float32], starts: NDArray[np.int64], *, progress: bool = False
    ) -> Self:
        """Return the lookup of nodes, with cells if there are many."""
        if len(vectors) <= _EXACT:
            return cls(vectors, starts)
        count = IVF().cells(len(vectors))
        return cls(vectors, starts, partition(vectors, count, progress=progress))

    @classmethod
    def restored(
        cls, arrays: Arrays, vectors: NDArray[np.float32], starts: NDArray[np.int64], source: str
    ) -> Self:
        """Return the lookup whose `arrays` these are; they are checked on the first search.

        Raises
        ------
        KeyError, ValueError
            If arrays are missing, or do not have the expected types and shapes.
        """
        if len(vectors) <= _EXACT:
            return cls(vectors, starts)
        r, d = vectors.shape
        layout: Layout = {
            "lookup_order": Array(np.int32, (r,), Between(0, r - 1)),
            "lookup_offsets": Array(np.int64, ("offsets",), Offsets("lookup_order")),
            "lookup_centroids": Array(np.float32, ("cells", d), finite(np.float32)),
            "lookup_groups": Array(np.int64, ("groups",), Offsets("lookup_centroids")),
        }
        contents = Contents(arrays, layout, source)
        found = [arrays[name] for name in layout]
        if len(found[1]) != len(found[2]) + 1:
            raise ValueError(f"{len(found[1])} lookup_offsets of {len(found[2])} cells")
        lookup = cls(vectors, starts, Partition(*found))
        lookup._contents = contents
        return lookup

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return what to store of it beside the vectors."""
        if self._partition is None:
            return {}
        return {f"lookup_{name}": part for name, part in self._partition._asdict().items()}

    def nearest(
        self, queries: NDArray[np.float32], k: int, image: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest nodes of each vector without the nodes of one image.

        Parameters
        ----------
        queries : ndarray, shape (m, d), float32
            Unit vectors.
        k : int >= 1
        image : int, optional
            The image whose nodes are left out.

        Returns
        -------
        scores : ndarray, shape (m, k), float32
            Cosine, in descending order, padded with -inf.
        ids : ndarray, shape (m, k), int64
            Numbers of nodes, padded with -1.
        """
        own = (0, 0) if image is None else tuple(self._starts[image : image + 2].tolist())
        if self._partition is None or not len(queries):
            return self._compared(queries, k, own)
        cells = self._sorted(self._partition)
        average = max(1, len(self._vectors) // len(cells.centroids))
        # Nodes of the image are among the found ones, at most as many as it has.
        depth = k + own[1] - own[0]
        scores, found = cells.search(queries, depth, -(-_COMPARED // average), "cosine")
        ids = found.astype(np.int64)
        ids[(ids >= own[0]) & (ids < own[1])] = -1
        order = np.argsort(ids < 0, axis=1, kind="stable")[:, :k]
        ids = np.take_along_axis(ids, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
        return np.where(ids < 0, np.float32(-np.inf), scores), ids

    def _sorted(self, partition: Partition) -> Cells:
        """Return the nodes sorted by cell, made by the first search."""
        if self._cells is None:
            if self._contents is not None:
                self._contents.check()
            self._cells = partition.cells(self._vectors)
        return self._cells

    def _compared(
        self, queries: NDArray[np.float32], k: int, own: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Compare all nodes with each vector."""
        products = torch.from_numpy(queries) @ torch.from_numpy(np.asarray(self._vectors)).T
        products[:, own[0] : own[1]] = -torch.inf
        best, places = products.topk(min(k, len(self._vectors)), dim=1)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        scores[:, : best.shape[1]] = best.numpy()
        ids[:, : best.shape[1]] = torch.where(best > -torch.inf, places, -1).numpy()
        return scores, ids
