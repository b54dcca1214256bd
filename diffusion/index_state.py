"""What of a fitted Reranker goes into an index on disk, and how one is assembled from it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import storage
from ._version import __version__
from .affinity import Context
from .errors import DiffusionError
from .graph.graph import Graph
from .neighbors import METHODS, NeighborIndex, make_method
from .scoring.fusion import SCORES
from .solvers import SOLVERS
from .transfer import TRANSFERS, RegularizedLaplacian

if TYPE_CHECKING:
    from .reranker import Reranker

# The format of an index on disk.
INDEX = storage.Format("diffusion-rerank index", 1, "an index")

PLAIN_PARAMETERS = ("k", "query_k", "gamma", "metric")
_AFFINITY, _SOLVER = "affinity_", "solver_"
_GRAPH_ARRAYS = {
    "indptr": np.int64,
    "indices": np.int32,
    "weights": np.float32,
    "order": np.int32,
    "position": np.int32,
    "degrees": np.float64,
    "components": np.int32,
}


def pack(ranker: Reranker) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the manifest's content and the arrays of a fitted Reranker.

    Raises
    ------
    DiffusionError
        If it holds a function, which no index can store.
    """
    graph = ranker._fitted().graph_
    index = ranker._index
    if ranker._fitted_parameters["transfer"] is None:
        raise DiffusionError(
            "transfer: a CustomTransfer holds a function, which no index can store; expected "
            "one of the named transfer functions"
        )
    content = {
        "library": __version__,
        "parameters": {**ranker._fitted_parameters, "query_k": ranker.query_k},
        "sizes": {
            "items": graph.n_nodes,
            "dimension": None if index is None else index.dimension,
            "edges": graph.n_edges,
            "components": graph.n_components,
            "isolated": graph.n_isolated,
        },
    }
    arrays = {f"graph_{name}": getattr(graph, name) for name in _GRAPH_ARRAYS}
    arrays |= {} if index is None else index.arrays()
    arrays |= {_AFFINITY + name: array for name, array in ranker._affinity.arrays().items()}
    arrays |= {_SOLVER + name: array for name, array in ranker.solver_.arrays().items()}
    return content, arrays


def unpack(kind: type[Reranker], stored: storage.Stored) -> Reranker:
    """Assemble a Reranker from an opened index, reading none of its arrays."""
    manifest, arrays = stored.manifest, stored.arrays
    try:
        parameters, sizes = manifest["parameters"], manifest["sizes"]
        ranker = kind(
            **{name: parameters[name] for name in PLAIN_PARAMETERS},
            affinity=_affinity_from(parameters["affinity"]),
            score=parameters["score"] and _from_settings(SCORES, parameters["score"]),
            solver=_from_settings(SOLVERS, parameters["solver"]),
            neighbors=_from_settings(METHODS, parameters["neighbors"]),
        )
        transfer = _from_settings(TRANSFERS, parameters["transfer"], by_name=False)
        if isinstance(transfer, RegularizedLaplacian):
            ranker.alpha = transfer.alpha
        else:
            ranker.transfer = transfer
        affinity = ranker._check_parameters()
        affinity.restore(_part(arrays, _AFFINITY), sizes["items"])
        stored_graph = {name: arrays[f"graph_{name}"] for name in _GRAPH_ARRAYS}
        for name, array in stored_graph.items():
            _check_stored(name, array, sizes)
        graph = Graph(
            **stored_graph,
            n_components=sizes["components"],
            n_isolated=sizes["isolated"],
        )
        index = None
        if sizes["dimension"] is not None:
            index = NeighborIndex.restore(
                arrays,
                ranker.metric,
                make_method(ranker.neighbors),
                (sizes["items"], sizes["dimension"]),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise DiffusionError(
            f"{stored.path}: altered, its manifest does not describe an index ({error!r})"
        ) from None
    return ranker._assemble(affinity, graph, index, _part(arrays, _SOLVER))


def _part(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _check_stored(name: str, array: NDArray[Any], sizes: dict[str, int]) -> None:
    """Raise unless an array of the graph has the shape and type that the sizes say."""
    length = {"indptr": sizes["items"] + 1, "indices": 2 * sizes["edges"]}
    length["weights"] = length["indices"]
    if array.shape != (length.get(name, sizes["items"]),) or array.dtype != _GRAPH_ARRAYS[name]:
        raise ValueError(f"graph_{name}: {array.dtype} of shape {array.shape}")


def settings_of(settings: Any) -> dict[str, Any]:
    """Return the name and the fields of a solver, a method or a transfer function."""
    own = {field.name: getattr(settings, field.name) for field in fields(settings) if field.init}
    return {"name": settings.name, **own}


def _affinity_from(stored: Any) -> str | Context:
    if isinstance(stored, str):
        return stored
    return _from_settings({"context": Context}, stored)


def _from_settings(kinds: dict[str, Any], settings: dict[str, Any], *, by_name: bool = True) -> Any:
    """Return the object that `settings_of` described, or its bare name if all is as by default."""
    name = settings["name"]
    restored = kinds[name](**{key: value for key, value in settings.items() if key != "name"})
    return name if by_name and restored == kinds[name]() else restored
