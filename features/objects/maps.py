"""Saliency maps from the activations of one image: feature saliency, CroW, class activation.

Activations A are the output of a network's last convolution for an image, shape (c, h, w): A_k is
the map of channel k. A saliency map has one value per position, shape (h, w).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer, check_real

Map = NDArray[np.float32]


def as_activations(activations: Any, *, signed: bool = False) -> Map:
    """Validate activations and return them as an array (c, h, w), float32, copied only if needed.

    Parameters
    ----------
    activations : array_like or torch.Tensor, shape (c, h, w)
    signed : bool, default False
        Whether negative values are allowed.

    Raises
    ------
    DiffusionError
        If the shape is wrong, or if a value is not finite, or is negative and `signed` is false.
    """
    if hasattr(activations, "detach"):
        activations = activations.detach().cpu()
    try:
        array = np.asarray(activations, dtype=np.float32)
    except (TypeError, ValueError):
        raise DiffusionError(
            f"activations: expected numbers (c, h, w), got {type(activations).__name__}"
        ) from None
    if array.ndim != 3 or 0 in array.shape:
        raise DiffusionError(
            f"activations: expected shape (c, h, w), none of them 0, got {array.shape}"
        )
    # A sum is finite only if all of its terms are, and it needs no temporary array.
    if not np.isfinite(array.sum()) or (not signed and array.min() < 0):
        expected = "finite values" if signed else "finite values >= 0, as they are after a ReLU"
        raise DiffusionError(f"activations: expected {expected}")
    return array


def as_saliency(saliency: Any, name: str = "saliency") -> NDArray[np.float64]:
    """Validate a saliency map, shape (h, w), finite and >= 0, and return it as float64."""
    try:
        array = np.asarray(saliency, dtype=np.float64)
    except (TypeError, ValueError):
        raise DiffusionError(f"{name}: expected an array of numbers of shape (h, w)") from None
    if array.ndim != 2 or 0 in array.shape:
        raise DiffusionError(f"{name}: expected shape (h, w), neither of them 0, got {array.shape}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise DiffusionError(f"{name}: expected finite values >= 0")
    return array


def channel_weights(activations: Any, *, epsilon: float = 1e-6) -> Map:
    """Weight channels by the rarity of their responses: b_j = log(Σ_i (a_i + ε) / (a_j + ε)).

    Parameters
    ----------
    activations : array_like or torch.Tensor, shape (c, h, w), >= 0
    epsilon : float > 0, default 1e-6

    Returns
    -------
    ndarray, shape (c,), float32
        The weights b_j; a_j is the fraction of positions at which channel j is not zero.

    References
    ----------
    Kalantidis, Mellina, Osindero. Cross-Dimensional Weighting for Aggregated Deep Convolutional
    Features. ECCV Workshops 2016.
    """
    A = as_activations(activations)
    return _channel_weights(A, check_real(epsilon, "epsilon", low=0.0, strict=True))


def _channel_weights(A: Map, epsilon: float) -> Map:
    share = np.count_nonzero(A.reshape(len(A), -1), axis=1) / A[0].size + epsilon
    return np.log(share.sum() / share).astype(np.float32)


def feature_saliency(activations: Any, *, epsilon: float = 1e-6) -> Map:
    """Compute feature saliency: F = Σ_j b_j A_j, then F̂ = (F / ||F||_2)^½.

    It is large where rare features respond strongly, whether or not they belong to an object.

    Parameters
    ----------
    activations : array_like or torch.Tensor, shape (c, h, w), >= 0
    epsilon : float > 0, default 1e-6
        ε of the channel weights.

    Returns
    -------
    ndarray, shape (h, w), float32
        F̂ in [0, 1]; all zeros if no feature responds at any position.

    References
    ----------
    Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
    recognition. WACV 2018.
    """
    A = as_activations(activations)
    b = _channel_weights(A, check_real(epsilon, "epsilon", low=0.0, strict=True))
    return _root(np.tensordot(b, A, axes=1))


def crow_saliency(activations: Any) -> Map:
    """Compute CroW's spatial weights: S = Σ_k A_k, then (S / ||S||_2)^½.

    Parameters
    ----------
    activations : array_like or torch.Tensor, shape (c, h, w), >= 0

    Returns
    -------
    ndarray, shape (h, w), float32
        In [0, 1].

    References
    ----------
    Kalantidis, Mellina, Osindero. Cross-Dimensional Weighting for Aggregated Deep Convolutional
    Features. ECCV Workshops 2016.
    """
    return _root(as_activations(activations).sum(axis=0))


def class_activation(activations: Any, head: Any, label: int | None = None) -> Map:
    """Compute the class activation map M_c = Σ_k w_k^c A_k of a linear classifier on the mean of A.

    Parameters
    ----------
    activations : array_like or torch.Tensor, shape (c, h, w)
    head : array_like or torch.Tensor, shape (classes, c)
        The classifier's weights.
    label : int, optional
        The class c; by default the one with the highest score on this image, without biases.

    Returns
    -------
    ndarray, shape (h, w), float32
        M_c, with negative values replaced by 0.

    References
    ----------
    Zhou, Khosla, Lapedriza, Oliva, Torralba. Learning Deep Features for Discriminative
    Localization. CVPR 2016.
    """
    A = as_activations(activations, signed=True)
    if hasattr(head, "detach"):
        head = head.detach().cpu()
    W = np.asarray(head, dtype=np.float32)
    if W.ndim != 2 or W.shape[1] != len(A) or not len(W):
        raise DiffusionError(
            f"head: expected shape (classes, {len(A)}), a weight for each channel, got {W.shape}"
        )
    if label is None:
        label = int(np.argmax(W @ A.mean(axis=(1, 2))))
    elif check_integer(label, "label", low=0) >= len(W):
        raise DiffusionError(f"label: expected a class in [0, {len(W)}), got {label}")
    return np.maximum(np.tensordot(W[label], A, axes=1), 0)


def _root(F: Map) -> Map:
    norm = np.linalg.norm(F)
    return np.sqrt(F / norm) if norm > 0 else np.zeros_like(F)


def localisation_precision(saliency: Any, boxes: Any, stride: float, offset: float) -> float:
    """Compute the fraction of the saliency that lies inside the true boxes.

    Parameters
    ----------
    saliency : array_like, shape (h, w), >= 0
    boxes : array_like, shape (m, 4)
        Left, top, right, bottom in pixels of the image. Where boxes overlap, saliency counts once.
    stride : float > 0
        Distance between neighbouring positions in pixels.
    offset : float
        Pixel at which the cell of position 0 begins: position p covers [offset + stride p,
        offset + stride (p + 1)). A convolution of odd size with symmetric padding centres
        position p on pixel stride p, which is an offset of -stride / 2.

    Returns
    -------
    float
        In [0, 1]. A cell counts in proportion to the part that the boxes cover. NaN for a map of
        zeros.
    """
    S = as_saliency(saliency)
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DiffusionError(f"boxes: expected shape (m, 4), got {boxes.shape}")
    total = S.sum()
    if total == 0:
        return float("nan")
    return float((S * coverage(boxes, S.shape, stride, offset)).sum() / total)


def coverage(
    boxes: NDArray[np.float64], shape: tuple[int, ...], stride: float, offset: float
) -> NDArray[np.float64]:
    """Return the fraction (h, w) of each position's cell that the union of boxes (m, 4) covers."""
    cells = (boxes - offset) / stride
    # The union is a union of the rectangles between all box edges and cell edges.
    xs = np.unique(np.concatenate([cells[:, [0, 2]].ravel(), np.arange(shape[1] + 1.0)]))
    ys = np.unique(np.concatenate([cells[:, [1, 3]].ravel(), np.arange(shape[0] + 1.0)]))
    xs, ys = xs[(xs >= 0) & (xs <= shape[1])], ys[(ys >= 0) & (ys <= shape[0])]
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    inside = np.zeros((len(y), len(x)), bool)
    for left, top, right, bottom in cells:
        inside |= ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None]
    area = inside * np.diff(ys)[:, None] * np.diff(xs)[None]
    covered = np.zeros(shape)
    np.add.at(covered, (y.astype(int)[:, None], x.astype(int)[None]), area)
    return covered
