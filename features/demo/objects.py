"""The demo's second page: recurring objects in drawn scenes, discovered without labels.

Each scene shows one of a few textured objects among distractors that no other scene contains. The
activation maps come from visual words, because no network trained on photos is distributed with the
package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..datasets.scenes import Scene, Scenes

if TYPE_CHECKING:
    from ..networks.frame import Frame
    from ..objects.discovery import ObjectDiscovery
    from ..objects.page import Picture

SCENES: dict[str, Any] = {"n_objects": 6, "images_per_object": 8, "size": 193, "n_distractors": 2}
# So few regions determine few principal directions.
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
        File to write.
    seed : int >= 0, default 0
        Seed of the scenes and of the visual words.
    progress : bool, default True
        Show progress bars on standard error.
    output : callable, default print
        Called with each message.

    Returns
    -------
    dict
        `page`, a path; `scenes` and `regions`, their numbers; `precision`, the fraction of each
        map's saliency inside the true box, averaged over the scenes, by the map's name; `above`,
        the fraction of the scenes in which this is larger for object saliency than for feature
        saliency.
    """
    from ..objects.discovery import ObjectDiscovery
    from ..objects.page import LEGEND, write_page
    from ..settings import DiscoverySettings

    drawn = Scenes(**SCENES, seed=seed)
    scenes: list[Scene] = list(
        tqdm(drawn, desc="scenes", unit="image", total=len(drawn), disable=not progress)
    )
    maps, frame = _activations(scenes, seed)
    discovery = ObjectDiscovery(DiscoverySettings(**SETTINGS), progress=progress).fit(maps)

    found = _precisions(scenes, maps, frame, discovery)
    means = dict(zip((UNIFORM, FEATURES, FIFTH, OBJECTS), found.mean(axis=0).tolist(), strict=True))
    gains = found[:, 3] - found[:, 1]
    above = float((gains > 0).mean())
    said = ", ".join(f"{name} {100 * mean:.1f} %" for name, mean in means.items())
    output(
        f"Saliency inside the true box, mean of {len(scenes)} drawn scenes: {said}; object "
        f"saliency is above feature saliency in {100 * above:.0f} % of the scenes."
    )
    # One scene per object, and the one with the worst result.
    worst = int(np.argmin(gains))
    shown = sorted({*range(0, len(scenes), drawn.images_per_object), worst})
    captions = {
        number: f"Scene {number}{', the worst result' if number == worst else ''}: inside the true "
        f"box are {100 * found[number, 1]:.0f} % of feature saliency and "
        f"{100 * found[number, 3]:.0f} % of object saliency"
        for number in shown
    }
    text = [
        f"Each of {len(scenes)} drawn scenes shows one of {drawn.n_objects} objects over a "
        "cluttered background, together with distractors that no other scene contains. There are "
        f"{drawn.images_per_object} scenes per object, and no labels are used. Feature saliency "
        "shows where a single scene has strong features; object saliency shows which of them recur "
        "in other scenes.",
        f"Average fraction of the saliency that lies inside the true box: {said}. Object saliency "
        f"is above feature saliency in {100 * above:.0f} % of the scenes.",
        "The activation maps come from visual words of colour and texture, which are learned from "
        "the scenes themselves, because no network trained on photos is distributed with this "
        "package. For photos, the command features discover writes a page like this one with the "
        "weights of a network.",
        f"{LEGEND} The dashed box is the true box of the object.",
    ]
    pictures = _pictures(captions, scenes, maps, frame, discovery)
    write_page(path, "Recurring objects in drawn scenes", text, pictures)
    output(f"Wrote {path}: {len(shown)} of the scenes with their maps and regions.")
    return {
        "page": os.fspath(path),
        "scenes": len(scenes),
        "regions": len(discovery.vectors_),
        "precision": means,
        "above": above,
    }


def _activations(scenes: Sequence[Scene], seed: int) -> tuple[NDArray[np.float32], Frame]:
    """Return the visual-word maps (n, c, h, w) of the scenes, and the frame of their cells."""
    import torch

    from ..datasets.words import VisualWords
    from ..networks.frame import FramedTrunk

    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    ready = images.permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        trunk = VisualWords(ready, seed=seed)
        framed = FramedTrunk(trunk, trunk.stride)
        maps = np.concatenate([framed(image[None]).numpy() for image in ready])
    return maps, framed.frame(ready.shape[2:], maps.shape[2:])


def _precisions(
    scenes: Sequence[Scene], maps: NDArray[np.float32], frame: Frame, discovery: ObjectDiscovery
) -> NDArray[np.float64]:
    """Return the fraction of each map's saliency inside the true box, shape (n, 4)."""
    from ..objects.maps import feature_saliency, localisation_precision

    found = np.zeros((len(scenes), 4))
    for number, scene in enumerate(scenes):
        F = feature_saliency(maps[number])
        S = discovery.saliency(maps[number], number)
        found[number] = [
            localisation_precision(saliency, scene.boxes, frame.stride, frame.offset_x)
            for saliency in (np.ones_like(F), F, F**5, S)
        ]
    return np.nan_to_num(found)


def _pictures(
    captions: dict[int, str],
    scenes: Sequence[Scene],
    maps: NDArray[np.float32],
    frame: Frame,
    discovery: ObjectDiscovery,
) -> Iterator[Picture]:
    """Yield the scenes that have a caption, with their maps and regions."""
    from ..objects.page import make_picture

    for number, caption in captions.items():
        scene = scenes[number]
        truth = scene.boxes.astype(float)
        yield make_picture(caption, scene.image, maps[number], frame, discovery, number, truth)
