"""
Text
====

You learn that text is searched by the same calls as any other vectors, and how to find out whether
re-ranking pays for a collection of your own: one query that gains, one that loses, and all of them.
"""

from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import diffusion

# %%
# The texts are the paragraphs of Python's `help`; those of the topic of the query are the relevant
# ones. A paragraph belongs to the shortest topic that holds it.

topic_of: dict[str, str] = {}
for topic in sorted(topics, key=lambda name: len(topics[name])):
    for paragraph in topics[topic].split("\n\n"):
        words = " ".join(paragraph.split())
        if len(words.split()) >= 12 and ">>>" not in words and "::=" not in words:
            topic_of.setdefault(words, topic)
texts, labels = np.array(list(topic_of)), np.array(list(topic_of.values()))

order = np.random.default_rng(0).permutation(len(texts))
asked, kept = order[: len(order) // 5], order[len(order) // 5 :]

# %%
# The embedding is a simple one, which needs no download: word counts (TF-IDF) in 128 dimensions.
# Vectors of any other model take its place. It is learnt from the items; queries are new to it, and
# to the graph.

counts = TfidfVectorizer(sublinear_tf=True)
components = TruncatedSVD(128, random_state=0)
X = components.fit_transform(counts.fit_transform(texts[kept]))
Q = components.transform(counts.transform(texts[asked]))

ranker = diffusion.Reranker().fit(X)
rankings = {
    "before": diffusion.expansion.search(
        diffusion.expansion.normalize(Q), diffusion.expansion.normalize(X), len(kept)
    )[1],
    "after": ranker.search(Q, k=len(kept))[1],
}

# %%
# The average precision of each query, in points; NaN for a query without a relevant item.

precision = {
    name: 100
    * diffusion.metrics.average_precision(
        *diffusion.metrics.hits_from_labels(ids, labels[kept], labels[asked])
    )
    for name, ids in rankings.items()
}


def show(query: int, title: str) -> None:
    """Print the topics of the first five answers to a query, before and after."""
    print(f"{title}: “{texts[asked[query]][:150]}…”\n  topic: {labels[asked[query]]}")
    for name, ids in rankings.items():
        found = ", ".join(labels[kept[ids[query, :5]]])
        print(f"  {name:>6}, AP {precision[name][query]:.0f}: {found}")


gain = precision["after"] - precision["before"]
show(int(np.nanargmax(gain)), "The query that gains most")
show(int(np.nanargmin(gain)), "The query that loses most")
before, after = (np.nanmean(precision[name]) for name in rankings)
print(f"mAP of {len(asked)} queries: {before:.1f} before, {after:.1f} after")
print(f"{np.nanmean(gain > 1):.0%} of the queries gain, {np.nanmean(gain < -1):.0%} lose")
assert after > before

# %%
# Most queries gain, and some lose. What a collection gains is seen from a few queries whose
# relevant items are known.

figure, ax = plt.subplots(figsize=(4.4, 4.2))
ax.plot([0, 100], [0, 100], color="gray", linewidth=1)
ax.scatter(precision["before"], precision["after"], s=12, alpha=0.6)
ax.set(xlabel="average precision before, %", ylabel="after, %", aspect="equal")
figure.tight_layout()
