"""Image files: found, measured and decoded. Pillow stays in here.

Orientations are undone here, not by `PIL.ImageOps.exif_transpose`: that copies an image that needs
no turning, writes the EXIF anew, which fails where it is damaged, and comes after decoding.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import ceil
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.Image import Transpose

from diffusion.errors import DiffusionError
from diffusion.storage import as_path

from ..networks.backbones.base import Sides

SUFFIXES = (".jpg", ".jpeg", ".png")
# About 13,000 x 13,000: half a gigabyte as RGB. Where Pillow, too, refuses by default.
MAX_PIXELS = 178_956_970
# Of the images that decode to more than 128 MiB, one is decoded at a time, whatever the workers:
# one of `MAX_PIXELS` takes 2 GiB on its way.
_LARGE_PIXELS = 1 << 25
_one_large = threading.Lock()

WHOLE = (0.0, 0.0, 1.0, 1.0)

# What undoes an orientation of EXIF.
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
    """A file that is no image, or a damaged or a dangerous one; the message says which."""


def find_images(folder: str | os.PathLike[str]) -> list[str]:
    """List the JPEG and PNG files of a folder and the folders in it, by their endings.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    list of str
        Paths relative to the folder, with "/", sorted. What begins with a dot is left out, and
        links to folders are not followed.

    Raises
    ------
    DiffusionError
        If it is no folder or holds no such file.
    """
    folder = as_path(folder, "folder")
    if not folder.is_dir():
        raise DiffusionError(f"{folder}: expected a folder of images")

    def complain(error: OSError) -> None:
        raise DiffusionError(f"{error.filename}: cannot be read ({error.strerror})") from None

    found = []
    for place, folders, files in os.walk(folder, onerror=complain):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place).relative_to(folder)
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append((inside / name).as_posix())
    if not found:
        raise DiffusionError(f"{folder}: expected images ({', '.join(SUFFIXES)}), found none")
    return sorted(found)


def fitted_size(
    size: tuple[int, int], longest: int, sides: Sides, *, square: bool = False
) -> tuple[int, int]:
    """Return the height and width that an image is resized to.

    Parameters
    ----------
    size : tuple of int
        Height and width of the image, upright.
    longest : int
        The longer side becomes this; a smaller image is not enlarged.
    sides : Sides
        What the sides are rounded to, each by itself.
    square : bool, default False
        Both sides become `longest`, whatever they were.
    """
    if square:
        return (sides.nearest(longest),) * 2
    factor = min(1.0, longest / max(size))
    return sides.nearest(size[0] * factor), sides.nearest(size[1] * factor)


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of an image, upright, from the head of its file.

    Raises
    ------
    UnreadableImageError
        If it is no JPEG or PNG file, or has more than `MAX_PIXELS` pixels.
    """
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_image(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    box: tuple[float, float, float, float] = WHOLE,
) -> NDArray[np.uint8]:
    """Decode an image, upright, and resize it or a part of it.

    EXIF's orientation is undone; transparency becomes white; grey and 16 bits become RGB of 8.

    Parameters
    ----------
    path : path-like
    size : tuple of int, optional
        Height and width to resize to, with Pillow's bicubic filter.
    box : tuple of float, default the whole
        (top, left, bottom, right) of the part that is resized, in [0, 1] of the upright image.

    Returns
    -------
    ndarray, shape (h, w, 3), uint8
        RGB.

    Raises
    ------
    UnreadableImageError
        If it is no JPEG or PNG file, is damaged or truncated, or has more than `MAX_PIXELS`
        pixels.
    """
    with _opened(path) as opened:
        orientation = _orientation(opened)
        if size is None:
            with _alone(opened):
                return np.array(_upright(_as_rgb(opened), orientation))
        height, width = size
        top, left, bottom, right = box
        # JPEG decodes to 1/2, 1/4 or 1/8 for less; twice the size wanted loses nothing seen.
        least = (ceil(2 * width / (right - left)), ceil(2 * height / (bottom - top)))
        opened.draft(None, least if orientation < 5 else least[::-1])
        with _alone(opened):
            image = _as_rgb(opened)
            if box == WHOLE and orientation >= 5:  # turned when it is small
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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings: `MAX_PIXELS` decides what is large, and odd EXIF is no one's care.

    Warning filters belong to the whole process, so that this is for the thread that starts the
    others, around them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def decoder() -> str:
    """Return the version of what decodes: others may give pixels that differ a little."""
    return PIL.__version__


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image file, and turn whatever a decoder raises into one error."""
    try:
        # Opening a pipe would wait for whoever writes to it, which may be no one.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnreadableImageError("no file, but a directory, a pipe or a device")
        with open(path, "rb") as file, Image.open(file, formats=("JPEG", "PNG")) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise UnreadableImageError(f"{image.size[0]} x {image.size[1]} pixels are too many")
            yield image
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{os.fspath(path)}: {error}") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(
            f"{os.fspath(path)}: more than {MAX_PIXELS} pixels are too many"
        ) from None
    except PIL.UnidentifiedImageError:
        raise UnreadableImageError(f"{os.fspath(path)}: no JPEG or PNG image") from None
    except Exception as error:  # decoders raise anything at all on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(f"{os.fspath(path)}: {' '.join(reason.split())}") from None


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8, without decoding; 1 where it says none."""
    # Of a PNG, Pillow would decode the whole image to look for EXIF behind it.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF is no reason to lose the image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        values = np.asarray(image) >> 8
        image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image)
    return white
