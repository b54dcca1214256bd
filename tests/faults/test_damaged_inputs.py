"""Files of every format, damaged in every way, given to the commands that read them."""

from __future__ import annotations

import pytest

from . import campaigns, inputs


@pytest.mark.faults
def test_damaged_inputs(round, tmp_path):
    campaigns.run(inputs, "damaged inputs", round, tmp_path, default=300, memory=3 << 30)
