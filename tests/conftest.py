"""Fixtures and the settings of property-based tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# No deadline: the first example of a test may compile a kernel. Derandomised: a red run can be
# repeated.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")

# pynndescent compiles its loops in every process that uses it, for 25 seconds.
_NNDESCENT = {
    f"tests/diffusion/{name}.py"
    for name in (
        "test_copies",
        "test_filters",
        "test_reranker",
        "neighbors/test_neighbors",
        "neighbors/test_updates",
    )
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count the cases with pynndescent among the slow ones."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        values = callspec.params.values() if callspec is not None else ()
        if any("nndescent" in repr(value).lower() for value in values):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Run the files that use pynndescent in one process, and of the others each in any."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "nndescent" if file in _NNDESCENT else file

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="module")
def same_threads() -> Iterator[None]:
    """Let no file of tests leave a number of threads to the next, whose last bits it may change."""

    def set_threads() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if "_THREADS" in name}

    before = set_threads()
    yield
    assert set_threads() == before


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    """Three clusters of 40 vectors on a sphere."""
    centres = rng.standard_normal((3, 12))
    return centres[np.repeat([0, 1, 2], 40)] + 0.6 * rng.standard_normal((120, 12))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on a busy machine small maps wait long for the others."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
