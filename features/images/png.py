"""PNG files, written without a library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels (h, w), (h, w, 3) or (h, w, 4), uint8: grey, RGB or RGB with opacity."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    lines = pixels.reshape(height, width * channels)
    # Each line of pixels is preceded by its filter, 0 for none.
    data = np.pad(lines, ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">2I5B", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def data_address(pixels: NDArray[np.uint8]) -> str:
    """Return an image as an address that holds it, for a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(encode(pixels)).decode("ascii")
