"""Photos in the service: what it needs of them, and how what provides it is found.

The service knows vectors only. What describes uploaded photos and shows those of the collection is
provided by an entry point of the group "diffusion.photos", such as that of the package `features`.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DiffusionError

_GROUP, _OWN = "diffusion.photos", "features"


class Photos(Protocol):
    """The photos of an index, for any number of threads.

    The index may be saved anew while it is served; the next call takes that up.
    """

    def describe(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """Describe uploaded photos as those of the index were described.

        Parameters
        ----------
        files : sequence of bytes
            Contents of image files.

        Returns
        -------
        ndarray, shape (nq, d), float32

        Raises
        ------
        DiffusionError
            If one is no photo that can be read; nothing that it says has an effect.
        """

    def picture(self, id: Any) -> bytes | None:
        """Return a photo of the index as a JPEG file whose longer side has at most 448 pixels.

        Returns
        -------
        bytes or None
            None if the index has no photo of that id, or its file cannot be read.
        """

    def name(self, id: Any) -> str:
        """Return what a page shows as the name of a photo."""


def open_photos(
    index: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
) -> Photos:
    """Open the photos of an index, by what an installed package provides.

    Packages provide it as an entry point of the group "diffusion.photos", a callable with these
    arguments. One of another package is taken in place of that of `features`.

    Parameters
    ----------
    index : path-like
        An index of photos, such as `features index` writes.
    folder : path-like, optional
        The folder of the photos, by default the one that the index names.
    weights : path-like, optional
        The weights of the network, by default those that the index names.

    Returns
    -------
    Photos

    Raises
    ------
    DiffusionError
        If nothing provides it or a library is missing, the index is not one of photos, or the
        folder or the weights are not there.
    """
    found = importlib.metadata.entry_points(group=_GROUP)
    if not found:
        raise DiffusionError(
            "--photos: nothing is installed that describes photos "
            "(pip install 'diffusion-rerank[features,serve]')"
        )
    provider = min(found, key=lambda entry: (entry.name == _OWN, entry.name))
    try:
        photos: Photos = provider.load()(index, folder, weights=weights)
    except ModuleNotFoundError as error:
        extra = " (pip install 'diffusion-rerank[features]')" if provider.name == _OWN else ""
        raise DiffusionError(
            f"--photos: {error.name} is not installed, which describing photos needs{extra}"
        ) from None
    return photos
