"""Many vectors an image: small objects found by their regions, where the whole is mostly other."""

import numpy as np
from sklearn.datasets import load_digits

import diffusion
from diffusion import metrics
from diffusion.baselines import expansion

X, labels = load_digits(return_X_y=True)
X = expansion.normalize(X)
queries, regions = X[:97], X[97:]

# Images of five digits each, any five: every region is a row, `images` says whose.
images = np.random.default_rng(0).permutation(len(regions)) % (len(regions) // 5)
wholes = np.zeros((images.max() + 1, X.shape[1]), np.float32)
np.add.at(wholes, images, regions)

# Online: a query is one digit here; it may be many regions, numbered in the same way.
ranker = diffusion.RegionalReranker(k=20, query_k=10).fit(regions, images)
numbers = np.arange(len(queries))
answers = {
    "whole": expansion.search(queries, expansion.normalize(wholes), 50)[1],
    "R-match": diffusion.r_match(queries, regions, images, numbers, k=50)[1],
    "regional": ranker.search(queries, numbers, k=50)[1],
}

# Right is an image that holds the query's digit.
right = [np.unique(images[labels[97:] == label]) for label in labels[:97]]
for name, found in answers.items():
    hits, relevant = metrics.hits_from_lists(found, right)
    print(f"{name:>10}: mP@50 {metrics.precision_at(hits, relevant, 50).mean():.3f}")
