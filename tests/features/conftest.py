"""Fixtures of the tests of photos."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of AlexNet's trunk."""
    import features
    from features.networks.weights import write_file

    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    write_file(path, features.backbone("alexnet", head=False).state_dict())
    return path
