"""Settings of the calls over folders of photos: one dataclass per group, checked when made.

The calls take them, the commands make their options from the fields and from the "Parameters"
sections below, and manifests store them as `dataclasses.asdict` returns them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from diffusion.errors import DiffusionError
from diffusion.validation import check_choice, check_integer, check_real

Triple = tuple[float, float, float]
Group = TypeVar("Group")

LOSSES = ("softmax", "contrastive", "triplet")
PRETEXTS = ("jigsaw", "context", "tracks")
REGION_GRIDS = ("rmac", "grid")
CENTRALITIES = ("katz", "degree", "none")
NODES = ("dense", "regions")
M_STEPS = ("weighted", "printed")


@dataclass(frozen=True)
class NetworkSettings:
    """The network that describes images, and how its activation maps are pooled.

    Parameters
    ----------
    backbone : str, optional
        Name of the backbone: alexnet, vgg16, resnet18, resnet50, resnet101, mobilenet_v2,
        torchvision:NAME or hf:DIRECTORY-or-NAME. Not needed if the file of weights names its
        network, as those of cnnimageretrieval-pytorch and of `features train` do.
    weights : path-like, optional
        File of weights: a state dict or a checkpoint, .safetensors or .pth. Without it a network
        that is trained starts from random weights.
    pooling : str, optional
        Pooling of the activation maps: mac, spoc, crow, gem, rmac, or a fully connected layer such
        as fc7. By default the pooling of the checkpoint, or gem for a backbone.
    mean : three float, optional
        Mean of each colour channel, for images in [0, 1], where the weights expect another one
        than the network's own.
    std : three float, optional
        Standard deviation of each colour channel, for images in [0, 1], where the weights expect
        another one than the network's own.

    Raises
    ------
    DiffusionError
        If a setting is not as described, or both `backbone` and `weights` are missing.
    """

    backbone: str | None = None
    weights: str | os.PathLike[str] | None = None
    pooling: str | None = None
    mean: Triple | None = None
    std: Triple | None = None

    def __post_init__(self) -> None:
        for name in ("backbone", "pooling"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise DiffusionError(f"{name}: expected a name, got {value!r}")
        if self.weights is not None:
            if not isinstance(self.weights, str | os.PathLike):
                raise DiffusionError(f"weights: expected a path, got {self.weights!r}")
            _put(self, weights=os.fspath(self.weights))
        elif self.backbone is None:
            raise DiffusionError(
                "backbone: expected the name of a network, or a file of weights that names it"
            )
        if self.mean is not None:
            _put(self, mean=check_triple(self.mean, "mean"))
        if self.std is not None:
            _put(self, std=check_triple(self.std, "std", positive=True))


@dataclass(frozen=True)
class ImageSettings:
    """How images are resized, and what of them is described.

    Parameters
    ----------
    size : int >= 1, default 512
        Longer side of the images in pixels; smaller images keep their size. Each side is rounded
        to one that the network takes.
    square : bool, default False
        Resize images to a square of that side instead of keeping their aspect ratio.
    scales : sequence of float in (0, 8], default (1.0,)
        Scales of the image over which its descriptor is averaged; `features.MULTI_SCALE` holds the
        usual three.
    regions : {"rmac", "grid"}, optional
        Also describe regions of each image: those of R-MAC, or those of a regular grid.

    Raises
    ------
    DiffusionError
        If a setting is not as described.
    """

    size: int = 512
    square: bool = False
    scales: tuple[float, ...] = (1.0,)
    regions: str | None = None

    def __post_init__(self) -> None:
        size = check_integer(self.size, "size", low=1)
        _put(self, size=size, square=bool(self.square), scales=check_scales(self.scales))
        if self.regions is not None:
            check_choice(self.regions, "regions", REGION_GRIDS)


@dataclass(frozen=True)
class RunSettings:
    """How the work is done.

    Parameters
    ----------
    batch_size : int >= 1, default 32
        Images per batch, fewer if they are large. In training, images per step of the optimiser,
        at least 2.
    workers : int >= 1, optional
        Threads that decode images; by default one per core, at most 8.
    device : str, optional
        Device of the network, such as cpu or cuda:1; by default a GPU if there is one.
    progress : bool, default False
        Show progress bars on standard error.

    Raises
    ------
    DiffusionError
        If a setting is not as described.
    """

    batch_size: int = 32
    workers: int | None = None
    device: str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        _put(self, batch_size=check_integer(self.batch_size, "batch_size", low=1))
        if self.workers is not None:
            _put(self, workers=check_integer(self.workers, "workers", low=1))


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Parameters
    ----------
    loss : {"softmax", "contrastive", "triplet"}, default "contrastive"
        Loss function.
    epochs : int >= 1, default 10
        Number of epochs.
    size : int >= 1, optional
        Side of the squares that the network is trained on, and longer side of validation photos;
        by default the side that the backbone was trained on.
    learning_rate : float > 0, default 1e-4
        Learning rate of AdamW at the start; it decreases to 0 along a cosine.
    margin : float > 0, optional
        Margin of the loss; by default 0.7 for contrastive and 0.1 for triplet.
    negatives : int >= 1, default 3
        Non-matching photos per anchor.
    anchors : int >= 1, default 2000
        Anchors per epoch, at most one per photo.
    neighbors : int >= 1, default 50
        Neighbours per photo that mining considers.
    seed : int >= 0, default 0
        Seed of all that is random.

    Raises
    ------
    DiffusionError
        If a setting is not as described.
    """

    loss: str = "contrastive"
    epochs: int = 10
    size: int | None = None
    learning_rate: float = 1e-4
    margin: float | None = None
    negatives: int = 3
    anchors: int = 2000
    neighbors: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.loss, "loss", LOSSES)
        for name in ("epochs", "negatives", "anchors", "neighbors"):
            _put(self, **{name: check_integer(getattr(self, name), name, low=1)})
        if self.size is not None:
            _put(self, size=check_integer(self.size, "size", low=1))
        for name in ("learning_rate", "margin"):
            value = getattr(self, name)
            if name != "margin" or value is not None:
                _put(self, **{name: check_real(value, name, low=0.0, strict=True)})
        _put(self, seed=check_integer(self.seed, "seed", low=0))


