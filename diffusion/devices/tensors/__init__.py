"""The operations of `devices.base` as tensors of torch: the only package that imports torch."""

from __future__ import annotations

import warnings

import torch

from ...errors import DiffusionError
from .blocks import TensorBlocks
from .context import TensorContext

__all__ = ["TensorBlocks", "TensorContext", "opened"]

# torch says once per process that its sparse matrices in CSR form are new.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(
        torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), []
    )


def opened(device: str) -> torch.device:
    """Return the device of a name.

    Raises
    ------
    DiffusionError
        If it is not present.
    """
    if device == "torch:cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DiffusionError(
            f"device: torch {torch.__version__} finds no GPU for {device!r}; expected 'cpu' here"
        )
    found, count = torch.device(device), torch.cuda.device_count()
    if (found.index or 0) >= count:
        raise DiffusionError(f"device: expected one of {count} GPUs, from 'cuda:0', got {device!r}")
    return found
