"""A picture of a training: its loss, and the mAP beside it, as one SVG file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape

from diffusion.errors import DiffusionError
from diffusion.storage import replacing

WIDTH, HEIGHT = 640, 360
# Left, right, top and bottom of what the axes enclose.
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, WIDTH - 60, 40, HEIGHT - 50
_LOSS, _PRECISION = "#b04a00", "#0057a8"
# Steps of an axis at most.
_TICKS = 5


def write_curve(
    path: str | os.PathLike[str],
    title: str,
    losses: Sequence[float | None],
    precisions: Sequence[float | None],
) -> None:
    """Write the curves of a training, from before the first epoch on.

    Parameters
    ----------
    path : path-like
    title : str
    losses : sequence of float or None
        One an epoch, from 0 on: the axis at the left. None where there is none, as before the
        first.
    precisions : sequence of float or None
        mAP in percent: the axis at the right.

    Raises
    ------
    DiffusionError
        If the file cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(draw(title, losses, precisions).encode())
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be written ({error.strerror or error})") from None


def draw(title: str, losses: Sequence[float | None], precisions: Sequence[float | None]) -> str:
    """Return the picture that `write_curve` writes."""
    last = max(1, len(losses) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH // 2}" y="22" text-anchor="middle" font-size="14">{escape(title)}</text>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_RIGHT - _LEFT}" height="{_BOTTOM - _TOP}" '
        'fill="none" stroke="#888"/>',
        f'<text x="{(_LEFT + _RIGHT) / 2:g}" y="{HEIGHT - 12}" text-anchor="middle">epoch</text>',
    ]
    for epoch in range(0, last + 1, max(1, -(-last // 10))):
        x = _across(epoch, last)
        parts.append(f'<text x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{epoch}</text>')
    for values, name, colour, at_left in (
        (losses, "loss", _LOSS, True),
        (precisions, "mAP, %", _PRECISION, False),
    ):
        known = [(epoch, value) for epoch, value in enumerate(values) if value is not None]
        if not known:
            continue
        low, high, step = _scale([value for _, value in known], from_zero=at_left)
        x, anchor = (_LEFT - 8, "end") if at_left else (_RIGHT + 8, "start")
        for tick in range(round((high - low) / step) + 1):
            value = low + step * tick
            y = _up(value, low, high)
            parts.append(
                f'<text x="{x}" y="{y + 4:.1f}" text-anchor="{anchor}" fill="{colour}">'
                f"{value:.4g}</text>"
            )
        parts.append(
            f'<text x="{x}" y="{_TOP - 12}" text-anchor="{anchor}" fill="{colour}">{name}</text>'
        )
        points = " ".join(
            f"{_across(epoch, last):.1f},{_up(value, low, high):.1f}" for epoch, value in known
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{_across(epoch, last):.1f}" cy="{_up(value, low, high):.1f}" r="3" '
            f'fill="{colour}"><title>epoch {epoch}: {name} {value:.4g}</title></circle>'
            for epoch, value in known
        ]
    return "\n".join([*parts, "</svg>\n"])


def _across(epoch: int, last: int) -> float:
    return _LEFT + (_RIGHT - _LEFT) * epoch / last


def _up(value: float, low: float, high: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)


def _scale(values: Sequence[float], *, from_zero: bool) -> tuple[float, float, float]:
    """Return the ends of an axis and the step of its ticks, round numbers all."""
    low, high = min(values), max(values)
    if from_zero:
        low = min(0.0, low)
    step = _round_up((high - low) / _TICKS or abs(high) / _TICKS or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, max(last, first + 1) * step, step


def _round_up(value: float) -> float:
    """Return the least of 1, 2 and 5 times a power of ten that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 2, 5) if m * power >= value), 10 * power)