@dataclass(frozen=True)
class EGMSettings:
    """The expanding Gaussian mixture (EGM) that finds the regions of a saliency map.

    `features.EGM` says what it computes.

    Parameters
    ----------
    exponent : float > 0, default 1
        Exponent ρ of the map, which is divided by its maximum before.
    threshold : float in [0, 1), default 0
        Values below this part of the maximum are set to 0.
    sigma : float > 0, default 0.7
        Standard deviation σ in cells of a position, and of every component at the start.
    m_step : {"weighted", "printed"}, default "weighted"
        With "weighted" each position counts by its saliency in every M-step, so that components
        move to where saliency is. With "printed" all positions count alike, as the paper prints
        it, and saliency acts through the initial weights and the threshold alone. Weighted regions
        cover the true objects better.
    expansion : float in [0, 1), default 0
        Expansion λ; see `features.objects.egm.fit_points`. Above 0 neighbouring components merge.
    purge : float in [0, 1], default 0.55
        Threshold τ of the purge; see `features.objects.egm.fit_points`.
    max_iter : int >= 1, default 15
        Largest number of iterations.

    Raises
    ------
    DiffusionError
        If a setting is not as described.
    """

    exponent: float = 1.0
    threshold: float = 0.0
    sigma: float = 0.7
    m_step: str = "weighted"
    expansion: float = 0.0
    purge: float = 0.55
    max_iter: int = 15

    def __post_init__(self) -> None:
        check_real(self.exponent, "exponent", low=0.0, strict=True)
        check_real(self.threshold, "threshold", low=0.0, high=1.0)
        check_real(self.sigma, "sigma", low=0.0, strict=True)
        check_choice(self.m_step, "m_step", M_STEPS)
        check_real(self.expansion, "expansion", low=0.0, high=1.0)
        check_real(self.purge, "purge", low=0.0, high=math.nextafter(1.0, 2.0))
        check_integer(self.max_iter, "max_iter", low=1)


