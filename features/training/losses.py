"""The losses that descriptors are learned with: contrastive, triplet, softmax."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.errors import DiffusionError
from diffusion.validation import check_integer, check_real


def contrastive_loss(descriptors: Tensor, labels: Tensor, *, margin: float = 0.7) -> Tensor:
    """Contrastive loss, the mean over all pairs of a batch.

    t ||y_i - y_j||² + (1 - t) [m - ||y_i - y_j||]_+², where t = 1 for a pair of equal labels and
    0 else: it draws pairs of the same label together and pushes the others m apart.

    Parameters
    ----------
    descriptors : Tensor, shape (b, d), floating point
        The y, b >= 2.
    labels : Tensor, shape (b,)
    margin : float > 0, default 0.7
        The distance m from which on a pair of different labels costs nothing. Unit vectors are
        at most 2 apart.

    Returns
    -------
    Tensor, shape ()
        At distance 0, where the second term has no gradient, its gradient is taken as 0.

    Raises
    ------
    DiffusionError
        If the shapes do not go together or there is no pair.

    References
    ----------
    Hadsell, Chopra, LeCun. Dimensionality Reduction by Learning an Invariant Mapping. CVPR 2006.

    Examples
    --------
    Two of one label at distance 1, and a third at distance 0 and 1 from them: (1 + 0.25 + 0) / 3.

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
            f"labels: expected shape ({len(descriptors)},), one for each descriptor, "
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
    """Contrastive loss of tuples: of each anchor with its positive and with its negatives.

    The mean over all these pairs of ||a - p||² and [m - ||a - n||]_+².

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
        If the shapes do not go together.

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
    """Triplet loss: the mean of [m + ||a - p||² - ||a - n||²]_+ over all anchors and negatives.

    Parameters
    ----------
    anchors, positives : Tensor, shape (t, d), floating point
    negatives : Tensor, shape (t, n, d)
    margin : float > 0, default 0.1
        By how much, in squared distance, a positive is to be nearer than a negative.

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    DiffusionError
        If the shapes do not go together.

    References
    ----------
    Gordo, Almazán, Revaud, Larlus. Deep Image Retrieval. ECCV 2016.
    """
    margin = check_real(margin, "margin", low=0.0, strict=True)
    near, far = _distances(anchors, positives, negatives)
    return (margin + near[:, None] - far).clamp(min=0).mean()


class NormalizedSoftmax(nn.Module):
    """Softmax classification of unit descriptors: cross entropy of <y, w_c> / T.

    The w_c are unit vectors, one a class, so that the loss compares by the cosine, as search does.

    Parameters
    ----------
    dimension : int >= 1
        Of the descriptors.
    classes : int >= 2
    temperature : float > 0, default 0.05
        The T.

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
        """Return the mean cross entropy of descriptors (b, d), unit rows, labels (b,) in [0, c)."""
        cosines = descriptors @ functional.normalize(self.weight).T
        return functional.cross_entropy(cosines / self.temperature, labels)


def _apart(squares: Tensor, margin: float) -> Tensor:
    """Return [m - distance]_+² of squared distances."""
    # The root's derivative is infinite at 0; the clamp's is 0 there, and their product is then 0.
    distances = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
    return (margin - distances).clamp(min=0).square()


def _distances(anchors: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared distances (t,) to the positives and (t, n) to the negatives."""
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
