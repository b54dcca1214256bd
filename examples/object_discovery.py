"""
Recurring objects
=================

Find the objects that recur in a collection of images, without labels.

You learn how to compute activation maps, fit `ObjectDiscovery` offline, and get a saliency map,
boxes and a descriptor of each image online, also of images that come later. It needs the extra
`features`.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

import features
from features.datasets.words import VisualWords
from features.networks.frame import ImageActivations
from features.objects import descriptors as object_descriptors
from features.objects import page as pictures
from features.objects.maps import feature_saliency, localisation_precision

# Drawn scenes: each shows one of four objects among clutter and a distractor that is in no other
# scene. The last two are held back, as images that come later.
drawn = features.Scenes(
    n_objects=4, images_per_object=6, size=161, n_distractors=1, background="noise", seed=4
)
scenes = list(drawn)
images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2) / 255
old, new = range(len(scenes) - 2), range(len(scenes) - 2, len(scenes))

# Activation maps (c, h, w) of every image. For photos, a network's: trunk = features.backbone(
# "mobilenet_v2", "mobilenet_v2.safetensors"), and trunk.normalize(images).
trunk = VisualWords(images[list(old)])
framed = features.FramedTrunk(trunk, trunk.stride)
with torch.no_grad():
    arrays = framed(images).numpy()
frame = framed.frame(images.shape[2:], arrays.shape[2:])
# Those of a network also have a finer map: framed.activations(images) returns both.
A = [ImageActivations(maps, frame) for maps in arrays]

# Offline: the nodes of all images, their graph and its centrality. So few images allow only a small
# dimension.
discovery = features.ObjectDiscovery(features.DiscoverySettings(dimension=16)).fit(A[:-2])
print(f"{len(discovery.vectors_)} nodes, {discovery.graph_.n_edges} edges between them")


def object_saliency(i):
    """Return the peaks and the map of recurring objects in image i, without its own nodes."""
    return discovery.maps(A[i], i if i in old else None)


def inside(saliency, i):
    """Return the share of a map's saliency that lies in the true box."""
    return localisation_precision(saliency, scenes[i].boxes, frame.stride, frame.offset_x)


for name, numbers in (("seen", old), ("new", new)):
    found = {
        "uniform": [inside(np.ones(arrays.shape[2:]), i) for i in numbers],
        "features": [inside(feature_saliency(arrays[i]), i) for i in numbers],
        "objects": [inside(object_saliency(i)[1], i) for i in numbers],
    }
    print(f"{name:>6}:", ", ".join(f"{kind} {np.mean(p):.2f}" for kind, p in found.items()))

# Boxes in pixels, and one descriptor an image from the regions of the peaks.
peaks, S = object_saliency(new[0])
boxes = frame.to_pixels(discovery.boxes(S).boxes)
print("box:", boxes[0].round().tolist(), "true:", scenes[new[0]].boxes[0])
regions = discovery.regions(peaks)
descriptor = object_descriptors.sum_of_regions(arrays[new[0]], regions, weights="weighted")
print("descriptor:", descriptor.shape)

# A page with everything side by side.
page = Path(tempfile.gettempdir()) / "object_discovery.html"
shown = (
    pictures.make_picture(f"scene {i}", scenes[i].image, A[i], discovery, i if i in old else None)
    for i in (0, 6, *new)
)
pictures.write_page(page, "Recurring objects", [pictures.LEGEND], shown)
print(page)
