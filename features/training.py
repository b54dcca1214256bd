"""Learning descriptors from a folder of photos, resumable after every epoch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from diffusion.errors import DiffusionError
from diffusion.storage import as_path, lock_directory, replacing, unlock
from diffusion.validation import check_choice, check_integer, check_real

from . import safetensors
from .checkpoint import check_stored, save_trained
from .curve import write_curve
from .evaluation import leave_one_out
from .images import quiet
from .learn import seeded
from .loading import check_workers
from .losses import NormalizedSoftmax, triplet_loss, tuple_contrastive_loss
from .network import RetrievalNetwork
from .photos import Photos
from .pooling import GeM
from .recipe import (
    Describer,
    Recipe,
    check_statistics,
    checksum,
    choose_device,
    load_network,
)
from .samples import (
    Supervise,
    Supervision,
    View,
    draw_tuples,
    draw_views,
    labels_of_folders,
    mine,
    supervise,
)

LOSSES = ("softmax", "contrastive", "triplet")
MARGINS = {"softmax": 0.0, "contrastive": 0.7, "triplet": 0.1}
NETWORK, STATE, HISTORY, CURVE = (
    "network.safetensors",
    "checkpoint.safetensors",
    "history.json",
    "curve.svg",
)
_KEY = "training"
# What is new learns faster than what is there: the classifier, and GeM's exponent.
_NEW = 10.0
_DECAY = 1e-4


@dataclass(frozen=True)
class Settings:
    """What a training depends on, but for the photos and the weights."""

    loss: str
    epochs: int
    size: int
    batch_size: int
    learning_rate: float
    margin: float
    negatives: int
    anchors: int
    neighbors: int
    seed: int


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Attributes
    ----------
    path : Path
        Of the trained network, a file for the `weights` of `features.extract_folder`.
    network : RetrievalNetwork
        In evaluation mode.
    history : list of dict
        `epoch`, from 0, the untrained network; `loss`, the mean over the epoch; `map`, the mAP of
        the validation photos in percent. None where there is none.
    """

    path: Path
    network: RetrievalNetwork
    history: list[dict[str, Any]]


