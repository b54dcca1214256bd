"""
Parameters from ten labelled queries
====================================

You learn how to tune a `Reranker` by a few queries whose relevant items you know, what the
granularity is, and what the confidence, the cautious mode and the number of relevant results tell
without any label.
"""

import matplotlib.pyplot as plt
import numpy as np

import diffusion

# %%
# Views of 40 objects on turntables: 24 directions each, along closed curves. Views of other objects
# from the same direction are alike, which misleads plain search.

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


def precision(ids: np.ndarray) -> np.ndarray:
    """Return the average precision of rankings for queries that are not used for tuning."""
    hits = diffusion.metrics.hits_from_labels(ids, labels[gallery], labels[asked])
    return diffusion.metrics.average_precision(*hits)


def searched(ranker: diffusion.Reranker) -> np.ndarray:
    """Return the average precision of each query that is asked."""
    return precision(ranker.search(X[asked], k=len(gallery))[1])


# %%
# Tune
# ----
#
# For each of the ten queries, the ids of its relevant items. 27 settings are compared by
# cross-validation; the defaults are kept unless another setting is better with a certainty of 90 %.

unit = diffusion.expansion.normalize
results = {
    "first stage": precision(
        diffusion.expansion.search(unit(X[asked]), unit(X[gallery]), len(gallery))[1]
    ),
    "defaults": searched(ranker),
}
relevant = [np.flatnonzero(labels[gallery] == labels[query]) for query in labelled]
print(ranker.tune(X[labelled], relevant))
results["tuned"] = searched(ranker)
assert results["tuned"].mean() >= results["defaults"].mean() - 0.003

# %%
# Without labels
# --------------
#
# How likely a ranking is no worse than the first stage, and how many of its results are real.

ranker.search(X[asked], k=100)
report = ranker.report_
print(f"confidence: {report.confidence.min():.2f} to {report.confidence.max():.2f}")
print(f"results that belong to a query: {np.median(report.relevant):.0f}, of {views} views at most")

# %%
# A cautious ranking stays near the first stage. It does so where confidence is low: fewer queries
# lose, and the others gain less.

results["cautious"] = searched(ranker.set_params(cautious=True))
figure, ax = plt.subplots(figsize=(5.5, 3))
parts = ax.violinplot(list(results.values()), showmeans=True, widths=0.8)
ax.set_xticks(range(1, len(results) + 1), list(results))
ax.set(ylabel="average precision", ylim=(0, 1.15))
for place, (name, values) in enumerate(results.items(), 1):
    ax.annotate(f"mean {values.mean():.3f}", (place, 1.06), ha="center")
    print(f"{name}: mAP {values.mean():.3f}")
figure.tight_layout()
