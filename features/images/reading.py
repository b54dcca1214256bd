"""Finding, measuring and decoding image files with Pillow.

EXIF orientations are applied here and not by `PIL.ImageOps.exif_transpose`, which copies images
that need no rotation, fails on damaged EXIF data because it rewrites it, and needs a decoded image.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms
from PIL.Image import Transpose

from diffusion.errors import DiffusionError
from diffusion.storage import as_path

# Formats that a file is tried for whatever its extension says, since photos are often misnamed.
_COMMON = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")
# Formats that Pillow recognises without decoding them, or gives to another program, as it gives
# PostScript to Ghostscript.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Extensions of images whose decoder has to be installed.
DECODERS = dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif")
# Kinds of files, and links, that a message names.
_SHOWN = 6
# About 13,000 x 13,000 pixels, half a gigabyte as RGB, where Pillow by default fails too.
MAX_PIXELS = 178_956_970
# A file of that many pixels has no more: 16 bytes for each, uncompressed.
MAX_BYTES = 16 * MAX_PIXELS
# Images with more pixels than this (128 MiB once decoded) are decoded one at a time, whatever the
# number of workers: decoding one of `MAX_PIXELS` takes 2 GiB.
_LARGE_PIXELS = 1 << 25
_one_large = threading.Lock()

WHOLE = (0.0, 0.0, 1.0, 1.0)

# An image file: its path, or its content, which has no name and is of one of the `_COMMON` formats.
Source: TypeAlias = str | os.PathLike[str] | bytes

# The transposition that turns an image of each EXIF orientation upright.
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class UnreadableImageError(DiffusionError):
    """A file that is not an image, is damaged, or is too large to decode safely."""


class Listing(NamedTuple):
    """The files of a folder and its subfolders.

    Attributes
    ----------
    images : list of str
        Sorted paths relative to the folder, with "/" as separator.
    others : dict of str to int
        Number of the other files by extension, in lower case; "" for files without one.
    links : list of str
        The links to folders, which are not followed.
    """

    images: list[str]
    others: dict[str, int]
    links: list[str]

    def passed_over(self) -> str:
        """Return in words what is not read; "" if there is nothing."""
        kinds = []
        for suffix, count in self.others.items():
            needs = DECODERS.get(suffix)
            hint = f" (no decoder: pip install {needs})" if needs else ""
            kinds.append(f"{count} {suffix or 'without an extension'}{hint}")
        if len(kinds) > _SHOWN:
            left = sum(list(self.others.values())[_SHOWN:])
            kinds[_SHOWN:] = [f"{left} of {len(kinds) - _SHOWN} other kinds"]
        total = sum(self.others.values())
        parts = [f"{total} file{'s'[: total != 1]}: {', '.join(kinds)}"] if kinds else []
        if self.links:
            more = ", ..." if len(self.links) > _SHOWN else ""
            count = len(self.links)
            parts.append(
                f"{count} linked folder{'s'[: count != 1]}, not followed: "
                f"{', '.join(self.links[:_SHOWN])}{more}"
            )
        return "; ".join(parts)


def formats() -> dict[str, str]:
    """Return the file name extensions that are read, each with Pillow's name of its format.

    These are the formats that Pillow decodes by itself, and HEIF if `pillow_heif` is installed.
    """
    _register_heif()
    # A MPO file is a JPEG file that holds several images.
    named = {
        suffix: "JPEG" if name == "MPO" else name
        for suffix, name in Image.registered_extensions().items()
    }
    return {s: n for s, n in named.items() if n in Image.OPEN and n not in _NOT_DECODED}


@cache
def _register_heif() -> None:
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()


def list_folder(folder: str | os.PathLike[str]) -> Listing:
    """List the files of a folder and its subfolders; images are known by their extensions.

    Files and folders whose names begin with a dot are left out. Links to folders are listed and not
    followed: they may lead in circles, or out of the folder.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    Listing

    Raises
    ------
    DiffusionError
        If `folder` is not a folder, cannot be read, or holds no image.
    """
    folder = as_path(folder, "folder")
    if not folder.is_dir():
        raise DiffusionError(f"{folder}: expected a folder of images")
    known = formats()
    images, links, others = [], [], Counter[str]()
    for files, linked in _walk(folder):
        links += linked
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in known:
                images.append(name)
            else:
                others[suffix] += 1
    listing = Listing(
        sorted(images),
        dict(sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))),
        sorted(links),
    )
    if not images:
        found = listing.passed_over()
        raise DiffusionError(f"{folder}: expected images, found none{found and f' ({found})'}")
    return listing


def _walk(folder: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the files of a folder and of its subfolders in turn, and the links to folders.

    Paths are relative to the folder, with "/" as separator.
    """

    def complain(error: OSError) -> None:
        raise DiffusionError(f"{error.filename}: cannot be read ({error.strerror})") from None

    for place, folders, files in os.walk(folder, onerror=complain):
        inside = Path(place).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield (
            [(inside / name).as_posix() for name in files if not name.startswith(".")],
            [(inside / name).as_posix() for name in folders if os.path.islink(Path(place, name))],
        )


