"""One training of a network, epoch by epoch, and what is kept of it on disk."""

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
from diffusion.storage.directory import replacing

from ..description.recipe import checksum
from ..networks.pooling import GeM
from ..networks.retrieval_network import RetrievalNetwork
from ..networks.trained import save_trained
from ..networks.weights import read_file, write_file
from .contrastive import seeded
from .curve import write_curve
from .evaluation import leave_one_out
from .losses import NormalizedSoftmax, triplet_loss, tuple_contrastive_loss
from .photos import Photos
from .samples import Supervise, Supervision, View, draw_tuples, draw_views, labels_of_folders, mine

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


class Trainer:
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
        write_file(out / STATE, tensors, {_KEY: json.dumps(content)})
        self._show(out)

    def _restore(self, out: Path) -> int | None:
        """Take up a training where it was; return how many epochs are done, None without one."""
        if (out / STATE).exists():
            tensors, metadata = read_file(out / STATE)
            content = self._content(out / STATE, metadata.get(_KEY, ""))
            self._take(tensors)
            self.history = content["history"]
            return int(content["epoch"])
        if (out / NETWORK).exists():
            tensors, metadata = read_file(out / NETWORK)
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
