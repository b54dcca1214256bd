"""Random sequences of API calls."""

from __future__ import annotations

import pytest

from . import calls, campaigns


@pytest.mark.faults
def test_calls(round, tmp_path):
    bounds = {"memory": 2 << 30, "limit": 300.0}  # a failure is made smaller meanwhile
    campaigns.run(calls, "sequences of calls", round, tmp_path, default=12, **bounds)
