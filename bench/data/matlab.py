"""MATLAB files: what the field keeps ground truth and descriptors in."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from diffusion.errors import DiffusionError


def read(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read variables of a .mat file.

    Parameters
    ----------
    path : Path
        Of MATLAB's versions 4 to 7; of 7.3, which is HDF5, matrices alone, where h5py is there.
    names : sequence of str
        The variables wanted.

    Returns
    -------
    dict
        Those of them that the file holds: structures as dictionaries, cells and structure arrays
        as lists or object arrays, dimensions of 1 dropped.

    Raises
    ------
    DiffusionError
        If the file cannot be read.
    """
    try:
        content = loadmat(path, variable_names=list(names), simplify_cells=True)
    except NotImplementedError:
        return _read_hdf5(path, names)
    except OSError as error:
        raise DiffusionError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # scipy's reader raises anything at all on damaged files
        raise DiffusionError(f"{path}: expected a MATLAB file ({error})") from None
    return {name: content[name] for name in names if name in content}


def _read_hdf5(path: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError:
        raise DiffusionError(
            f"{path}: a MATLAB 7.3 file, which is HDF5; expected one saved with -v7, or h5py "
            "installed"
        ) from None
    found = {}
    with h5py.File(path, "r") as file:
        for name in names:
            if name in file:
                if not hasattr(file[name], "dtype") or file[name].dtype.kind not in "fiu":
                    raise DiffusionError(
                        f"{path}: of MATLAB 7.3 files matrices are read, {name} is none; expected "
                        "a file saved with -v7"
                    )
                # HDF5 counts the dimensions from the other end.
                found[name] = np.asarray(file[name]).T
    return found
