"""Pages from templates: each page is one HTML file that contains its style and its images.

A package that writes pages keeps their templates in its own directory `templates`. They extend the
`page.html` of this package, which includes the style that they share with the page of results
(`diffusion.page`), for light and dark colour schemes and for wide and narrow screens.
"""

from __future__ import annotations

import base64
import os
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from diffusion.page import shared_style
from diffusion.storage import errors_named, replacing


def write(path: str | os.PathLike[str], package: str, template: str, **content: Any) -> None:
    """Write a page. The file is complete or is not written at all.

    Iterators among the content are consumed while the page is written, so that a page of many
    pictures needs the memory of one.

    Parameters
    ----------
    path : path-like
    package : str
        The package whose `templates` hold the template, such as ``"features.demo"``.
    template : str
        File name of the template.
    **content
        Variables of the template. Text is escaped.

    Raises
    ------
    DiffusionError
        If the page cannot be written.
    """
    page = _environment(package).get_template(template).stream(**content)
    with errors_named(path), replacing(path) as file:
        page.dump(file, encoding="utf-8")


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("features.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_address"] = data_address
    environment.globals["shared_style"] = shared_style
    return environment


def data_address(pixels: NDArray[np.uint8]) -> str:
    """Return pixels (h, w) or (h, w, 3), uint8, as the data URL of a PNG file."""
    return _address(pixels, "PNG", optimize=True)


def photo_address(pixels: NDArray[np.uint8]) -> str:
    """Return a photo (h, w, 3), uint8, as the data URL of a JPEG file, a tenth of a PNG file."""
    return _address(pixels, "JPEG", quality=85)


def _address(pixels: NDArray[np.uint8], kind: str, **options: Any) -> str:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{encoded}"
