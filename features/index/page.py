"""The page of a search: results before and after diffusion, and the chains of promoted photos.

A page is one file that loads nothing else. Each photo is in it once, however often it is shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion import DiffusionError, Explanation, Reranker
from diffusion.explanation import Explainer, FirstStage
from diffusion.storage.strings import printable

from ..images.reading import UnreadableImageError, read_image, read_size
from ..pages import rendering

# Results shown before and after.
_SHOWN = 12

# Longer side of the photos on the page, in pixels.
_SIDE = 224


class _Shown(NamedTuple):
    """A photo in a list of results.

    Attributes
    ----------
    photo : str
        Its key among the photos of the page.
    caption : str
    rank, other : int or None
        Its rank in this list and in the other one.
    kind : str
        "same", "up" or "down", or "new" and "gone" for one that the other list does not show.
    """

    photo: str
    caption: str
    rank: int
    other: int | None
    kind: str


class _Step(NamedTuple):
    """A photo of a chain, with the weight of the step that leads to it."""

    photo: str
    caption: str
    weight: float


class _Promoted(NamedTuple):
    """A photo that only diffusion shows, and the chain that carried it; perhaps none."""

    result: _Shown
    chain: list[_Step]
    share: float | None


class _Section(NamedTuple):
    """The results of one query."""

    query: str
    caption: str
    before: list[_Shown]
    after: list[_Shown]
    promoted: list[_Promoted]


class _Photo(NamedTuple):
    """A photo of the page: the file it is read from, and its name in it."""

    key: str
    path: str


def write_search_page(
    path: str | os.PathLike[str],
    ranker: Reranker,
    queries: Sequence[str],
    vectors: NDArray[np.float32],
    name_of: Callable[[int], str],
    path_of: Callable[[str], str | os.PathLike[str]],
    k: int = 100,
) -> list[str]:
    """Write a page of the results of query photos. The file is complete or is not written at all.

    For each query, it shows the first results of the first stage beside those after diffusion, how
    each has moved, and for each photo that diffusion has brought among them the strongest chain of
    photos from the query to it (`Reranker.explain`).

    Parameters
    ----------
    path : path-like
    ranker : Reranker
        Fitted to the descriptors of the photos.
    queries : sequence of str
        The files of the query photos.
    vectors : ndarray, shape (nq, d)
        Their descriptors.
    name_of : callable
        Returns the name of a photo, given by its id.
    path_of : callable
        Returns the file of a photo, given by its name.
    k : int >= 1, default 100
        Length of the rankings, of which the page shows the first twelve.

    Returns
    -------
    list of str
        Names of the photos that could not be read; the page shows an empty frame for each.

    Raises
    ------
    DiffusionError
        If none of the photos of the results is a file, or the page cannot be written.
    """
    album = _Album(name_of, path_of)
    sections = [_section(album, *each, ranker, k) for each in zip(queries, vectors, strict=True)]
    album.check()
    rendering.write(
        path,
        "features.index",
        "search.html",
        sections=sections,
        photos=album.pictures(),
        shown=min(k, _SHOWN),
    )
    return album.missing


class _Album:
    """The photos of a page, each of which is read once."""

    def __init__(
        self,
        name_of: Callable[[int], str],
        path_of: Callable[[str], str | os.PathLike[str]],
    ) -> None:
        self._name_of, self._path_of = name_of, path_of
        self._queries: dict[str, str] = {}  # keys by path
        self._items: dict[str, str] = {}  # keys by name
        self.missing: list[str] = []

    def query(self, file: str) -> tuple[str, str]:
        """Return the key and the caption of a query photo."""
        return self._queries.setdefault(file, f"query{len(self._queries)}"), printable(file)

    def item(self, id: Any) -> tuple[str, str]:
        """Return the key and the caption of a photo of the collection."""
        name = self._name_of(id)
        return self._items.setdefault(name, f"photo{len(self._items)}"), printable(name)

    def check(self) -> None:
        """Raise if none of the photos is where it is looked for."""
        if self._items and not any(os.path.isfile(self._path_of(name)) for name in self._items):
            raise DiffusionError(
                f"none of the {len(self._items)} photos of the results is where it was, such as "
                f"{printable(next(iter(self._items)))}; expected the folder that was indexed "
                "(--photos FOLDER)"
            )

    def pictures(self) -> Iterator[tuple[str, NDArray[np.uint8] | None]]:
        """Yield the key and the pixels of each photo, None if it cannot be read."""
        files = [(key, file, file) for file, key in self._queries.items()]
        files += [(key, name, os.fspath(self._path_of(name))) for name, key in self._items.items()]
        for key, name, file in files:
            try:
                height, width = read_size(file)
                factor = min(1.0, _SIDE / max(height, width))
                size = max(1, round(factor * height)), max(1, round(factor * width))
                yield key, read_image(file, size)
            except UnreadableImageError:
                self.missing.append(name)
                yield key, None


def _section(
    album: _Album, query: str, vector: NDArray[np.float32], ranker: Reranker, k: int
) -> _Section:
    """Search for a query, and explain what the page shows of its results."""
    fitted, query_k, shown = ranker.fitted(), int(ranker.query_k), min(k, _SHOWN)
    first = FirstStage.of_query(fitted, vector, k, query_k)
    explainer = Explainer(fitted, first, k=k, query_k=query_k, cautious=bool(ranker.cautious))
    before = fitted.expanded(first.lists, shown)[1][0, :shown]
    after = fitted.items.rows_of(ranker.search(vector, k)[1][:shown], "ids")
    explained = {
        int(item): explainer.explain(int(item), n_chains=1)
        for item in np.union1d(before, after)
        if item >= 0
    }
    new = [explained[int(item)] for item in after if item >= 0]
    old = [explained[int(item)] for item in before if item >= 0]
    results = [_result(album, e, r, e.first_rank, "new", shown) for r, e in enumerate(new, 1)]
    return _Section(
        *album.query(query),
        before=[_result(album, e, r, e.rank, "gone", shown) for r, e in enumerate(old, 1)],
        after=results,
        promoted=[
            _promoted(album, result, explanation)
            for result, explanation in zip(results, new, strict=True)
            if result.kind == "new"
        ],
    )


def _result(
    album: _Album, explanation: Explanation, rank: int, other: int | None, absent: str, shown: int
) -> _Shown:
    """Return a result at a rank of one list, which has another rank in the other list.

    `absent` is the kind of a result that is not among those that are shown of the other list.
    """
    if other is None or other > shown:
        kind = absent
    elif other == rank:
        kind = "same"
    else:
        kind = "up" if (other > rank) == (absent == "new") else "down"
    return _Shown(*album.item(explanation.id), rank, other, kind)


def _promoted(album: _Album, result: _Shown, explanation: Explanation) -> _Promoted:
    """Return a promoted photo with its chain."""
    if not explanation.chains:
        return _Promoted(result, [], None)
    chain = explanation.chains[0]
    first = chain.observed if chain.similarity is None else chain.similarity
    weights = [first, *chain.weights]
    steps = [_Step(*album.item(id), w) for id, w in zip(chain.ids, weights, strict=True)]
    return _Promoted(result, steps, chain.share)
