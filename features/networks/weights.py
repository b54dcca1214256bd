"""Reading and writing of state dicts, and loading them into networks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from diffusion.errors import DiffusionError
from diffusion.storage import as_path, errors_named, opened, replacing

from .torch_files import read_checkpoint

_SHOWN = 3
_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
}  # fmt: skip


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: a `.safetensors` file, or a file written by `torch.save`.

    Nothing in a file is run, and reading takes memory in proportion to the size of the file. From a
    dict with the key "state_dict", as training checkpoints are, only that value is taken. The
    prefix "module." of all names, which DataParallel adds, is removed.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    state : dict of str to Tensor
    meta : dict
        The metadata of a safetensors file, all strings; or the value of "meta" in a checkpoint
        of cnnimageretrieval-pytorch, plain values, numpy arrays and tensors. Otherwise empty.

    Raises
    ------
    DiffusionError
        If the file cannot be read or does not hold a state dict.
    """
    path = as_path(path, "weights")
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise DiffusionError(f"{path}: expected a file, this is a directory, pipe or device")
    content: Any
    meta: Any = {}
    if path.suffix == ".safetensors":
        content, meta = _load_safetensors(path)
    else:
        content = read_checkpoint(path)
        if isinstance(content, Mapping) and "state_dict" in content:
            meta, content = content.get("meta"), content["state_dict"]
            meta = {} if meta is None else meta
    if (
        not isinstance(meta, Mapping)
        or not isinstance(content, Mapping)
        or not all(isinstance(k, str) and _is_plain(v) for k, v in content.items())
    ):
        raise DiffusionError(f"{path}: expected a state dict of dense tensors of numbers by name")
    prefix = "module."
    if content and all(name.startswith(prefix) for name in content):
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    return dict(content), dict(meta)


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.dtype in _DTYPES
        and not (value.is_nested or value.is_meta)
    )


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        # Opened by Python first, whose errors describe the problem better.
        with opened(path, links=True), safe_open(path, framework="pt") as file:
            # Copies, since the library's tensors are mapped from the file and change with it.
            names = file.keys()
            return {name: file.get_tensor(name).clone() for name in names}, file.metadata() or {}
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DiffusionError(f"{path}: expected a safetensors file ({reason})") from None


def write_file(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], meta: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file; an interrupted write leaves the old file.

    Equal contents give files with equal bytes.

    Parameters
    ----------
    path : path-like
    state : mapping of str to Tensor
    meta : mapping of str to str, optional
        At most one entry, since safetensors writes several entries in random order.

    Raises
    ------
    DiffusionError
        If the file cannot be written, or a value is not a dense tensor of numbers.
    """
    if meta is not None and len(meta) > 1:
        raise DiffusionError(f"meta: expected at most one entry, got {len(meta)}")
    for name, value in state.items():
        if not _is_plain(value):
            raise DiffusionError(f"state: {name!r} of {value.dtype} cannot be stored")
    plain = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    try:
        # Not `save_file` of safetensors, which makes files that only their owner can read.
        with errors_named(path), replacing(as_path(path)) as file:
            file.write(save(plain, dict(meta) if meta else None))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DiffusionError(f"state: these tensors cannot be stored ({reason})") from None


def load_into(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict into a network whose names and shapes must all match.

    Parameters
    ----------
    network : torch.nn.Module
        Its parameters keep their dtypes. A network on the meta device is on the CPU afterwards.
    state : mapping of str to Tensor
        The counters `num_batches_tracked` of BatchNorm may be missing, as in old files.
    source : str
        Name of the state dict in error messages.

    Raises
    ------
    DiffusionError
        If a name is missing or unknown, a shape differs, or a value is NaN or infinite.
    """
    expected = network.state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in state and name not in counters]
    unknown = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    wrong = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    if any(wrong.values()):
        listed = "; ".join(f"{len(v)} {kind}: {_some(v)}" for kind, v in wrong.items() if v)
        name = getattr(network, "name", type(network).__name__)
        raise DiffusionError(f"{source}: expected the parameters of {name}; {listed}")
    converted = {}
    for name, value in expected.items():
        given = state.get(name, torch.zeros((), dtype=value.dtype))
        converted[name] = given.to(value.dtype).contiguous()
        if value.is_floating_point() and not bool(torch.isfinite(converted[name]).all()):
            raise DiffusionError(f"{source}: expected finite values, {name} holds NaN or infinity")
    on_meta = any(value.is_meta for value in expected.values())
    network.load_state_dict(converted, strict=True, assign=on_meta)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
