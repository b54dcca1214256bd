"""From data to the text of a page: style, script and data are put into one HTML file.

Names of files and ids may contain anything. They are in the page as JSON in which no "<" occurs, so
that nothing can end the element that holds it, and the script shows them as text only. A
Content-Security-Policy admits the one style and the one script by their hashes, and no address but
that of the service.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from ..storage import errors_named, replacing
from ..storage.strings import printable

# What a page may load, by its mode. Where nothing else is named, it is nothing.
_POLICIES = {
    "file": "default-src 'none'; img-src data:",
    "service": "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'",
}
_PICTURE = re.compile("(data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+)?")


def render(data: Mapping[str, Any]) -> str:
    """Return a page without stored pictures: that of the service, or one of names alone.

    Parameters
    ----------
    data : mapping
        JSON values. `title` is a text, and `mode` is one of two. "service": the page asks the
        service that it comes from; with `photos` (bool), it shows pictures and searches for photos
        that are uploaded, and without, for vectors. "file": it shows `Answers.data`.

    Returns
    -------
    str
        An HTML document in ASCII.
    """
    return "".join(_pieces(data, ()))


def write(
    path: str | os.PathLike[str], data: Mapping[str, Any], pictures: Iterable[str] = ()
) -> None:
    """Write a page. The file is complete or is not written at all.

    Parameters
    ----------
    path : path-like
    data : mapping
        As `render` takes it.
    pictures : iterable of str
        Data URLs of PNG or JPEG files, "" for a missing picture: one for each query and then one
        for each item. They are consumed one at a time, while the page is written. Without them, the
        page shows names.

    Raises
    ------
    DiffusionError
        If the page cannot be written.
    """
    with errors_named(path), replacing(path, "w") as file:
        file.writelines(_pieces(data, pictures))


@cache
def shared_style() -> str:
    """Return the style that all pages share, for light and dark, and for wide and narrow."""
    return _resource("shared.css")


def _pieces(data: Mapping[str, Any], pictures: Iterable[str]) -> Iterator[str]:
    """Yield the text of a page in pieces; each picture is one."""
    page, style, script = _resource("page.html"), _resource("page.css"), _resource("page.js")
    style = shared_style() + style
    policy = (
        f"{_POLICIES[data['mode']]}; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    # What is put in has no "<", or is a file of this package: it holds none of the other marks.
    for mark, content in {
        "policy": policy,
        "title": _escaped(data["title"]),
        "style": style,
        "listed": "".join(_listed(data)),
        "data": _json(data),
    }.items():
        page = page.replace(f"<!--{mark}-->", content)
    before, _, after = page.partition("<!--pictures-->")
    yield before
    for picture in pictures:
        if not _PICTURE.fullmatch(picture):
            raise ValueError("expected the data URL of a picture")
        yield f'<script type="text/plain" class="picture">{picture}</script>\n'
    first, _, last = after.partition("<!--script-->")
    yield from (first, script, last)


def _listed(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the results of a file as plain lists, for readers without a script."""
    for query in data.get("queries", ()):
        yield f"<h2>{_escaped(query['name'])}</h2>\n<ol>\n"
        for number in query["answers"][data["own"]]["after"]:
            yield f"<li>{_escaped(data['items'][number])}</li>\n"
        yield "</ol>\n"


def _json(data: Mapping[str, Any]) -> str:
    r"""Return data as JSON in ASCII, without any "<", which a string may hold as \u003c."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _escaped(text: str) -> str:
    return html.escape(printable(text)).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
