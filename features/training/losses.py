"""Losses for learning descriptors: contrastive, triplet and softmax."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer, check_real


def contrastive_loss(descriptors: Tensor, labels: Tensor, *, margin: float = 0.7) -> Tensor:
    """Compute the contrastive loss, averaged over all pairs of a batch.

    The loss of a pair is t ||y_i - y_j||² + (1 - t) [m - ||y_i - y_j||]_+², where t = 1 if the
    labels are equal and 0 otherwise. It pulls descriptors with equal labels together and pushes
    others at least m apart.

    Parameters
    ----------
    descriptors : Tensor, shape (b, d), floating point
        The descriptors y, b >= 2.
    labels : Tensor, shape (b,)
    margin : float > 0, default 0.7
        The distance m at and above which a pair with different labels has no loss. The distance
        of unit vectors is at most 2.

    Returns
    -------
    Tensor, shape ()
        The mean loss. At distance 0 the gradient of the second term, which is undefined, is 0.

    Raises
    ------
    DiffusionError
        If the shapes do not match or there is no pair.

    References
    ----------
    Hadsell, Chopra, LeCun. Dimensionality Reduction by Learning an Invariant Mapping. CVPR 2006.

    Examples
    --------
    Two descriptors with equal labels at distance 1, and a third one with another label at
    distances 0 and 1 from them, have the loss (1 + 0.25 + 0) / 3.

    >>> y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> round(contrastive_loss(y, torch.tensor([0, 0, 1]), margin=0.5).item(), 4)
    0.4167
    """
    margin = check_real(margin, "margin", low=0.0, strict=True)
    if descriptors.ndim != 2 or len(descriptors) < 2:
        raise DiffusionError(
            f"descriptors: expected shape (b, d), b >= 2, got {tuple(descriptors.shape)}"
        )
    if labels.shape != descriptors.shape[:1]:
        raise DiffusionError(
            f"labels: expected shape ({len(descriptors)},), one per descriptor, "
            f"got {tuple(labels.shape)}"
        )
    first, second = torch.triu_indices(
        len(labels), len(labels), offset=1, device=descriptors.device
    )
    squares = (descriptors[first] - descriptors[second]).square().sum(dim=1)
    same = labels[first] == labels[second]
    return torch.where(same, squares, _apart(squares, margin)).mean()


def tuple_contrastive_loss(
    anchors: Tensor, positives: Tensor, negatives: Tensor, *, margin: float = 0.7
) -> Tensor:
    """Compute the contrastive loss of tuples of an anchor, a positive and several negatives.

    It is the mean of ||a - p||² and [m - ||a - n||]_+² over all pairs of an anchor with its
    positive and with each of its negatives.

    Parameters
    ----------
    anchors, positives : Tensor, shape (t, d), floating point
    negatives : Tensor, shape (t, n, d)
    margin : float > 0, default 0.7

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    DiffusionError
        If the shapes do not match.

    References
    ----------
    Radenović, Tolias, Chum. CNN Image Retrieval Learns from BoW. ECCV 2016.
    """
    margin = check_real(margin, "margin", low=0.0, strict=True)
    near, far = _distances(anchors, positives, negatives)
    return (near.sum() + _apart(far, margin).sum()) / (near.numel() + far.numel())


def triplet_loss(
    anchors: Tensor, positives: Tensor, negatives: Tensor, *, margin: float = 0.1
) -> Tensor:
    """Compute the triplet loss, the mean of [m + ||a - p||² - ||a - n||²]_+ over all triplets.

    Each anchor forms one triplet with its positive and each of its negatives.

    Parameters
    ----------
    anchors, positives : Tensor, shape (t, d), floating point
    negatives : Tensor, shape (t, n, d)
    margin : float > 0, default 0.1
        The least difference of squared distances at which a triplet has no loss.

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    DiffusionError
        If the shapes do not match.

    References
    ----------
    Gordo, Almazán, Revaud, Larlus. Deep Image Retrieval. ECCV 2016.
    """
    margin = check_real(margin, "margin", low=0.0, strict=True)
    near, far = _distances(anchors, positives, negatives)
    return (margin + near[:, None] - far).clamp(min=0).mean()


class NormalizedSoftmax(nn.Module):
    """Softmax classification of unit descriptors: the cross entropy of <y, w_c> / T.

    The w_c are unit vectors, one per class, so that the loss compares cosines, as search does.

    Parameters
    ----------
    dimension : int >= 1
        Length of the descriptors.
    classes : int >= 2
        Number of classes.
    temperature : float > 0, default 0.05
        The temperature T.

    References
    ----------
    Babenko, Slesarev, Chigorin, Lempitsky. Neural Codes for Image Retrieval. ECCV 2014. Zhai, Wu.
    Classification is a Strong Baseline for Deep Metric Learning. BMVC 2019.
    """

    def __init__(self, dimension: int, classes: int, *, temperature: float = 0.05) -> None:
        super().__init__()
        dimension = check_integer(dimension, "dimension", low=1)
        classes = check_integer(classes, "classes", low=2)
        self.temperature = check_real(temperature, "temperature", low=0.0, strict=True)
        self.weight = nn.Parameter(torch.randn(classes, dimension))

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy of unit descriptors (b, d) with labels (b,) in [0, c)."""
        cosines = descriptors @ functional.normalize(self.weight).T
        return functional.cross_entropy(cosines / self.temperature, labels)


def _apart(squares: Tensor, margin: float) -> Tensor:
    """Return [m - distance]_+² for squared distances."""
    # At 0 the derivative of the root is infinite; the clamp makes the gradient 0 there.
    distances = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
    return (margin - distances).clamp(min=0).square()


def _distances(anchors: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distances (t,) to the positives and (t, n) to the negatives."""
    t, d = anchors.shape if anchors.ndim == 2 else (0, 0)
    if (
        not t
        or positives.shape != (t, d)
        or negatives.ndim != 3
        or negatives.shape != (t, negatives.shape[1], d)
        or not negatives.shape[1]
    ):
        raise DiffusionError(
            "anchors, positives, negatives: expected shapes (t, d), (t, d) and (t, n, d), got "
            f"{tuple(anchors.shape)}, {tuple(positives.shape)} and {tuple(negatives.shape)}"
        )
    near = (anchors - positives).square().sum(dim=1)
    return near, (anchors[:, None] - negatives).square().sum(dim=2)
