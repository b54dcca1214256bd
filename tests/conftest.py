"""Fixtures and the settings of property-based tests."""

from __future__ import annotations

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
