"""Tracks of patches through clips, which are folders of frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError

from ...images.batches import in_order
from ...images.reading import read_image
from .matching import match

Box = tuple[float, float, float, float]

# Longer side, in pixels, of the frames that patches are followed through.
_SIDE = 96
# Sides of patches and longest shift per frame, as parts of the shorter side of the frames.
_PATCH, _REACH = 0.45, 0.1
# Places where tracks start, per side of the frame.
_STARTS = 4
# Least correlation from one frame to the next, and most tracks that are kept of a clip.
_LEAST = 0.6
_KEPT = 4
# Weights of red, green and blue in the brightness (ITU-R BT.601).
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)


class Track(NamedTuple):
    """The two ends of a track: numbers of the frames, and the boxes of the patch in them.

    Boxes are (top, left, bottom, right) in [0, 1]; `clip` is the number of the clip.
    """

    clip: int
    first: int
    last: int
    start: Box
    end: Box


def clips_of(files: Sequence[str]) -> list[list[int]]:
    """Return the numbers of the frames of each clip; `files` are sorted, a folder is a clip.

    Raises
    ------
    DiffusionError
        If no folder holds two frames or more, or only one does.
    """
    folders = [os.path.dirname(file) for file in files]
    order = sorted(range(len(files)), key=lambda number: (folders[number], files[number]))
    clips = [list(numbers) for _, numbers in groupby(order, key=folders.__getitem__)]
    clips = [clip for clip in clips if len(clip) > 1]
    if len(clips) < 2:
        raise DiffusionError(
            "folder: tracks need clips: two subfolders or more, each with the frames of one clip, "
            f"named in their order; found {len(clips)} with two frames or more"
        )
    return clips


def find_tracks(
    folder: str, files: Sequence[str], sizes: Sequence[tuple[int, int]], workers: int
) -> list[Track]:
    """Follow patches through all clips.

    In the first frame of a clip, patches are placed on a grid of 4 x 4, with sides of 0.45 of the
    shorter side of the frame. Each is followed to the last frame. A track is lost where the
    correlation from one frame to the next is below 0.6. Of the others, the four that moved
    farthest are kept: what does not move shows the network nothing new.

    Parameters
    ----------
    folder : str
    files : sequence of str
        Sorted names of the frames, relative to the folder.
    sizes : sequence of (int, int)
        Height and width of each frame.
    workers : int
        Threads that read the frames.

    Returns
    -------
    list of Track
        In the order of the clips.

    Raises
    ------
    DiffusionError
        If there are no two clips, the frames of a clip differ in size, or fewer than two clips
        have a track.

    References
    ----------
    Wang, Gupta. Unsupervised Learning of Visual Representations Using Videos. ICCV 2015.
    """
    clips = clips_of(files)
    for clip in clips:
        if len({sizes[number] for number in clip}) > 1:
            raise DiffusionError(
                f"{os.path.dirname(files[clip[0]]) or folder}: expected frames of one size"
            )

    def follow(number: int) -> list[Track]:
        clip = clips[number]
        height, width = sizes[clip[0]]
        scale = min(1.0, _SIDE / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        frames = [brightness(read_image(os.path.join(folder, files[n]), size)) for n in clip]
        return [Track(number, clip[0], clip[-1], start, end) for start, end in tracks_of(frames)]

    tracks = [track for found in in_order(follow, range(len(clips)), workers) for track in found]
    if len({track.clip for track in tracks}) < 2:
        raise DiffusionError(
            "folder: expected clips through which patches can be followed, found "
            f"{len({track.clip for track in tracks})} of {len(clips)}"
        )
    return tracks


def brightness(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the brightness in [0, 1] of a frame (h, w, 3)."""
    return np.asarray(frame @ _BRIGHTNESS / 255, np.float32)


def tracks_of(frames: Sequence[NDArray[np.float32]]) -> list[tuple[Box, Box]]:
    """Return the boxes of patches in the first and in the last frame (h, w) of a clip."""
    height, width = frames[0].shape
    patch = max(1, int(_PATCH * min(height, width)))
    reach = max(1, int(_REACH * min(height, width)))
    rows, columns = (
        np.unique(np.linspace(0, side - patch, _STARTS).round().astype(np.int64))
        for side in (height, width)
    )
    start = np.stack([a.ravel() for a in np.meshgrid(rows, columns, indexing="ij")], axis=1)
    place = start
    for before, after in pairwise(frames):
        place, correlation = match(before, after, place, patch, reach)
        start, place = start[correlation >= _LEAST], place[correlation >= _LEAST]
    farthest = np.argsort(-np.abs(place - start).sum(axis=1), kind="stable")[:_KEPT]

    def box(corner: NDArray[np.int64]) -> Box:
        top, left = corner.tolist()
        return top / height, left / width, (top + patch) / height, (left + patch) / width

    return [(box(start[n]), box(place[n])) for n in farthest]
