"""The cache of compiled loops, across versions of the library."""

from __future__ import annotations

import os
import subprocess
import sys

LOOP = """
from typing import NamedTuple
import numpy as np
from diffusion.kernels.threads import serial

class {name}(NamedTuple):
    values: np.ndarray

@serial
def total(part):
    return part.values.sum()

print(int(total({name}(np.ones({ones})))))
"""


def test_a_cache_that_names_types_of_another_version_is_replaced(tmp_path):
    for name, ones in (("Old", 3), ("New", 5), ("New", 5)):
        (tmp_path / "loop.py").write_text(LOOP.format(name=name, ones=ones))
        done = subprocess.run(
            [sys.executable, "-c", "import loop"],
            env={
                **os.environ,
                "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
                "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == [str(ones)], done.stderr
    assert list((tmp_path / "cache").rglob("*.nbc"))
