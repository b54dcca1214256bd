"""The threads of other libraries are left as they were."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info

# As where numba and torch load one OpenMP library: this one is loaded before either.
SHARED = """
import torch
torch.get_num_threads()
torch.set_num_threads(1)
import numpy as np, diffusion
diffusion.Reranker(k=3, affinity="cosine").fit(np.random.default_rng(0).random((50, 4)))
print(torch.get_num_threads())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD is Linux's")
def test_the_first_launch_leaves_the_threads_of_torch():
    import torch  # noqa: F401

    from diffusion.kernels import threads

    assert threads.concurrent() in (True, False)  # numba's threads are launched
    # Other names, such as faiss has for its own copy, are never what another library asks for.
    found = {
        info["filepath"]
        for info in threadpool_info()
        if info["user_api"] == "openmp" and "-" not in os.path.basename(info["filepath"])
    }
    assert found
    for library in found:
        done = subprocess.run(
            [sys.executable, "-c", SHARED],
            env={**os.environ, "LD_PRELOAD": library, "NUMBA_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "1", library
