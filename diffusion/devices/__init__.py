"""Devices: where block solvers and the contextual encoding compute.

`"cpu"` stands for the compiled loops. Every other device is one of torch's, an optional dependency
that only `devices.tensors` imports, and only when such a device is asked for.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import DiffusionError
from ..kernels.matrix import Matrix, Nodes
from .base import Blocks, ContextLoops
from .compiled import CompiledBlocks, CompiledContext

__all__ = [
    "RUN_TIME",
    "Blocks",
    "ContextLoops",
    "blocks_on",
    "check_device",
    "context_on",
    "require",
]

#: Metadata of a field of settings that an index does not store, as it depends on the machine.
RUN_TIME = {"stored": False}

# "torch:cpu" is torch on the CPU, which computes as a GPU does; it is slower than "cpu" and exists
# for tests.
_DEVICES = re.compile(r"cpu|cuda(:\d{1,3})?|torch:cpu")


def check_device(device: object) -> str:
    """Return the name of a device, which need not be present; raise an error if it is none."""
    if not isinstance(device, str) or not _DEVICES.fullmatch(device):
        raise DiffusionError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    return device


def require(device: str) -> None:
    """Raise an error unless a device is present."""
    if device != "cpu":
        _tensors(device).opened(device)


def blocks_on(device: str, matrix: Matrix, nodes: Nodes) -> Blocks:
    """Return the operations on blocks of columns for a matrix, on a device.

    Raises
    ------
    DiffusionError
        If the device is not present, or torch is not installed.
    """
    if device == "cpu":
        return CompiledBlocks(matrix, nodes)
    tensors = _tensors(device)
    return tensors.TensorBlocks(tensors.opened(device), matrix, nodes)


def context_on(device: str) -> ContextLoops:
    """Return the loops of the contextual encoding on a device.

    Raises
    ------
    DiffusionError
        If the device is not present, or torch is not installed.
    """
    if device == "cpu":
        return CompiledContext()
    tensors = _tensors(device)
    return tensors.TensorContext(tensors.opened(device))


def _tensors(device: str) -> Any:
    """Import torch, and return the module of what is written with it."""
    try:
        from . import tensors
    except ImportError as error:
        raise DiffusionError(
            f"device: {device!r} needs torch; expected an installation of "
            f"diffusion-rerank[gpu] ({error})"
        ) from None
    return tensors
