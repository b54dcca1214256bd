"""Training of networks on labelled images with the contrastive loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from tqdm import tqdm

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer, check_real

from ..description.describe import as_images, as_tensor, device_of, in_mode
from .losses import contrastive_loss


def train_contrastive(
    network: nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    epochs: int = 60,
    margin: float = 0.7,
    seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    progress: bool = False,
) -> NDArray[np.float64]:
    """Train a network in place with the contrastive loss and Adam.

    Equal seeds, data and initial weights give equal trained weights on the same machine. The
    global random state of torch and the modes of the modules are not changed.

    Parameters
    ----------
    network : torch.nn.Module
        A network as for `features.describe`. The default margin assumes L2-normalised
        descriptors.
    images : array_like, shape (n, h, w) or (n, c, h, w)
        Images as for `features.describe`, n >= 2. They are held in memory as float32.
    labels : array_like, shape (n,)
        Labels of any type that numpy can compare.
    epochs : int >= 1, default 60
        Number of passes over the images, each in a new random order.
    margin : float > 0, default 0.7
        Margin of the loss; Radenović, Tolias and Chum (ECCV 2016) use 0.7.
    seed : int >= 0, default 0
        Seed of the order of the images and of random layers of the network.
    batch_size : int >= 2, default 32
        Number of images per batch. The loss is the mean over all pairs of a batch.
    learning_rate : float > 0, default 1e-3
        Learning rate of Adam.
    progress : bool, default False
        Whether to show a progress bar on standard error.

    Returns
    -------
    ndarray, shape (epochs,), float64
        The loss of each epoch, averaged over its batches.

    Raises
    ------
    DiffusionError
        If an argument is not as described; the message names it.

    References
    ----------
    Hadsell, Chopra, LeCun. Dimensionality Reduction by Learning an Invariant Mapping. CVPR 2006.
    Radenović, Tolias, Chum. CNN Image Retrieval Learns from BoW. ECCV 2016.
    """
    array = as_images(images, network)
    classes = np.asarray(labels)
    if len(array) < 2:
        raise DiffusionError(f"images: expected at least 2 images, got {len(array)}")
    if classes.shape != (len(array),):
        raise DiffusionError(
            f"labels: expected shape ({len(array)},), one per image, got {classes.shape}"
        )
    epochs = check_integer(epochs, "epochs", low=1)
    margin = check_real(margin, "margin", low=0.0, strict=True)
    seed = check_integer(seed, "seed", low=0)
    batch_size = check_integer(batch_size, "batch_size", low=2)
    learning_rate = check_real(learning_rate, "learning_rate", low=0.0, strict=True)

    device = device_of(network)
    x = as_tensor(array).to(device)
    t = torch.from_numpy(np.unique(classes, return_inverse=True)[1]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    losses = np.zeros(epochs)
    with (
        seeded(seed, device),
        in_mode(network, training=True),
        tqdm(total=epochs, desc="train", unit="epoch", disable=not progress) as bar,
    ):
        for epoch in range(epochs):
            batches = torch.randperm(len(x)).to(device).split(batch_size)
            # A single remaining image forms no pair.
            batches = [batch for batch in batches if len(batch) > 1]
            for batch in batches:
                optimizer.zero_grad()
                loss = contrastive_loss(network(x[batch]), t[batch], margin=margin)
                loss.backward()
                optimizer.step()
                losses[epoch] += loss.item() / len(batches)
            bar.set_postfix(loss=f"{losses[epoch]:.4f}", refresh=False)
            bar.update()
    return losses


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random states of torch for a device and restore them afterwards."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # torch.manual_seed would also seed all other devices, whose states are not restored.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
