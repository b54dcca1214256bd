"""Descriptors of images in memory, by a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm import tqdm

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer


def describe(
    network: nn.Module, images: ArrayLike, *, batch_size: int = 256, progress: bool = False
) -> NDArray[np.float32]:
    """Describe images with a network.

    The network runs in evaluation mode and without gradients, on the device of its parameters;
    afterwards the mode of each of its modules is restored.

    Parameters
    ----------
    network : torch.nn.Module
        Takes images (b, c, h, w), float32, and returns descriptors (b, d). If it has an
        `input_shape` (c, h, w), the images must have that shape.
    images : array_like, shape (n, h, w) or (n, c, h, w)
        Grey images, or images of c channels, with finite values in the range that the network was
        trained on. They are converted to float32 batch by batch.
    batch_size : int >= 1, default 256
        Images per batch.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    ndarray, shape (n, d), float32
        L2-normalised rows; a zero descriptor stays zero.

    Raises
    ------
    DiffusionError
        If an argument is not as described; the message names it.
    """
    array = as_images(images, network)
    batch_size = check_integer(batch_size, "batch_size", low=1)
    device = device_of(network)
    batches = []
    with (
        in_mode(network, training=False),
        torch.no_grad(),
        tqdm(total=len(array), desc="describe", unit="image", disable=not progress) as bar,
    ):
        for start in range(0, len(array), batch_size):
            batch = as_tensor(array[start : start + batch_size], start).to(device)
            batches.append(nn.functional.normalize(network(batch)).cpu().numpy())
            bar.update(len(batch))
    return np.concatenate(batches)


def as_images(images: ArrayLike, network: nn.Module) -> NDArray[Any]:
    """Check the shape and dtype of images; return them as (n, c, h, w), not converted."""
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise DiffusionError(f"images: expected an array of numbers ({error})") from None
    if array.dtype.kind not in "fiub":
        raise DiffusionError(f"images: expected real numbers, got dtype {array.dtype}")
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DiffusionError(
            f"images: expected shape (n, h, w) or (n, c, h, w), none of them 0, got {array.shape}"
        )
    if array.ndim == 3:
        array = array[:, None]
    expected = getattr(network, "input_shape", None)
    if expected is not None and array.shape[1:] != tuple(expected):
        raise DiffusionError(
            f"images: expected (channels, height, width) {tuple(expected)}, as the network "
            f"takes, got {array.shape[1:]}"
        )
    return array


def as_tensor(images: NDArray[Any], first: int = 0) -> Tensor:
    """Return images as a float32 tensor, or raise naming the first that is not finite.

    `first` is the number of the first image.
    """
    batch = np.array(images, dtype=np.float32)
    finite = np.isfinite(batch).reshape(len(batch), -1).all(axis=1)
    if not finite.all():
        raise DiffusionError(
            f"images: expected finite values, image {first + int(np.argmin(finite))} holds NaN "
            "or infinity"
        )
    return torch.from_numpy(batch)


def device_of(network: nn.Module) -> torch.device:
    """Return the device of the parameters of a network, the CPU if it has none."""
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def in_mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a network into training or evaluation mode, and restore the mode of each module."""
    before = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