def train_folder(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    loss: str = "contrastive",
    pairs: str | os.PathLike[str] | None = None,
    manifold: bool = False,
    validation: str | os.PathLike[str] | None = None,
    epochs: int = 10,
    size: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    margin: float | None = None,
    negatives: int = 3,
    anchors: int = 2000,
    neighbors: int = 50,
    seed: int = 0,
    workers: int | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Trained:
    """Train a network on a folder of photos.

    Photos of one folder are of one class, unless `pairs` or `manifold` says otherwise. With the
    contrastive and the triplet loss, tuples are mined anew before each epoch, with the network
    of then: an anchor, a photo that matches, and the hardest photos that do not. Each time a
    photo is seen, it is another part of it, squashed to a square, lighter or darker. Batch
    normalisation keeps its statistics.

    Equal photos, weights, settings and seed give equal networks on the same machine, also where
    the training was interrupted: the same call goes on after the last whole epoch.

    Parameters
    ----------
    folder : path-like
        Read with the folders in it; what is no image is left out.
    out : path-like
        A folder that is a training, is empty or does not exist. It receives
        `network.safetensors`, `history.json` and `curve.svg`.
    backbone, weights, pooling, mean, std
        As `features.extract_folder` takes them. Without weights the network learns from nothing.
    loss : {"softmax", "contrastive", "triplet"}, default "contrastive"
    pairs : path-like, optional
        Lines of two matching files with a tab between.
    manifold : bool, default False
        Learn without labels, from what `features.mining.mine_manifold` finds.
    validation : path-like, optional
        A folder with a folder a class: its mAP, each photo a query, is measured every epoch.
    epochs : int >= 1, default 10
    size : int >= 1, optional
        Side of the squares that are learned from, and longest side of validation photos; by
        default what the trunk was trained on.
    batch_size : int >= 2, default 32
        Images at a time, whole tuples of them.
    learning_rate : float > 0, default 1e-4
        Of AdamW at the beginning; it goes down to 0 along a cosine.
    margin : float > 0, optional
        By default 0.7 for the contrastive loss, 0.1 for the triplet loss.
    negatives : int >= 1, default 3
        Of each anchor.
    anchors : int >= 1, default 2000
        Tuples an epoch, at most one a photo.
    neighbors : int >= 1, default 50
        The k of `mine_manifold`.
    seed : int >= 0, default 0
    workers, device, progress
        As for `features.extract_folder`.

    Returns
    -------
    Trained

    Raises
    ------
    DiffusionError
        If an argument is not as described, there is nothing to learn from, or `out` holds
        anything else, or another training.

    References
    ----------
    Radenović, Tolias, Chum. CNN Image Retrieval Learns from BoW. ECCV 2016. Iscen, Tolias,
    Avrithis, Chum. Mining on Manifolds: Metric Learning without Labels. CVPR 2018.
    """
    check_choice(loss, "loss", LOSSES)
    if loss == "softmax" and (manifold or pairs is not None):
        raise DiffusionError("loss: 'softmax' needs classes, not pairs or a manifold")
    network = load_network(backbone, weights, pooling, seed=check_integer(seed, "seed", low=0))
    check_stored(network)
    settings = Settings(
        loss,
        check_integer(epochs, "epochs", low=1),
        network.backbone.sides.nearest(
            network.backbone.input_size if size is None else check_integer(size, "size", low=1)
        ),
        check_integer(batch_size, "batch_size", low=2),
        check_real(learning_rate, "learning_rate", low=0.0, strict=True),
        MARGINS[loss] if margin is None else check_real(margin, "margin", low=0.0, strict=True),
        check_integer(negatives, "negatives", low=1),
        check_integer(anchors, "anchors", low=1),
        check_integer(neighbors, "neighbors", low=1),
        seed,
    )
    statistics = check_statistics(mean, std)
    recipe = Recipe(size=settings.size, mean=statistics["mean"], std=statistics["std"])
    known = supervise(pairs=pairs, manifold=manifold)
    workers = check_workers(workers)
    chosen = choose_device(device)
    out = as_path(out, "out")
    _check_target(out)
    with quiet():
        describer = Describer(recipe, network, device=chosen)
        photos = Photos(folder, describer, workers, progress)
        judged = None
        if validation is not None:
            judged = Photos(validation, describer, workers, progress)
        training = _Training(network, settings, photos, judged, known, progress)
        training.sign(weights, pairs)
        try:
            lock = lock_directory(out, wait=False)
        except BlockingIOError:
            raise DiffusionError(f"{out}: another training is writing here") from None
        except OSError as error:
            raise DiffusionError(f"{out}: cannot be written ({error.strerror})") from None
        try:
            return training.run(out)
        except OSError as error:
            reason = error.strerror or error
            raise DiffusionError(f"{out}: cannot be written ({reason})") from None
        finally:
            unlock(lock)


def _check_target(out: Path) -> None:
    """Raise unless `out` is a training, is empty or does not exist."""
    if out.exists() and not out.is_dir():
        raise DiffusionError(f"{out}: expected a directory, this is a file")
    ours = {NETWORK, STATE, HISTORY, CURVE}
    for entry in out.iterdir() if out.exists() else ():
        if entry.name not in ours and not entry.name.endswith(".tmp"):
            raise DiffusionError(
                f"{out}: expected a training or an empty directory, found {entry.name!r}"
            )


class _Training:
    """One training, from the first epoch, or the one after the last whole one, to the end."""

    def __init__(
        self,
        network: RetrievalNetwork,
        settings: Settings,
        photos: Photos,
        validation: Photos | None,
        known: Supervise,
        progress: bool,
    ) -> None:
        self.network, self.settings = network, settings
        self.photos, self.validation = photos, validation
        self.known: Supervision = known(photos.files)
        self.progress = progress
        self.device = next(network.parameters()).device
        self.history: list[dict[str, Any]] = []
        self.fingerprint = ""
        new: list[nn.Parameter] = []
        if isinstance(network.pool, GeM):
            network.pool.p.requires_grad_()
            new.append(network.pool.p)
        self.classifier: NormalizedSoftmax | None = None
        if settings.loss == "softmax":
            with seeded(settings.seed, torch.device("cpu")):
                classifier = NormalizedSoftmax(network.dimension, self.known.classes)
            self.classifier = classifier.to(self.device)
            new += self.classifier.parameters()
        of_new = {id(parameter) for parameter in new}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in network.parameters() if id(p) not in of_new], "factor": 1.0},
                {"params": new, "factor": _NEW, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            weight_decay=_DECAY,
        )

    def sign(
        self, weights: str | os.PathLike[str] | None, pairs: str | os.PathLike[str] | None
    ) -> None:
        """Make out what this training depends on, to know it again."""
        trunk = self.network.backbone
        content = [
            asdict(self.settings),
            [None if file is None else checksum(file) for file in (weights, pairs)],
            [trunk.name, type(self.network.pool).__name__, trunk.mean, trunk.std],
            self.known.labels is None,
            self.photos.items,
            None if self.validation is None else self.validation.items,
            torch.__version__,
            self.device.type,
        ]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def run(self, out: Path) -> Trained:
        """Go on to the last epoch."""
        start = self._restore(out)
        if start is None:
            self._imprint()
            self._record(0, None)
            start = 0
        with tqdm(
            total=self.settings.epochs,
            initial=start,
            desc="train",
            unit="epoch",
            disable=not self.progress,
        ) as bar:
            for epoch in range(start, self.settings.epochs):
                self._record(epoch + 1, self._epoch(epoch))
                self._save(out, epoch + 1)
                bar.set_postfix(self.history[-1], refresh=False)
                bar.update()
        self._show(out)
        more = {_KEY: {"fingerprint": self.fingerprint, "history": self.history}}
        save_trained(out / NETWORK, self.network.cpu(), more)
        (out / STATE).unlink(missing_ok=True)
        return Trained(out / NETWORK, self.network.eval(), self.history)

    def _imprint(self) -> None:
        """Begin with the classes' mean descriptors as the classifier's weights.

        Random weights would first pull the descriptors apart to suit themselves. Source: Qi,
        Brown, Lowe. Low-Shot Learning with Imprinted Weights. CVPR 2018.
        """
        if self.classifier is None:
            return
        assert self.known.labels is not None
        X = torch.from_numpy(self._describe(self.photos)).to(self.device)
        labels = torch.from_numpy(self.known.labels).to(self.device)
        with torch.no_grad():
            self.classifier.weight.zero_().index_add_(0, labels, X)
            self.classifier.weight.copy_(functional.normalize(self.classifier.weight))

    # --- an epoch --------------------------------------------------------------------------------

    def _epoch(self, epoch: int) -> float:
        """Learn from every batch of an epoch; return the mean loss."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, epoch])
        if self.classifier is not None:
            order = rng.permutation(len(self.photos.items))
            batches = np.array_split(order, math.ceil(len(order) / settings.batch_size))
        else:
            X = self._describe(self.photos)
            mined = mine(self.known, X, settings.negatives, settings.neighbors)
            tuples = draw_tuples(mined, settings.anchors, settings.negatives, rng)
            count = max(1, settings.batch_size // tuples.shape[1])
            parts = np.array_split(tuples, math.ceil(len(tuples) / count))
            batches = [part.reshape(-1) for part in parts]
        views = draw_views([self.photos.sizes[n] for batch in batches for n in batch], rng)
        total, seen = 0.0, 0
        with (
            seeded(settings.seed + epoch, self.device),
            contextlib.closing(self.photos.views(batches, views)) as squares,
            tqdm(
                total=len(batches),
                desc=f"epoch {epoch + 1}",
                unit="batch",
                leave=False,
                disable=not self.progress,
            ) as bar,
        ):
            self._into_training()
            for number, (batch, images) in enumerate(zip(batches, squares, strict=True)):
                self._set_rate((epoch + number / len(batches)) / settings.epochs)
                self.optimizer.zero_grad()
                loss = self._loss(batch, images, views[seen : seen + len(batch)])
                loss.backward()
                self.optimizer.step()
                total += self._finite(loss.item(), "loss")
                seen += len(batch)
                bar.update()
        self.network.eval()
        return total / len(batches)

    def _into_training(self) -> None:
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def _set_rate(self, progress: float) -> None:
        rate = self.settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _loss(self, batch: NDArray[np.int64], images: Tensor, views: Sequence[View]) -> Tensor:
        gains, offsets = (
            torch.tensor([getattr(view, name) for view in views], device=self.device)
            for name in ("gain", "offset")
        )
        x = images.to(self.device).permute(0, 3, 1, 2).float() / 255
        x = (x * gains.view(-1, 1, 1, 1) + offsets.view(-1, 1, 1, 1)).clamp(0, 1)
        y = self.network(self.network.backbone.normalize(x))
        if self.classifier is not None:
            assert self.known.labels is not None
            labels = torch.from_numpy(self.known.labels[batch]).to(self.device)
            return self.classifier(y, labels)
        y = y.view(-1, 2 + self.settings.negatives, y.shape[1])
        compare = triplet_loss if self.settings.loss == "triplet" else tuple_contrastive_loss
        return compare(y[:, 0], y[:, 1], y[:, 2:], margin=self.settings.margin)

    def _describe(self, photos: Photos) -> NDArray[np.float32]:
        X = photos.describe()
        self._finite(float(np.abs(X).max()), "largest value of a descriptor")
        return X

    def _finite(self, value: float, name: str) -> float:
        """Return what a training that runs away makes infinite or NaN, or raise."""
        if not math.isfinite(value):
            raise DiffusionError(
                f"learning_rate: the {name} is {value} after {len(self.history)} epochs; expected "
                f"a smaller rate than {self.settings.learning_rate:g}"
            )
        return value

    def _record(self, epoch: int, loss: float | None) -> None:
        precision = None
        if self.validation is not None:
            X = self._describe(self.validation)
            found = leave_one_out(X, labels_of_folders(self.validation.files))
            if not np.isnan(found).all():
                precision = 100 * float(np.nanmean(found))
        self.history.append({"epoch": epoch, "loss": loss, "map": precision})

    # --- on disk ---------------------------------------------------------------------------------

    def _show(self, out: Path) -> None:
        with replacing(out / HISTORY, "w") as file:
            json.dump({"settings": asdict(self.settings), "history": self.history}, file, indent=1)
        write_curve(
            out / CURVE,
            f"{self.network.backbone.name}, {self.settings.loss} loss",
            [entry["loss"] for entry in self.history],
            [entry["map"] for entry in self.history],
        )

    def _save(self, out: Path, epoch: int) -> None:
        """Write everything that the next epoch needs, then what people look at."""
        tensors = {f"network.{name}": v for name, v in self.network.state_dict().items()}
        if self.classifier is not None:
            tensors["classifier.weight"] = self.classifier.weight.detach()
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
        content = {"fingerprint": self.fingerprint, "epoch": epoch, "history": self.history}
        safetensors.write(out / STATE, tensors, {_KEY: json.dumps(content)})
        self._show(out)

    def _restore(self, out: Path) -> int | None:
        """Take up a training where it was; return how many epochs are done, None without one."""
        if (out / STATE).exists():
            tensors, metadata = safetensors.read(out / STATE)
            content = self._content(out / STATE, metadata.get(_KEY, ""))
            self._take(tensors)
            self.history = content["history"]
            return int(content["epoch"])
        if (out / NETWORK).exists():
            tensors, metadata = safetensors.read(out / NETWORK)
            text = json.loads(metadata.get("features", "{}")).get(_KEY)
            content = self._content(out / NETWORK, json.dumps(text))
            self.network.load_state_dict(tensors, strict=False)
            self.history = content["history"]
            return self.settings.epochs
        return None

    def _content(self, path: Path, text: str) -> dict[str, Any]:
        try:
            content = json.loads(text)
            if content["fingerprint"] == self.fingerprint:
                return dict(content)
        except (ValueError, TypeError, KeyError):
            pass
        raise DiffusionError(
            f"{path}: expected this training or none; of other photos, weights or settings. Choose "
            "another folder, or remove it"
        )

    def _take(self, tensors: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "classifier": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.network.load_state_dict(parts["network"], strict=True)
        if self.classifier is not None:
            self.classifier.load_state_dict(parts["classifier"], strict=True)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, _, rest = name.partition(".")
            moments.setdefault(int(number), {})[rest] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
