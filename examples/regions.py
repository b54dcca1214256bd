"""
Images with many vectors
========================

Search images with many vectors per image, one per region.

You learn when and how to use `RegionalReranker`: it finds small objects that one vector per image
misses. It is compared with one vector per image and with matching regions without diffusion.
"""

import numpy as np
from sklearn.datasets import load_digits

import diffusion
from diffusion import metrics
from diffusion.baselines import expansion

X, labels = load_digits(return_X_y=True)
X = expansion.normalize(X)
queries, regions = X[:97], X[97:]

# Images of five random digits each: every row of `regions` is a region of image number `images`.
images = np.random.default_rng(0).permutation(len(regions)) % (len(regions) // 5)
wholes = np.zeros((images.max() + 1, X.shape[1]), np.float32)
np.add.at(wholes, images, regions)

# Online: a query is one digit here. Queries of several regions are numbered in the same way.
ranker = diffusion.RegionalReranker().fit(regions, images)
numbers = np.arange(len(queries))
answers = {
    "whole": expansion.search(queries, expansion.normalize(wholes), 50)[1],
    "R-match": diffusion.r_match(queries, regions, images, numbers, k=50)[1],
    "regional": ranker.search(queries, numbers, k=50)[1],
}

# An image is relevant if it contains the digit of the query.
relevant = [np.unique(images[labels[97:] == label]) for label in labels[:97]]
for name, found in answers.items():
    hits, counts = metrics.hits_from_lists(found, relevant)
    print(f"{name:>10}: mP@50 {metrics.precision_at(hits, counts, 50).mean():.3f}")
