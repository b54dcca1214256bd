"""The demo's second page: what recurs in drawn scenes, found without labels.

Each scene shows one of a few textured objects among things that no other scene has. The maps come
from visual words, for no network trained on photos ships with the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..datasets.scenes import Scene, Scenes

SCENES: dict[str, Any] = {"n_objects": 6, "images_per_object": 8, "size": 193, "n_distractors": 2}
# Few regions support few directions.
SETTINGS: dict[str, Any] = {"dimension": 32}

UNIFORM, FEATURES, FIFTH, OBJECTS = (
    "uniform map",
    "feature saliency",
    "its fifth power",
    "object saliency",
)


def run(
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    progress: bool = True,
    output: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Discover the objects of scenes and write a page of pictures.

    Parameters
    ----------
    path : path-like
        Of the page.
    seed : int >= 0, default 0
        Of the scenes and the words.
    progress : bool, default True
        Show bars on standard error.
    output : callable, default print
        Called with each line of what there is to say.

    Returns
    -------
    dict
        `page`, a path; `scenes` and `regions`, their numbers; `precision`, the part of each map's
        saliency that lies in the true box, by the map's name, the mean over the scenes; `above`,
        the part of the scenes where object saliency has more of it than feature saliency.
    """
    import torch

    from ..datasets.words import VisualWords
    from ..networks.frame import FramedTrunk
    from ..objects.discovery import ObjectDiscovery
    from ..objects.maps import feature_saliency, localisation_precision
    from ..objects.page import LEGEND, make_picture, write_page
    from ..settings import DiscoverySettings

    drawn = Scenes(**SCENES, seed=seed)
    scenes: list[Scene] = list(
        tqdm(drawn, desc="scenes", unit="image", total=len(drawn), disable=not progress)
    )
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    ready = images.permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        trunk = VisualWords(ready, seed=seed)
        framed = FramedTrunk(trunk, trunk.stride)
        maps = np.concatenate([framed(image[None]).numpy() for image in ready])
    frame = framed.frame(ready.shape[2:], maps.shape[2:])
    discovery = ObjectDiscovery(DiscoverySettings(**SETTINGS), progress=progress).fit(maps)

    def precisions(number: int) -> list[float]:
        F = feature_saliency(maps[number])
        S = discovery.saliency(maps[number], number)
        boxes = scenes[number].boxes
        return [
            localisation_precision(saliency, boxes, frame.stride, frame.offset_x)
            for saliency in (np.ones_like(F), F, F**5, S)
        ]

    found: NDArray[np.float64] = np.nan_to_num([precisions(i) for i in range(len(scenes))])
    means = dict(zip((UNIFORM, FEATURES, FIFTH, OBJECTS), found.mean(axis=0), strict=True))
    gains = found[:, 3] - found[:, 1]
    said = ", ".join(f"{name} {100 * mean:.1f} %" for name, mean in means.items())
    above = float((gains > 0).mean())
    output(
        f"Objects in {len(scenes)} drawn scenes: in the true box lie, of the {said}; object "
        f"saliency above feature saliency in {100 * above:.0f} % of the scenes."
    )
    # One of each object, and where it went worst.
    worst = int(np.argmin(gains))
    shown = sorted({*range(0, len(scenes), drawn.images_per_object), worst})
    pictures = (
        make_picture(
            f"Scene {number}{', where it went worst' if number == worst else ''}: in the true box "
            f"{100 * found[number, 1]:.0f} % of feature saliency, {100 * found[number, 3]:.0f} % "
            "of object saliency",
            scenes[number].image,
            maps[number],
            frame,
            discovery,
            number,
            scenes[number].boxes.astype(float),
        )
        for number in shown
    )
    text = [
        f"Each of {len(scenes)} drawn scenes shows one of {drawn.n_objects} objects, "
        f"{drawn.images_per_object} scenes an object, over clutter and things that no other scene "
        "has. Nothing says which is which: what is found is what recurs. Feature saliency is what "
        "is strong in a scene by itself.",
        f"In the true box lie, on average over the scenes, of the {said}. Object saliency is above "
        f"feature saliency in {100 * above:.0f} % of them.",
        "The maps come from visual words of colour and texture, learned from the scenes "
        "themselves, for no network trained on photos ships with this package. On photos, with a "
        "network's weights, the command features discover writes a page like this.",
        f"{LEGEND} The dashed box is the true one.",
    ]
    write_page(path, "What recurs in drawn scenes", text, pictures)
    output(f"Wrote {path}: {len(shown)} of the scenes with their maps and regions.")
    return {
        "page": os.fspath(path),
        "scenes": len(scenes),
        "regions": len(discovery.vectors_),
        "precision": {name: float(mean) for name, mean in means.items()},
        "above": above,
    }
