"""
A folder of photos
==================

You learn how to go from a folder of photos to an index and a page of results: extraction of
descriptors, the index, a search by photo, and how diffusion finds photos that have nothing in
common with the query. It needs the extra `features`.
"""

import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

import diffusion
import features

# %%
# The photos: views of two large pictures that come with scikit-learn, as a camera would take them
# that moves over the scene. Neighbouring views overlap; views of opposite corners do not.

folder = Path(tempfile.mkdtemp())
(folder / "photos").mkdir()
for name, picture in zip(("temple", "flower"), load_sample_images().images, strict=True):
    for top in range(0, picture.shape[0] - 160, 53):
        for left in range(0, picture.shape[1] - 160, 48):
            view = Image.fromarray(picture[top : top + 160, left : left + 160])
            view.save(folder / "photos" / f"{name}-{top:03}-{left:03}.png")

# %%
# The network: one with random weights stands for a trained one, so that nothing is downloaded.
# ``NetworkSettings("hf:microsoft/resnet-50")`` would be a good choice, or a file of weights.

save_file(features.backbone("alexnet", head=False).state_dict(), folder / "alexnet.safetensors")
network = features.NetworkSettings("alexnet", folder / "alexnet.safetensors")
described = features.extract_folder(
    folder / "photos", folder / "described", network, images=features.ImageSettings(size=160)
)
X, files = np.array(described.vectors), described.files
print(X.shape, files[0])

# %%
# The index of the photos, and a search with one of them: the top left corner of the temple. The
# vector of each photo is its descriptor, and its name its id.

ranker = diffusion.Reranker().fit(X, ids=files)
query = "temple-000-000.png"
found = ranker.search(X[files.index(query)], k=len(files))[1]
cosine = np.array(files)[np.argsort(-X @ X[files.index(query)])]

of_temple = sum(name.startswith("temple") for name in files)
for title, names in {"before": cosine, "after": found}.items():
    right = np.mean([name.startswith("temple") for name in names[:of_temple]])
    print(f"{title}: {right:.0%} of the first {of_temple} are of the temple")

# %%
# Every sixth result, before and after. Photos of the other picture have a red frame.

shown = np.arange(0, of_temple, 6)
figure, axes = plt.subplots(2, len(shown), figsize=(9, 2.4))
for row, (title, names) in zip(axes, {"before": cosine, "after": found}.items(), strict=True):
    for ax, rank in zip(row, shown, strict=True):
        ax.imshow(plt.imread(folder / "photos" / names[rank]))
        ax.set(xticks=[], yticks=[])
        ax.set_title(rank + 1, fontsize=8)
        if not names[rank].startswith("temple"):
            plt.setp(ax.spines.values(), color="tab:red", linewidth=3)
    row[0].set_ylabel(title)
figure.tight_layout()

# %%
# With a network of your own, two commands do the same, and write a page of the results:
#
# .. code-block:: sh
#
#    features index photos/ photos.index
#    features search photos.index photo.jpg --page out.html
#
# In Python, the index is saved and opened like any other.

ranker.save(folder / "photos.index")
assert diffusion.load(folder / "photos.index").n_items_ == len(files)
shutil.rmtree(folder)
