"""Tests that one process runs, where several processes share the suite."""

from __future__ import annotations

import pytest

# pynndescent compiles for most of a minute, in every process anew.
DESCENT = pytest.mark.xdist_group("descent")
