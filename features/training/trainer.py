"""One training of a network, epoch by epoch, and what is kept of it on disk."""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from diffusion import storage
from diffusion.errors import DiffusionError

from ..networks.pooling import GeM
from ..networks.retrieval_network import RetrievalNetwork
from ..networks.trained import save_trained
from ..networks.weights import read_file, write_file
from ..settings import RunSettings, TrainingSettings
from .contrastive import seeded
from .curve import write_curve
from .evaluation import leave_one_out
from .objective import Objective
from .photos import Photos
from .samples import labels_of_folders
from .statistics import settle

NETWORK, STATE, HISTORY, CURVE = (
    "network.safetensors",
    "checkpoint.safetensors",
    "history.json",
    "curve.svg",
)
_KEY = "training"
TRAINING = storage.Format(
    "diffusion-rerank training",
    1,
    "a training",
    companions=frozenset({NETWORK, STATE, HISTORY, CURVE}),
)
# Factor on the learning rate of new parameters: the classifier, and the exponent of GeM.
_NEW = 10.0
_DECAY = 1e-4
# Default margins by loss.
MARGINS = {"softmax": None, "contrastive": 0.7, "triplet": 0.1}


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes
    ----------
    path : Path
        File of the trained network, for the `weights` of `features.NetworkSettings`.
    network : RetrievalNetwork
        In evaluation mode.
    history : list of dict
        One entry per epoch: `epoch`, where 0 is the untrained network; `loss`, the mean over the
        epoch, None for epoch 0; `map`, the mAP of the validation photos in percent, None without
        validation photos.
    """

    path: Path
    network: RetrievalNetwork
    history: list[dict[str, Any]]


class Trainer:
    """One training, which starts at the first epoch or resumes after the last complete one.

    Parameters
    ----------
    network : RetrievalNetwork
    settings : TrainingSettings
        `size` and `margin` are set.
    run : RunSettings
    photos : Photos
        Photos to train on.
    validation : Photos or None
    objective : Objective
        What is minimised.
    """

    def __init__(
        self,
        network: RetrievalNetwork,
        settings: TrainingSettings,
        run: RunSettings,
        photos: Photos,
        validation: Photos | None,
        objective: Objective,
    ) -> None:
        self.network, self.settings, self.batch_size = network, settings, run.batch_size
        self.photos, self.validation = photos, validation
        self.objective = objective
        self.progress = run.progress
        self.device = next(network.parameters()).device
        self.history: list[dict[str, Any]] = []
        self.fingerprint = ""
        new: list[nn.Parameter] = []
        if isinstance(network.pool, GeM):
            network.pool.p.requires_grad_(objective.learns_pooling)
            new.append(network.pool.p)
        if objective.head is not None:
            new += objective.head.parameters()
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
        """Fingerprint everything that this training depends on, so that it is recognised."""
        trunk = self.network.backbone
        content = [
            self._settings(),
            [None if file is None else storage.sha256_of(file) for file in (weights, pairs)],
            [trunk.name, type(self.network.pool).__name__, trunk.mean, trunk.std],
            self.objective.signature(),
            self.photos.items,
            None if self.validation is None else self.validation.items,
            torch.__version__,
            self.device.type,
        ]
        self.fingerprint = storage.fingerprint(content)

    def _settings(self) -> dict[str, Any]:
        return {
            **asdict(self.settings),
            "batch_size": self.batch_size,
            **({} if self.objective.pretext is None else {"pretext": self.objective.pretext}),
        }

    def run(self, out: Path) -> Trained:
        """Train up to the last epoch, from where an earlier run was interrupted."""
        if self._is_complete(out):
            (out / STATE).unlink(missing_ok=True)
            return Trained(out / NETWORK, self.network.cpu().eval(), self.history)
        start = self._restore(out)
        if start == 0:
            self._settle()
            self.objective.prepare(lambda: self._describe(self.photos))
            self._record(0, None)
        with tqdm(
            total=self.settings.epochs,
            initial=start,
            desc="train",
            unit="epoch",
            disable=not self.progress,
        ) as bar:
            for epoch in range(start, self.settings.epochs):
                self._record(epoch + 1, self._epoch(epoch))
                self._save(out)
                bar.set_postfix(self.history[-1], refresh=False)
                bar.update()
        self._show(out)
        save_trained(out / NETWORK, self.network.cpu())
        storage.save(out, TRAINING, {**self._content(), "settings": self._settings()}, {})
        (out / STATE).unlink(missing_ok=True)
        return Trained(out / NETWORK, self.network.eval(), self.history)

    def _settle(self) -> None:
        """Give batch normalisation the statistics of the photos, if the objective wants them."""
        if self.objective.learns_statistics:
            settle(self.network, self.photos)

    # --- an epoch --------------------------------------------------------------------------------

    def _epoch(self, epoch: int) -> float:
        """Train on every batch of an epoch and return the mean loss."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        count, steps = self.objective.steps(rng, lambda: self._describe(self.photos))
        total = 0.0
        with (
            seeded(self.settings.seed + epoch, self.device),
            contextlib.closing(steps),
            tqdm(
                total=count,
                desc=f"epoch {epoch + 1}",
                unit="batch",
                leave=False,
                disable=not self.progress,
            ) as bar,
        ):
            self._into_training()
            for number, loss in enumerate(steps):
                self._set_rate((epoch + number / count) / self.settings.epochs)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += self._finite(loss.item(), "loss")
                bar.update()
        self.network.eval()
        self._settle()
        return total / count

    def _into_training(self) -> None:
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d) and not self.objective.learns_statistics:
                module.eval()

    def _set_rate(self, progress: float) -> None:
        rate = self.settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _describe(self, photos: Photos) -> NDArray[np.float32]:
        X = photos.describe()
        self._finite(float(np.abs(X).max()), "largest value of a descriptor")
        return X

    def _finite(self, value: float, name: str) -> float:
        """Return a value, or raise if the training has diverged and it is infinite or NaN."""
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
        with storage.replacing(out / HISTORY, "w") as file:
            json.dump({"settings": self._settings(), "history": self.history}, file, indent=1)
        write_curve(
            out / CURVE,
            f"{self.network.backbone.name}, {self.objective.name}",
            [entry["loss"] for entry in self.history],
            [entry["map"] for entry in self.history],
        )

    def _save(self, out: Path) -> None:
        """Write everything that the next epoch needs, then the history and its curve."""
        tensors = {f"network.{name}": v for name, v in self.network.state_dict().items()}
        if self.objective.head is not None:
            state = self.objective.head.state_dict()
            tensors |= {f"classifier.{name}": value for name, value in state.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
        write_file(out / STATE, tensors, {_KEY: json.dumps(self._content())})
        self._show(out)

    def _content(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "history": self.history}

    def _is_complete(self, out: Path) -> bool:
        """Load the trained network if this training is complete; return whether it is."""
        try:
            manifest = storage.read_manifest(out, TRAINING)
        except DiffusionError:  # not finished, or damaged
            return False
        self.history = self._history(out / storage.MANIFEST, manifest)
        self.network.load_state_dict(read_file(out / NETWORK)[0], strict=False)
        return True

    def _restore(self, out: Path) -> int:
        """Load the state after the last complete epoch, if any; return the complete epochs."""
        if not (out / STATE).exists():
            return 0
        tensors, metadata = read_file(out / STATE)
        try:
            content = json.loads(metadata.get(_KEY, ""))
        except ValueError:
            content = None
        self.history = self._history(out / STATE, content)
        self._take(tensors)
        return len(self.history) - 1

    def _history(self, path: Path, content: Any) -> list[dict[str, Any]]:
        """Return the history of this training, or raise if a file is of another one."""
        if isinstance(content, dict) and content.get("fingerprint") == self.fingerprint:
            return list(content["history"])
        raise DiffusionError(
            f"{path}: expected this training, this one is of other photos, weights or settings. "
            "Choose another folder, or remove this one"
        )

    def _take(self, tensors: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "classifier": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.network.load_state_dict(parts["network"], strict=True)
        if self.objective.head is not None:
            self.objective.head.load_state_dict(parts["classifier"], strict=True)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, _, rest = name.partition(".")
            moments.setdefault(int(number), {})[rest] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
