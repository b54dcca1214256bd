from __future__ import annotations

import subprocess
import sys

import pytest

import diffusion

HEAVY = (
    *("dask", "distributed", "faiss", "features", "matplotlib", "numba", "numpy", "pynndescent"),
    *("scipy", "sklearn", "torch", "tqdm"),
)


def fresh(code):
    """Run code in a new interpreter; return what it printed."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, diffusion; print(*(m for m in {HEAVY} if m in sys.modules))"
    assert fresh(code) == []


def test_re_ranking_loads_no_torch_and_no_features():
    code = """if True:
        import sys, numpy as np, diffusion, diffusion.cli
        diffusion.Reranker(k=2).fit(np.eye(4) + 0.1).search(np.eye(4), k=2)
        print(*(m for m in ("torch", "features", "sklearn") if m in sys.modules))
    """
    assert fresh(code) == []


def test_every_public_name_is_there():
    assert sorted(diffusion.__all__, key=str) == sorted(set(diffusion.__all__), key=str)
    for name in diffusion.__all__:
        assert getattr(diffusion, name) is not None
        assert name in dir(diffusion)
    # Names and their homes go together.
    eager = {"ConvergenceWarning", "DiffusionError", "__version__"}
    lazy = {*diffusion._HOMES, *diffusion._MODULES} - {
        "affinity", "graph", "neighbors", "solvers", "storage", "transfer",
    }  # fmt: skip
    assert set(diffusion.__all__) == eager | lazy


def test_modules_are_attributes():
    code = """if True:
        import diffusion
        from diffusion import expansion, metrics, reciprocal
        print(diffusion.neighbors.IVF.__name__, diffusion.metrics is metrics)
        print(expansion.__name__, reciprocal.__name__)
    """
    expected = "IVF True diffusion.baselines.expansion diffusion.baselines.reciprocal"
    assert fresh(code) == expected.split()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = diffusion.magic
