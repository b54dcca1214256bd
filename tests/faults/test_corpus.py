"""What the campaigns have found, reduced: damage that once crashed, hung or was not noticed.

A campaign prints a failure as a line of JSON, which is added here once it is mended.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import campaigns, indexes, inputs
from .mutations import applied
from .workers import Pool

CORPUS = Path(__file__).with_name("corpus")


def replay(campaign, lines, folder, memory):
    """Run the cases of a corpus; return how many there are of each outcome."""
    files = campaign.originals(folder / "originals")
    counts = {}
    with Pool(campaign.__name__, folder, memory=memory) as pool:
        cases = [campaigns.from_line(files, line) for line in lines]
        for case in cases:
            assert applied(files[case.target], case.delta) != files[case.target]
        for case, outcome in pool.run(cases):
            assert campaign.allowed(case, outcome), (outcome, campaigns.as_json(files, case))
            counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
    return counts


@pytest.mark.slow
def test_damaged_indexes_that_were_trouble(tmp_path):
    lines = (CORPUS / "indexes.jsonl").read_text().splitlines()
    indexes.build(tmp_path / "originals")
    counts = replay(indexes, lines, tmp_path, 1 << 30)
    # What crashed is what can be known to be wrong.
    assert counts["refused"] >= 0.9 * len(lines)


@pytest.mark.slow
def test_damaged_inputs_that_were_trouble(tmp_path):
    lines = (CORPUS / "inputs.jsonl").read_text().splitlines()
    inputs.build(tmp_path / "originals", {json.loads(line)["target"] for line in lines})
    counts = replay(inputs, lines, tmp_path, 3 << 30)
    assert counts["refused"] >= 0.5 * len(lines)
