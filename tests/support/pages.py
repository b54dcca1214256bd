"""Pages as a reader's browser takes them apart."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects the elements of a page and checks that every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.style = ""
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] == ["style"]:
            self.style += data
        elif self._open[-1:] == ["script"]:
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def stored(self) -> tuple[dict[str, Any], list[str]]:
        """Return the data and the pictures of a page of results (`diffusion.page`)."""
        pairs = list(zip(self.attributes("script"), self.scripts, strict=True))
        (data,) = [json.loads(text) for given, text in pairs if given.get("id") == "data"]
        return data, [text for given, text in pairs if given.get("class") == "picture"]


def pixels_of(address: str) -> np.ndarray:
    """Return the pixels of a PNG or JPEG file in a data URL, (h, w) or (h, w, c)."""
    kind, _, data = address.partition(",")
    with Image.open(BytesIO(base64.b64decode(data, validate=True))) as image:
        assert kind == f"data:image/{image.format.lower()};base64"
        return np.array(image)
