"""The plain state of a fitted Reranker or RegionalReranker, and how it is stored on disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from . import storage
from ._version import __version__
from .errors import DiffusionError
from .graph.graph import GRAPH_ROWS, Graph, graph_layout
from .storage.contents import Contents, with_rows
from .storage.directory import held

# The format of an index on disk.
INDEX = storage.Format("diffusion-rerank index", 3, "an index", earlier=(1, 2))

# The largest number of items or of components, which are numbered in int32, and of other things.
_MOST, _MOST_EDGES = 2**31 - 1, 2**48
_GRAPH = "graph_"
_OWN_KEYS = frozenset(
    {"format", "version", "library", "updates", "kind", "parameters", "sizes", "arrays", "checksum"}
)

# The parts that others add to an index, and why such an index is not updated here: an update would
# leave them as they were.
PHOTOS, QDRANT = "images", "qdrant"
_UPDATED = {
    PHOTOS: "an index of photos is updated by `features index PHOTOS INDEX`",
    QDRANT: "an index of a collection of Qdrant is updated by `QdrantReranker.sync`",
}


@dataclass(frozen=True)
class IndexState:
    """All that answering queries needs, as plain values.

    Attributes
    ----------
    parameters : dict
        JSON values by the names of the parameters.
    sizes : dict of str to int or None
        Number of items, of nodes if that is another, dimension (None without vectors), edges and
        so on.
    arrays : dict of str to ndarray
    kind : str or None
        "regional" for the state of a RegionalReranker, None for that of a Reranker.
    parts : dict of str to JSON value
        What others have added (`with_part`), by name.
    source : str
        What error messages call the state: the path of the index that it was read from.
    rows : tuple of storage.Ragged
        Which arrays hold rows of any length, so that a change of some of them can be stored.
    """

    parameters: dict[str, Any]
    sizes: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    kind: str | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    source: str = "state"
    rows: tuple[storage.Ragged, ...] = ()

    @classmethod
    def of(cls, stored: storage.Stored) -> IndexState:
        """Return the state that an opened index contains."""
        manifest = stored.manifest
        return cls(
            manifest.get("parameters", {}),
            manifest.get("sizes", {}),
            stored.arrays,
            manifest.get("kind"),
            {name: value for name, value in manifest.items() if name not in _OWN_KEYS},
            str(stored.path),
        )

    def with_part(self, name: str, content: Any, arrays: Mapping[str, NDArray[Any]]) -> IndexState:
        """Return the state with a named part: a JSON value, and arrays beside the others."""
        taken = name in _OWN_KEYS or not self.arrays.keys().isdisjoint(arrays)
        if taken:
            raise ValueError(f"{name}: its name or the name of one of its arrays is taken")
        return replace(self, parts={**self.parts, name: content}, arrays={**self.arrays, **arrays})

    @property
    def fixed(self) -> str | None:
        """Why the index cannot be updated apart from what others have added; None if it can."""
        for name in self.parts:
            return _UPDATED.get(name, f"its part {name!r} is updated by what wrote it")
        return None

    def with_prefix(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays whose names begin with a prefix, by the rest of their names."""
        return {
            name.removeprefix(prefix): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }

    def size(self, name: str, *, low: int = 0, high: int = _MOST) -> int:
        """Return one of the sizes.

        Raises
        ------
        KeyError, ValueError
            If it is missing, or no integer within the bounds.
        """
        value = self.sizes[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name}: expected an integer from {low} to {high}, got {value!r:.40}")
        return value

    @contextlib.contextmanager
    def described(self, noun: str = "an index") -> Iterator[None]:
        """Turn the errors of a state that is not as expected into one that names its source."""
        try:
            yield
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise DiffusionError(
                f"{self.source}: altered, its manifest does not describe {noun} ({error!r:.300})"
            ) from None


def save_state(
    path: str | os.PathLike[str], state: IndexState, *, updates: int | None = None
) -> None:
    """Write a state to a directory, atomically, or what differs from the one that is there.

    Parameters
    ----------
    path : path-like
    state : IndexState
    updates : int, optional
        The number of the state, which the service counts. By default, that of the state which is
        there stays, so that saving twice writes the same bytes.

    Raises
    ------
    DiffusionError
        If `path` holds anything but an index.
    """
    path = storage.as_path(path)
    with storage.errors_named(path), held(path):
        counted = updates_of(storage.peek_manifest(path) or {}) if updates is None else updates
        content = {
            "library": __version__,
            **({"updates": counted} if counted else {}),
            **({} if state.kind is None else {"kind": state.kind}),
            "parameters": state.parameters,
            "sizes": state.sizes,
            **state.parts,
        }
        storage.save(path, INDEX, content, state.arrays, state.rows)


def updates_of(manifest: Mapping[str, Any]) -> int:
    """Return the number of a stored state, 0 if nobody has counted."""
    updates = manifest.get("updates")
    return max(0, updates) if type(updates) is int else 0


def open_state(path: str | os.PathLike[str], *, verify: bool = False) -> IndexState:
    """Open a stored state, its arrays memory-mapped.

    Raises
    ------
    DiffusionError
        If there is no index, or it is truncated, altered, foreign or of a newer version.
    """
    return IndexState.of(storage.load(path, INDEX, verify=verify))


def graph_arrays(graph: Graph) -> dict[str, NDArray[Any]]:
    """Return the arrays of a graph by their names in a state."""
    return {f"{_GRAPH}{name}": getattr(graph, name) for name in graph_layout(1, 0, 1)}


def graph_rows() -> storage.Ragged:
    """Return which arrays of a state hold the rows of W."""
    return GRAPH_ROWS.with_prefix(_GRAPH)


def graph_of(state: IndexState) -> Graph:
    """Return the graph of a state; none of its arrays is read.

    Raises
    ------
    KeyError, ValueError
        If an array is missing, or has another shape or type than the sizes say.
    """
    n = state.size("nodes" if "nodes" in state.sizes else "items", low=1)
    components, isolated = (state.size(name, high=n) for name in ("components", "isolated"))
    edges = state.size("edges", high=_MOST_EDGES)
    layout = graph_layout(n, edges, components)
    arrays = with_rows(state.with_prefix(_GRAPH))
    contents = Contents(arrays, layout, f"{state.source}: graph")
    own: dict[str, Any] = {name: arrays[name] for name in layout}
    return Graph(
        **own, n_edges=edges, n_components=components, n_isolated=isolated, contents=contents
    )
