"""
The idea
========

Three pictures of what goes wrong in plain nearest-neighbour search, and of what diffusion does
about it: two moons, a circle of views, and a hub.

An *item* is what is searched for: a vector, such as the descriptor of a photo or the embedding of a
text. The *collection* has all items. Nearest-neighbour search compares the query with each item
separately. *Diffusion* ranks items along chains of near neighbours instead.
"""

# %%
# Two moons
# ---------
#
# Each moon is a *manifold*: a set of points that lies near a curve or surface of few dimensions.
# The query is at the end of the upper moon. By distance, the other moon comes before the far end of
# its own.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

import diffusion

X, moon = make_moons(400, noise=0.06, random_state=0)
query = np.array([-0.95, 0.2])

ranker = diffusion.Reranker(metric="euclidean", neighbors="exact").fit(X)
rank = np.empty(len(X))
rank[ranker.search(query, k=len(X))[1]] = np.arange(1, len(X) + 1)
by_distance = np.linalg.norm(X - query, axis=1).argsort().argsort() + 1

figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.3), layout="constrained")
for ax, order, name in zip(axes, (by_distance, rank), ("by distance", "by diffusion"), strict=True):
    found = ax.scatter(*X.T, c=order, s=14, cmap="viridis_r")
    ax.plot(*query, marker="*", color="tab:red", markersize=15)
    right = np.mean(moon[order <= 200] == 0)
    ax.set(title=f"{name}: {right:.0%} of the first 200", xticks=[], yticks=[], aspect="equal")
figure.colorbar(found, ax=axes, label="rank")

# %%
# A circle of views
# -----------------
#
# Photos of an object from all sides are a closed curve: each view is like the next one, and the
# front is not like the back. Here are 24 views each of 30 objects, in 32 dimensions. The query is
# one view, at 0°. Its cosine to the views of the same object falls with the angle, and those from
# behind are among those of other objects. Diffusion goes around the circle.

rng = np.random.default_rng(0)
objects, views = 30, 24
angle = np.tile(np.arange(views) * 360 / views, objects)
label = np.repeat(np.arange(objects), views)
axes_of = rng.standard_normal((2, objects, 32))
turn = np.radians(angle)[:, None]
X = np.cos(turn) * axes_of[0, label] + np.sin(turn) * axes_of[1, label]
X += 0.35 * rng.standard_normal(X.shape)
X /= np.linalg.norm(X, axis=1, keepdims=True)

ranker = diffusion.Reranker().fit(X[1:], ids=np.arange(1, len(X)))
scores, ids = ranker.search(X[0], k=len(X) - 1)
after = np.zeros(len(X))
after[ids] = scores

figure, axes = plt.subplots(1, 2, figsize=(8.4, 3), sharex=True)
for ax, values, name in zip(axes, (X @ X[0], after), ("cosine", "score"), strict=True):
    for own, colour in ((False, "silver"), (True, "tab:blue")):
        which = ((label == 0) == own) & (np.arange(len(X)) > 0)
        # The views from 180° on are those from -180° on.
        ax.scatter((angle[which] + 180) % 360 - 180, values[which], c=colour, s=14)
    ax.set(xlabel="angle of the view, degrees", ylabel=name, xticks=range(-180, 181, 90))
axes[0].set_title("before: views of the object (blue)")
axes[1].set_title("after")
figure.tight_layout()

# %%
# A hub
# -----
#
# In many dimensions, some items are near many unrelated ones. They are called *hubs*: they get into
# result lists where they do not belong, and connect in the graph what does not belong together.
# Here are 40 classes of 20 items with a common offset, and 20 hubs near that offset. How often is
# an item among the first ten results of 200 queries?

classes = rng.standard_normal((40, 64))
label = np.repeat(np.arange(41), 20)  # the last 20 are the hubs
offset = 1.5 * rng.standard_normal(64)
X = offset + 0.9 * np.concatenate([classes, np.zeros((1, 64))])[label]
X += np.where(label[:, None] < 40, 1.0, 0.15) * rng.standard_normal(X.shape)
asked = rng.integers(0, 40, 200)
Q = offset + 0.9 * classes[asked] + rng.standard_normal((200, 64))

unit = diffusion.expansion.normalize
answers = {
    "plain search": diffusion.expansion.search(unit(Q), unit(X), 10)[1],
    "published diffusion": diffusion.Reranker(affinity="cosine").fit(X).search(Q, k=10)[1],
    "defaults": diffusion.Reranker().fit(X).search(Q, k=10)[1],
}
figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.8), sharey=True)
for ax, (name, ids) in zip(axes, answers.items(), strict=True):
    count = np.bincount(ids.ravel(), minlength=len(X))
    ax.scatter(np.arange(800), count[:800], s=5, color="tab:blue")
    ax.scatter(np.arange(800, 820), count[800:], s=8, color="tab:red")
    ax.set(title=f"{name}: {np.mean(label[ids] == asked[:, None]):.0%} right", xlabel="item")
axes[0].set_ylabel("times in the first ten")
figure.tight_layout()

# %%
# The hubs (red) fill the lists of plain search, and diffusion as published makes more of them,
# because they are connected with everything. The default :doc:`affinity <c_context>` ranks them
# lower. That is one of the reasons why it is the default; the other is that it suits classes of
# different sizes.
