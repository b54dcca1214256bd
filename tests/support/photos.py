"""Image files for tests, written byte by byte without an image library."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import sklearn

CHINA, FLOWER = (
    Path(sklearn.__file__).parent / "datasets" / "images" / name
    for name in ("china.jpg", "flower.jpg")
)

_COLOURS = {"L": 0, "RGB": 2, "P": 3, "LA": 4, "RGBA": 6}


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(
    pixels: np.ndarray,
    mode: str = "RGB",
    *,
    palette: bytes | None = None,
    alpha: bytes | None = None,
    size: tuple[int, int] | None = None,
    exif: int | None = None,
) -> bytes:
    """Return a PNG file of pixels (h, w) or (h, w, c), uint8 or uint16; `size` is a false size."""
    height, width = pixels.shape[:2]
    depth = 16 if pixels.dtype == np.uint16 else 8
    rows = pixels.astype(">u2" if depth == 16 else np.uint8).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    height, width = size or (height, width)
    head = struct.pack(">IIBBBBB", width, height, depth, _COLOURS[mode], 0, 0, 0)
    chunks = [chunk(b"IHDR", head)]
    if palette is not None:
        chunks.append(chunk(b"PLTE", palette))
    if alpha is not None:
        chunks.append(chunk(b"tRNS", alpha))
    if exif is not None:
        chunks.append(chunk(b"eXIf", _tiff(exif)))
    chunks += [chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _tiff(orientation: int) -> bytes:
    """Return EXIF data with one entry, the orientation."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """Return a JPEG file with an orientation inserted after its first marker."""
    content = b"Exif\0\0" + _tiff(orientation)
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    return jpeg[:2] + segment + jpeg[2:]


def pattern(height: int, width: int, seed: int) -> np.ndarray:
    """Return a smooth colourful image (h, w, 3), uint8, which depends on the seed."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width] / max(height, width)
    waves = [
        np.sin(2 * np.pi * (a * down + b * across) + c) for a, b, c in rng.uniform(-4, 4, (3, 3))
    ]
    return ((np.stack(waves, axis=2) + 1) * 127.5).astype(np.uint8)


# Sizes of the images of `write_photos`.
SIZES = ((64, 96), (96, 64), (80, 80), (70, 66))


def write_photos(folder: Path) -> None:
    """Write twenty images of four sizes in three folders."""
    for number in range(20):
        path = folder / ("", "b", "a/c")[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pattern(*SIZES[number % 4], seed=number)))
