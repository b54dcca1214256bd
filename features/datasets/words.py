"""Activation maps without a trained network: visual words of colour and texture.

Where no weights of a network are available, as in a demo or an example, activation maps are
computed from the images themselves. Each position is described by its colours and by the strength
of derivatives at three scales, and these descriptions are compared with words, the centres that
k-means finds in the collection. This distinguishes objects that differ in colour and texture, such
as drawn ones; for photos a network is far better.

Source: Sivic, Zisserman. Video Google: A Text Retrieval Approach to Object Matching in Videos.
ICCV 2003 (visual words); Coates, Ng. The Importance of Encoding Versus Training with Sparse Coding
and Vector Quantization. ICML 2011 (soft thresholds in place of the nearest word).
"""

from __future__ import annotations

import math

import faiss
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer

# Distance between neighbouring positions in pixels; their windows are twice as wide.
_STRIDE = 16
_SCALES = (1, 2, 4)
# A position responds to a word above this cosine.
_LEAST = 0.7
_ROUNDS = 15


class VisualWords(nn.Module):
    """A trunk whose channels are visual words, for images in [0, 1].

    Activation k at a position is max(<u, w_k> - 0.7, 0) E, where u is the whitened and normalised
    description of the position, w_k is the word, and E is the energy of the derivatives, so that
    activations on smooth surfaces are small.

    Parameters
    ----------
    images : Tensor, shape (n, 3, h, w), float in [0, 1]
        Images from which the words are learned, without labels, with sides of at least 32.
    words : int >= 1, default 1024
        Number of words; fewer if there are fewer positions.
    seed : int >= 0, default 0
        Seed of the first centres of k-means.

    Attributes
    ----------
    stride : int
        Distance between neighbouring cells of the maps in pixels.

    Examples
    --------
    >>> trunk = VisualWords(torch.rand(2, 3, 64, 96), words=8)
    >>> trunk(torch.rand(1, 3, 48, 64)).shape
    torch.Size([1, 8, 3, 4])
    """

    stride = _STRIDE
    mean: Tensor
    projection: Tensor
    words: Tensor

    def __init__(self, images: Tensor, words: int = 1024, *, seed: int = 0) -> None:
        super().__init__()
        words = check_integer(words, "words", low=1)
        check_integer(seed, "seed", low=0)
        parts = [_describe(batch) for batch in _check(images).split(16)]
        places = torch.cat([part.permute(0, 2, 3, 1).flatten(0, 2) for part, _ in parts])
        energy = torch.cat([energy.flatten() for _, energy in parts])
        # The smoother half is left out: it is uninformative and would take up many words.
        places = places[energy >= energy.median()]
        mean = places.mean(dim=0)
        _, deviations, directions = torch.linalg.svd(places - mean, full_matrices=False)
        # The last directions are amplified less, which limits noise.
        scale = deviations + 0.1 * deviations[0] + torch.finfo(places.dtype).tiny
        projection = directions.T / scale
        self.register_buffer("mean", mean)
        self.register_buffer("projection", projection)
        whitened = functional.normalize((places - mean) @ projection)
        self.register_buffer("words", _k_means(whitened, words, seed))

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps (b, words, h', w') of images (b, 3, h, w)."""
        places, energy = _describe(_check(images))
        u = torch.einsum("bchw,cd->bdhw", places - self.mean[:, None, None], self.projection)
        cosines = torch.einsum("bdhw,kd->bkhw", functional.normalize(u), self.words)
        return (cosines - _LEAST).clamp(min=0) * energy


def _check(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2 * _STRIDE:
        raise DiffusionError(
            f"images: expected shape (n, 3, h, w) with sides of at least {2 * _STRIDE}, got "
            f"{tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise DiffusionError(f"images: expected floats in [0, 1], got {images.dtype}")
    return images


def _describe(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the description of each position, (b, 15, h', w'), and its energy (b, 1, h', w')."""
    red, green, blue = images.unbind(dim=1)
    # Lightness and two opponent colours, which vary independently with surface and illumination.
    opponent = torch.stack(
        [(red + green + blue) / 3, (red - green) / 2, (red + green) / 4 - blue / 2], dim=1
    )
    kernels = _derivatives().to(images)
    parts = []
    for scale in _SCALES:
        pooled = functional.avg_pool2d(opponent, scale) if scale > 1 else opponent
        b, c, h, w = pooled.shape
        answers = functional.conv2d(pooled.reshape(b * c, 1, h, w), kernels, padding=3)
        # The sum over orientations makes the description nearly invariant to rotation.
        strength = answers.abs().sum(dim=1).reshape(b, c, h, w)
        parts.append(_windows(strength, scale))
    colour, squared = _windows(opponent, 1), _windows(opponent**2, 1)
    height, width = (min(part.shape[side] for part in [*parts, colour]) for side in (2, 3))
    colour, squared = colour[:, :, :height, :width], squared[:, :, :height, :width]
    energies = torch.cat([part[:, :, :height, :width] for part in parts], dim=1)
    spread = (squared - colour**2).clamp(min=0).sqrt()
    places = torch.cat([energies.sqrt(), spread, colour], dim=1)
    return places, energies.sum(dim=1, keepdim=True)


def _windows(maps: Tensor, scale: int) -> Tensor:
    """Average maps at a scale over the windows of all positions."""
    stride = _STRIDE // scale
    return functional.avg_pool2d(maps, 2 * stride, stride, stride // 2, count_include_pad=False)


def _derivatives() -> Tensor:
    """Return Gaussian derivatives of first and second order in four directions, (8, 1, 7, 7)."""
    y, x = torch.meshgrid(torch.arange(-3.0, 4), torch.arange(-3.0, 4), indexing="ij")
    sigma = 1.5
    bell = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    kernels = []
    for quarter in range(4):
        along = x * math.cos(quarter * math.pi / 4) + y * math.sin(quarter * math.pi / 4)
        for kernel in (along * bell, (along**2 / sigma**2 - 1) * bell):
            kernel = kernel - kernel.mean()
            kernels.append(kernel / kernel.abs().sum())
    return torch.stack(kernels)[:, None]


def _k_means(points: Tensor, count: int, seed: int) -> Tensor:
    """Return at most `count` normalised centres of normalised points (n, d), by faiss' k-means."""
    generator = torch.Generator().manual_seed(seed)
    first = points[torch.randperm(len(points), generator=generator)[:count]]
    clustering = faiss.Kmeans(
        points.shape[1],
        len(first),
        niter=_ROUNDS,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    # With one thread, the sums do not depend on the number of cores.
    with threadpool_limits(1):
        clustering.train(points.float().numpy(), init_centroids=first.float().numpy())
    return torch.from_numpy(clustering.centroids).to(points)
