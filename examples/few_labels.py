"""
Parameters from ten labelled queries
====================================

Let ten labelled queries choose the parameters, and read how far to trust a ranking.

You learn what the granularity is, how to tune a ranker by queries whose relevant items you know,
and what the confidence, the cautious mode and the number of relevant results tell.
"""

import numpy as np

import diffusion

# Views of 40 objects on turntables: 24 directions each, along closed curves. Views of other objects
# from the same direction are alike.
rng = np.random.default_rng(0)
objects, views = 40, 24
angle = np.tile(np.linspace(0, 2 * np.pi, views, endpoint=False), objects)[:, None]
labels = np.repeat(np.arange(objects), views)
own, shared = rng.standard_normal((3, objects, 32)), rng.standard_normal((2, 32))
X = own[0][labels] + 1.5 * (np.cos(angle) * own[1][labels] + np.sin(angle) * own[2][labels])
X += 2 * (np.cos(angle) * shared[0] + np.sin(angle) * shared[1])
X += 0.5 * rng.standard_normal(X.shape)

order = rng.permutation(len(X))
labelled, asked, gallery = order[:10], order[10:160], order[160:]
ranker = diffusion.Reranker().fit(X[gallery])


def mean_precision(ranker: diffusion.Reranker) -> float:
    """Return the mAP of queries that were not used for tuning."""
    ids = ranker.search(X[asked], k=len(gallery))[1]
    hits = diffusion.metrics.hits_from_labels(ids, labels[gallery], labels[asked])
    return float(np.nanmean(diffusion.metrics.average_precision(*hits)))


before = mean_precision(ranker)
relevant = [np.flatnonzero(labels[gallery] == labels[query]) for query in labelled]
tuning = ranker.tune(X[labelled], relevant)
print(tuning)
after = mean_precision(ranker)
print(f"mAP of 150 other queries: {before:.3f} before tuning, {after:.3f} after it")
assert after >= before - 0.003

# Without labels: how likely a ranking is no worse than the first stage, and how much of it is real.
ranker.search(X[asked], k=100)
report = ranker.report_
print(f"confidence: {report.confidence.min():.2f} to {report.confidence.max():.2f}")
print(
    f"results that belong to the query: {np.median(report.relevant):.0f}, of {views} views at most"
)

# A cautious ranking stays near the first stage.
cautious = mean_precision(ranker.set_params(cautious=True))
print(f"mAP of cautious rankings: {cautious:.3f}")
