"""The campaigns' own machinery."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from .rounds import Round, add_to_report, table


def drawn(round, campaign="a", default=3):
    return [rng.integers(1 << 30) for rng in round.cases(campaign, default=default)]


def test_the_seed_and_the_case_determine_the_random_numbers():
    first = drawn(Round(7))
    assert drawn(Round(7)) == first
    assert len(set(first)) == 3
    assert not set(first) & {*drawn(Round(8)), *drawn(Round(7), "b")}
    assert drawn(Round(7, only=2)) == first[2:]


def test_a_budget_of_time_replaces_the_number_of_cases():
    assert len(drawn(Round(0, seconds=0.0), default=1000)) == 1
    plenty = Round(0, seconds=1e9).cases("a", default=1)
    assert len(list(islice(plenty, 50))) == 50


def test_reports_are_added_up(tmp_path):
    round = Round(0)
    for _ in round.cases("mutations", default=1200):
        round.count("mutations", "refused")
    for name in ("one.json", "two.json"):
        add_to_report(tmp_path / name, round.counts)
    add_to_report(tmp_path / "two.json", {"kills": Counter(tried=2, failed=1)})
    add_to_report(tmp_path / "two.json", {"kills: build": Counter({"tried": 3, "old state": 4})})
    assert table([tmp_path / "one.json", tmp_path / "two.json"]).splitlines()[2:] == [
        "| kills | 5 | 4 old state | 1 |",
        "| mutations | 2,400 | 2,400 refused | 0 |",
    ]


@pytest.mark.slow
def test_a_failure_says_how_to_repeat_it(pytester_campaign):
    result = pytester_campaign("--faults-seed", "5")
    assert "--faults-seed 5 --faults-case 3" in result


@pytest.fixture
def pytester_campaign(tmp_path):
    """Run a campaign whose case 3 fails, in a process of its own; return what is printed."""
    import shutil
    import subprocess
    import sys
    from pathlib import Path

    package = tmp_path / "tests" / "faults"
    package.mkdir(parents=True)
    for name in ("__init__", "conftest", "rounds"):
        shutil.copy(Path(__file__).with_name(f"{name}.py"), package)
    (package.parent / "__init__.py").touch()
    code = """
def test_it(round):
    for rng in round.cases("c", default=9):
        assert round.case < 3
"""
    (package / "test_it.py").write_text(code)

    def run(*options):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/faults"]
        return subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False
        ).stdout

    return run
