"""MATLAB files of ground truth and descriptors.

scipy reads them; what is ours is one clear error for damaged files, and matrices of version 7.3,
which scipy does not read.
"""

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
        Of MATLAB's versions 4 to 7. Of version 7.3, which is HDF5, only matrices are read, and only
        if h5py is installed.
    names : sequence of str
        The variables to read.

    Returns
    -------
    dict
        The variables among them that the file holds: structures as dictionaries, cells and
        structure arrays as lists or object arrays; dimensions of 1 are dropped.

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
    except Exception as error:  # scipy's reader raises any kind of error on damaged files
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
                        f"{path}: {name} is no matrix, and of MATLAB 7.3 files only matrices are "
                        "read; expected a file saved with -v7"
                    )
                # HDF5 stores the dimensions in reverse order.
                found[name] = np.asarray(file[name]).T
    return found
