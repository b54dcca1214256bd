"""
Images with many vectors
========================

You learn when and how to use `RegionalReranker`: an image that is described by one vector for each
of its regions is found by a small object in it, which one vector for the whole image misses.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import diffusion
from diffusion import metrics
from diffusion.baselines import expansion

pixels, labels = load_digits(return_X_y=True)
X = expansion.normalize(pixels)
queries, regions = X[:97], X[97:]

# %%
# Images of five random digits each: every row of `regions` is a region of image number `images`.
# The vector of a whole image is the sum of those of its regions.

images = np.random.default_rng(0).permutation(len(regions)) % (len(regions) // 5)
wholes = np.zeros((images.max() + 1, X.shape[1]), np.float32)
np.add.at(wholes, images, regions)

# %%
# A query is one digit here. Queries of several regions are numbered in the same way. R-match
# compares the regions of the query with those of each image directly, without a graph.

ranker = diffusion.RegionalReranker().fit(regions, images)
numbers = np.arange(len(queries))
answers = {
    "one vector": expansion.search(queries, expansion.normalize(wholes), 50)[1],
    "R-match": diffusion.r_match(queries, regions, images, numbers, k=50)[1],
    "diffusion": ranker.search(queries, numbers, k=50)[1],
}

# %%
# An image is relevant if it contains the digit of the query.

relevant = [np.unique(images[labels[97:] == label]) for label in labels[:97]]
precision = {}
for name, found in answers.items():
    precision[name] = metrics.precision_at(*metrics.hits_from_lists(found, relevant), 50)
    print(f"{name:>10}: mP@50 {precision[name].mean():.3f}")

# %%
# The query that gains most over matching regions, and the images at ranks 10, 30 and 50. Digits of
# the query's kind have a blue frame.

most = int(np.argmax(precision["diffusion"] - precision["R-match"]))
figure, axes = plt.subplots(3, 1, figsize=(8, 3.4))
for ax, (name, found) in zip(axes, answers.items(), strict=True):
    strip = [pixels[most].reshape(8, 8)]
    frames = []
    for number in found[most, 9::20]:
        strip.append(np.zeros((8, 4)))
        for row in np.flatnonzero(images == number) + 97:
            if labels[row] == labels[most]:
                frames.append(sum(part.shape[1] for part in strip))
            strip.append(pixels[row].reshape(8, 8))
    ax.imshow(np.hstack(strip), cmap="gray_r")
    for left in frames:
        ax.add_patch(plt.Rectangle((left - 0.5, -0.5), 8, 8, fill=False, color="tab:blue", lw=2))
    ax.set(xticks=[], yticks=[], title=name)
figure.tight_layout()
