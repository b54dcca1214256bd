"""
Recurring objects
=================

You learn how to find the objects that recur in a collection of images, without labels: activation
maps, the offline fit of `ObjectDiscovery`, and a saliency map, boxes and a descriptor of each
image, also of images that come later. It needs the extra `features`.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import features
from features.datasets.words import VisualWords
from features.networks.frame import ImageActivations
from features.objects import descriptors as object_descriptors
from features.objects.maps import feature_saliency, localisation_precision

# %%
# Drawn scenes: each shows one of four objects among clutter and a distractor that is in no other
# scene. The last two are held back, as images that come later.

drawn = features.Scenes(
    n_objects=4, images_per_object=6, size=161, n_distractors=1, background="noise", seed=4
)
scenes = list(drawn)
images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2) / 255
old, new = range(len(scenes) - 2), range(len(scenes) - 2, len(scenes))

# %%
# Activation maps (c, h, w) of every image. For photos, those of a network take their place:
# ``trunk = features.backbone("mobilenet_v2", "mobilenet_v2.safetensors")``, and
# ``trunk.normalize(images)``.

trunk = VisualWords(images[list(old)])
framed = features.FramedTrunk(trunk, trunk.stride)
with torch.no_grad():
    arrays = framed(images).numpy()
frame = framed.frame(images.shape[2:], arrays.shape[2:])
# Those of a network also have a finer map: framed.activations(images) returns both.
A = [ImageActivations(maps, frame) for maps in arrays]

# %%
# Offline: the nodes of all images, their graph and its centrality. So few images allow only a small
# dimension.

discovery = features.ObjectDiscovery(features.DiscoverySettings(dimension=16)).fit(A[:-2])
print(f"{len(discovery.vectors_)} nodes, {discovery.graph_.n_edges} edges between them")

# %%
# Online: the saliency of recurring objects is compared with that of strong features, and with a map
# that is the same everywhere. An image that was fitted does not count as evidence for itself.


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

# %%
# Boxes in pixels, and one descriptor per image from the regions of the peaks.

peaks, S = object_saliency(new[0])
boxes = frame.to_pixels(discovery.boxes(S).boxes)
print("box:", boxes[0].round().tolist(), "true:", scenes[new[0]].boxes[0])
regions = discovery.regions(peaks)
descriptor = object_descriptors.sum_of_regions(arrays[new[0]], regions, weights="weighted")
print("descriptor:", descriptor.shape)

# %%
# Two scenes of the collection and the two that came later: the image with the true box (white,
# dashed) and the box that is found (red), the saliency of features, and that of recurring objects.
# The maps of random visual words are coarse, and fail in scene 22.

figure, axes = plt.subplots(3, 4, figsize=(8, 6))
for column, i in zip(axes.T, (0, 6, *new), strict=True):
    S = object_saliency(i)[1]
    for ax, shown in zip(column, (scenes[i].image, feature_saliency(arrays[i]), S), strict=True):
        ax.imshow(shown)
        ax.set(xticks=[], yticks=[])
    found = frame.to_pixels(discovery.boxes(S).boxes)[:1]
    for boxes, style in ((scenes[i].boxes, ("white", "--")), (found, ("red", "-"))):
        for left, top, right, bottom in boxes:
            corner, size = (left, top), (right - left, bottom - top)
            box = plt.Rectangle(corner, *size, fill=False, color=style[0], ls=style[1], lw=2)
            column[0].add_patch(box)
    column[0].set_title(f"scene {i}")
for ax, name in zip(axes[:, 0], ("image", "features", "recurring objects"), strict=True):
    ax.set_ylabel(name)
figure.tight_layout()
