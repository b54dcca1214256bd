"""Groups of recurring objects for people and for programs: rows of a page, and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images.reading import UnreadableImageError, read_image, read_size
from ..pages.rendering import photo_address
from .groups import Groups

# Groups on a page, and crops of each.
MOST_GROUPS = 24
MOST_CROPS = 12

# Longer side of a crop in pixels.
_SIDE = 96


def groups_json(
    groups: Groups, files: Sequence[str], boxes: NDArray[np.floating], images: NDArray[np.integer]
) -> list[dict[str, Any]]:
    """Return the content of `groups.json`: the groups, as values that JSON has.

    Parameters
    ----------
    groups : Groups
        Of m boxes.
    files : sequence of str
        Names of the photos.
    boxes : ndarray, shape (m, 4)
        Left, top, right, bottom in pixels of the upright photo.
    images : ndarray, shape (m,), int
        The photo of each box, a row of `files`.

    Returns
    -------
    list of dict
        For each group its `number`, the number of `photos`, and its `members`, the most typical
        first: `file`, `box` in pixels and `likeness`.
    """
    return [
        {
            "number": number,
            "photos": len(np.unique(images[rows])),
            "members": [
                {
                    "file": files[int(images[row])],
                    "box": [round(float(side), 2) for side in boxes[row]],
                    "likeness": round(float(groups.likeness[row]), 4),
                }
                for row in rows
            ],
        }
        for number, rows in enumerate(groups.members())
    ]


def group_rows(
    groups: list[dict[str, Any]],
    path_of: Callable[[str], str],
    link_of: Callable[[str], str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a page for the largest groups; each reads its photos when it is drawn.

    Parameters
    ----------
    groups : list of dict
        As `groups_json` returns them.
    path_of : callable
        Returns the path of a photo, given its name.
    link_of : callable, optional
        Returns the address of a photo as the page links to it, which may be relative to the page.
        By default there are no links.

    Yields
    ------
    dict
        The variables of a row of the template `groups.html`: `caption`, such as "10 photos", and
        `crops`, each with `name`, `address` (a data URL) and `link` (a URL or None). Photos that
        cannot be read are left out. Of each photo there is one crop, the most typical.
    """
    for group in groups[:MOST_GROUPS]:
        shown: dict[str, dict[str, Any]] = {}
        for member in group["members"]:
            if member["file"] not in shown:
                try:
                    address = _crop(path_of(member["file"]), member["box"])
                except UnreadableImageError:
                    continue
                link = None if link_of is None else link_of(member["file"])
                shown[member["file"]] = {"name": member["file"], "address": address, "link": link}
            if len(shown) == MOST_CROPS:
                break
        yield {"caption": f"{group['photos']} photos", "crops": list(shown.values())}


def _crop(path: str, box: Sequence[float]) -> str:
    """Return the part of a photo in a box as a small JPEG file in a data URL."""
    height, width = read_size(path)
    left, top, right, bottom = np.clip(box, 0, [width, height, width, height])
    factor = min(1.0, _SIDE / max(right - left, bottom - top, 1))
    # At least a pixel, also at the border.
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    size = max(1, round(factor * (bottom - top))), max(1, round(factor * (right - left)))
    part = (float(top / height), float(left / width), float(bottom / height), float(right / width))
    return photo_address(read_image(path, size, part))