def each_image(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the images that `list_folder` lists, folder by folder, as they are found."""
    known = formats()
    for files, _ in _walk(as_path(folder, "folder")):
        yield from (name for name in files if os.path.splitext(name)[1].lower() in known)


def find_images(folder: str | os.PathLike[str]) -> list[str]:
    """List the images of a folder and its subfolders, as `list_folder` does."""
    return list_folder(folder).images


def read_size(source: Source) -> tuple[int, int]:
    """Return the height and width of the upright image, from the header of its file.

    Parameters
    ----------
    source : path-like or bytes
        An image file, or its content.

    Raises
    ------
    UnreadableImageError
        If the file is not an image, or has more than `MAX_PIXELS` pixels or `MAX_BYTES` bytes.
    """
    with _opened(source) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_image(
    source: Source,
    size: tuple[int, int] | None = None,
    box: tuple[float, float, float, float] = WHOLE,
) -> NDArray[np.uint8]:
    """Decode an image, turn it upright, and resize it or a part of it.

    The EXIF orientation is applied, transparent pixels become white, and all images are converted
    to RGB with 8 bits per channel. Real numbers are scaled from the smallest to the largest. Of
    files that hold several images, as animations and documents do, the first one is read.

    Parameters
    ----------
    source : path-like or bytes
        An image file, or its content.
    size : tuple of int, optional
        Height and width to resize to, with Pillow's bicubic filter. By default the image keeps
        its size.
    box : tuple of float, default (0, 0, 1, 1)
        Part of the upright image that is resized, as (top, left, bottom, right) in [0, 1].

    Returns
    -------
    ndarray, shape (h, w, 3), uint8
        RGB.

    Raises
    ------
    UnreadableImageError
        If the file is not an image, is damaged or truncated, or has more than `MAX_PIXELS` pixels
        or `MAX_BYTES` bytes.
    """
    with _opened(source) as opened:
        orientation = _orientation(opened)
        if size is None:
            with _alone(opened):
                return np.array(_upright(_as_rgb(opened), orientation))
        height, width = size
        top, left, bottom, right = box
        # JPEG decodes faster to 1/2, 1/4 or 1/8 of its size; at twice the requested size the loss
        # is not visible.
        least = (ceil(2 * width / (right - left)), ceil(2 * height / (bottom - top)))
        opened.draft(None, least if orientation < 5 else least[::-1])
        with _alone(opened):
            image = _as_rgb(opened)
            if box == WHOLE and orientation >= 5:  # cheaper to rotate once it is small
                return np.array(_upright(_resized(image, (height, width)), orientation))
            image = _upright(image, orientation)
            across, down = image.size
            part = (left * across, top * down, right * across, bottom * down)
            return np.array(_resized(image, (width, height), part))


def _resized(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=2.0)


def _alone(image: Image.Image) -> AbstractContextManager[bool | None]:
    return _one_large if image.size[0] * image.size[1] > _LARGE_PIXELS else nullcontext()


# How many are within `quiet`, and the filters that the last one restores.
_quiet_lock = threading.Lock()
_quiet_count = 0
_filters = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings about large images and unusual EXIF data.

    `MAX_PIXELS` decides what is too large. Warning filters apply to the whole process: any thread
    may use this, and what was before is restored when none is within it any more.
    """
    global _quiet_count
    with _quiet_lock:
        if not _quiet_count:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_count += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_count -= 1
            if not _quiet_count:
                _filters.close()


def decoder() -> str:
    """Return the version of Pillow; other versions may decode slightly different pixels."""
    return PIL.__version__


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """Open an image file; raise `UnreadableImageError` for every error of the decoder."""
    name = "photo" if isinstance(source, bytes) else os.fspath(source)
    try:
        with (
            _content(source) as file,
            Image.open(file, formats=_formats_of(source)) as image,
        ):
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise UnreadableImageError(f"too many pixels ({image.size[0]} x {image.size[1]})")
            yield image
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"{name}: too many pixels (more than {MAX_PIXELS})") from None
    except PIL.UnidentifiedImageError:
        read = f" ({', '.join(_formats_of(source))})" if isinstance(source, bytes) else ""
        raise UnreadableImageError(f"{name}: not an image of a format that is read{read}") from None
    except Exception as error:  # decoders raise exceptions of any type on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(f"{name}: {' '.join(reason.split())}") from None


def _content(source: Source) -> IO[bytes]:
    """Open the content of an image file, which is no longer than an image may be."""
    if isinstance(source, bytes):
        size = len(source)
    else:
        # Opening a pipe would block until another process writes to it.
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("not a regular file but a directory, pipe or device")
        size = status.st_size
    if size > MAX_BYTES:
        raise UnreadableImageError(f"too many bytes ({size}, more than {MAX_BYTES})")
    return BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _formats_of(source: Source) -> list[str]:
    """Return the formats that a file is tried for: that of its extension first."""
    suffix = "" if isinstance(source, bytes) else os.path.splitext(os.fspath(source))[1].lower()
    return [name for name in (formats().get(suffix), *_COMMON) if name in Image.OPEN]


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, without decoding the image; 1 if there is none."""
    # For a PNG without EXIF in its header, Pillow would decode the whole image to look for it.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1
    if image.format == "TIFF":  # which Pillow turns upright by itself
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # an image with damaged EXIF data is still readable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        values = np.asarray(image) >> 8
        image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
        values = (values - values.min()) / (np.ptp(values) or 1.0)
        image = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    elif image.mode == "LAB":  # which Pillow converts by way of colour profiles only
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, rgb, "LAB", "RGB")
        image = ImageCms.applyTransform(image, transform) or image
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image)
    return white