@dataclass(frozen=True)
class DiscoverySettings:
    """How recurring objects are found; `features.ObjectDiscovery` has the formulas.

    The defaults are not those of the paper, which are nodes="regions", centrality="katz",
    feature_exponent=2, region_exponent=3, border=False.

    Parameters
    ----------
    nodes : {"dense", "regions"}, default "dense"
        Nodes of the graph of the collection. "dense": every second cell in both directions with
        strong features, so that an object has several nodes. "regions": the regions that a mixture
        finds on feature saliency, as in the paper; a few per photo.
    feature_egm : EGMSettings, default EGMSettings(exponent=4, threshold=0.4)
        Mixture that finds the nodes "regions" on feature saliency, which is spread widely and
        needs sharpening.
    object_egm : EGMSettings, default EGMSettings(exponent=1, threshold=0.4)
        Mixture that finds the regions of a map of peaks, for the descriptor of a photo.
    dimension : int >= 1, default 128
        Dimension of the whitened descriptors of nodes; smaller if the nodes span fewer directions.
    k : int >= 1, default 10
        Neighbours per node in the graph.
    beta : float > 0, default 8
        Exponent of the similarity in the graph.
    alpha : float in [0, 1), default 0.99
        Parameter α of Katz centrality.
    centrality : {"katz", "degree", "none"}, default "degree"
        Centrality g of a node in the graph. The degree costs nothing to compute; its maps were
        more precise than those of Katz centrality on all photo sets that both were compared on,
        and its boxes better, except on objects that fill most of the photo. If most nodes are
        connected, Katz centrality is nearly the square root of the degree; if the graph has many
        small components it is not. With "none", g = 1, for comparison.
    neighbors : int >= 1, default 10
        Nearest nodes that the sum of a position is taken over.
    map_beta : float > 0, default 3
        Exponent β of the similarity in that sum. Larger values make peaks sharper, and entirely
        wrong more often.
    feature_exponent : float >= 0, default 1
        Exponent Θ of the feature saliency of a position.
    feature_threshold : float in [0, 1), default 0.4
        Positions whose feature saliency is below this part of its maximum are left out: smooth
        ground and borders occur in every image and resemble each other, however weak they are.
    region_exponent : float >= 0, default 1
        Exponent θ of the feature saliency of a node.
    patch : int >= 1, odd, default 3
        Side of the patch around a position, in cells of the map.
    border : bool, default True
        Reduce the saliency of positions that are connected to the border of the photo through
        similar ones, which are background wherever objects do not fill the border.
    restart : float in (0, 1), default 0.02
        Restart probability of the random walk over similar cells that extends peaks to whole
        objects. Larger values keep saliency closer to the peaks.

    Raises
    ------
    DiffusionError
        If a setting is not as described.
    """

    nodes: str = "dense"
    feature_egm: EGMSettings = EGMSettings(exponent=4.0, threshold=0.4)
    object_egm: EGMSettings = EGMSettings(exponent=1.0, threshold=0.4)
    dimension: int = 128
    k: int = 10
    beta: float = 8.0
    alpha: float = 0.99
    centrality: str = "degree"
    neighbors: int = 10
    map_beta: float = 3.0
    feature_exponent: float = 1.0
    feature_threshold: float = 0.4
    region_exponent: float = 1.0
    patch: int = 3
    border: bool = True
    restart: float = 0.02

    def __post_init__(self) -> None:
        check_choice(self.nodes, "nodes", NODES)
        for name in ("feature_egm", "object_egm"):
            _put(self, **{name: _check_egm(getattr(self, name), name)})
        for name in ("dimension", "k", "neighbors", "patch"):
            _put(self, **{name: check_integer(getattr(self, name), name, low=1)})
        for name in ("beta", "map_beta"):
            _put(self, **{name: check_real(getattr(self, name), name, low=0.0, strict=True)})
        for name in ("feature_exponent", "region_exponent"):
            _put(self, **{name: check_real(getattr(self, name), name, low=0.0)})
        for name in ("alpha", "feature_threshold"):
            _put(self, **{name: check_real(getattr(self, name), name, low=0.0, high=1.0)})
        restart = check_real(self.restart, "restart", low=0.0, high=1.0, strict=True)
        _put(self, restart=restart)
        check_choice(self.centrality, "centrality", CENTRALITIES)
        if not isinstance(self.border, bool):
            raise DiffusionError(f"border: expected True or False, got {self.border!r}")
        if self.patch % 2 == 0:
            raise DiffusionError(f"patch: expected an odd number of cells, got {self.patch}")


def as_settings(value: Any, name: str, kind: type[Group]) -> Group:
    """Return settings of a kind, the default ones for None, or raise naming the argument."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise DiffusionError(f"{name}: expected {kind.__name__}(...), got {value!r}")
    return value


def check_triple(values: Any, name: str, *, positive: bool = False) -> Triple:
    """Return three numbers, a mean or a standard deviation of each channel, as floats."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 3:
        raise DiffusionError(f"{name}: expected three numbers, one per channel, got {values!r}")
    red, green, blue = (check_real(v, name, low=0.0, high=256.0, strict=positive) for v in values)
    return red, green, blue


def check_scales(scales: Any) -> tuple[float, ...]:
    """Return the scales as a tuple of floats, at least one, each in (0, 8]."""
    if isinstance(scales, str) or not isinstance(scales, Sequence) or not len(scales):
        raise DiffusionError(f"scales: expected one number or more, got {scales!r}")
    return tuple(check_real(s, "scales", low=0.0, high=8.000001, strict=True) for s in scales)


def _put(settings: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass to their checked values, while it is being made."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def _check_egm(egm: Any, name: str) -> EGMSettings:
    """Return the settings of a mixture, also from the mapping that a manifest stores."""
    if isinstance(egm, Mapping):
        try:
            return EGMSettings(**egm)
        except TypeError as error:
            raise DiffusionError(f"{name}: {error}") from None
    if not isinstance(egm, EGMSettings):
        raise DiffusionError(f"{name}: expected EGMSettings(...) or EGM(...), got {egm!r}")
    return egm
