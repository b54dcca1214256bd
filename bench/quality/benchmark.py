"""The benchmark `quality`: every method on the collections at hand, or on given descriptors."""

from __future__ import annotations

from collections.abc import Sequence

from diffusion.errors import DiffusionError
from diffusion.solvers import Solver

from ..data.collections import Collection, digits, grocery
from ..data.several import Several
from ..table import Table, show
from . import datasets
from .joined import joined
from .methods import METHODS, Method, measure
from .solvers import SOLVERS, compare
from .survey import Makers, survey


def run(
    *, dataset: str | None = None, descriptors: str | None = None, long: bool = False
) -> list[Table]:
    """Measure the built-in collections, or the descriptors of a published data set.

    Parameters
    ----------
    dataset : one of `bench.quality.DATASETS`, optional
    descriptors : str, optional
        Directory or file of the descriptors of that data set; both are given or neither.
    long : bool
        With `dataset`: measure a spectral solver of rank 5000 too.

    Raises
    ------
    DiffusionError
        If one of `dataset` and `descriptors` is missing, or the files cannot be used.
    """
    if dataset is None and descriptors is None:
        return built_in()
    if dataset is None or descriptors is None:
        raise DiffusionError("dataset, descriptors: expected both or neither")
    return datasets.run(dataset, descriptors, long=long)


def built_in(
    collections: Sequence[Collection] | None = None,
    methods: Sequence[Method] = METHODS,
    solvers: Sequence[Solver] = SOLVERS,
    surveyed: Makers | None = None,
    described: Sequence[Several] | None = None,
) -> list[Table]:
    """Measure collections method by method and solver by solver, then survey many collections.

    Between them, several descriptors of the same items are compared. By default the digits, both
    parts of grocery if its descriptors are there, and all that `bench.data.synthetic.everything`
    makes.
    """
    collections = at_hand() if collections is None else collections
    tables = [show(measure(collection, methods)) for collection in collections]
    for affinity in ("context", "cosine"):
        tables.append(show(compare(collections, affinity, solvers)))
    tables.append(show(joined(described)))
    tables.append(show(survey(surveyed)))
    return tables


def at_hand() -> list[Collection]:
    """Return the built-in collections whose data are there."""
    found = (digits(), grocery(packages_only=True), grocery(packages_only=False))
    collections = [collection for collection in found if collection is not None]
    if len(collections) < len(found):
        print("grocery: skipped, its descriptors are not in DIFFUSION_DATA\n")
    return collections
