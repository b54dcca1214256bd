"""The sizes that images are resized to."""

from __future__ import annotations

from typing import NamedTuple


class Sides(NamedTuple):
    """The image heights and widths that suit a network: step k + offset, at least `minimum`."""

    minimum: int
    step: int = 1
    offset: int = 0

    def nearest(self, length: float) -> int:
        """Return the suitable side nearest to a length; of two equally near, the longer one."""
        side = int((length - self.offset) / self.step + 0.5) * self.step + self.offset
        return max(side, self.minimum)


def fitted_size(
    size: tuple[float, float], longest: int, sides: Sides, *, square: bool = False
) -> tuple[int, int]:
    """Return the height and width that an image is resized to.

    Parameters
    ----------
    size : tuple of float
        Height and width of the image, upright.
    longest : int
        Length of the longer side after resizing; a smaller image is not enlarged.
    sides : Sides
        The lengths that the network accepts; each side is rounded to the nearest one.
    square : bool, default False
        Resize both sides to `longest`, whatever the aspect ratio.
    """
    if square:
        return (sides.nearest(longest),) * 2
    factor = min(1.0, longest / max(size))
    return sides.nearest(size[0] * factor), sides.nearest(size[1] * factor)
