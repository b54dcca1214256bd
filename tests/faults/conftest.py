"""Options of the campaigns, and the fixture that gives them their cases."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .rounds import FAILED, Round, add_to_report

if TYPE_CHECKING:
    from .stage import Stage

_ROUND = pytest.StashKey[Round]()
_SHARES = pytest.StashKey[dict[str, float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--faults-seconds", type=float, help="time for all campaigns together")
    group.addoption("--faults-seed", type=int, help="seed of the campaigns (default random)")
    group.addoption("--faults-case", type=int, help="run this case of a campaign alone")
    group.addoption("--faults-report", type=Path, help="JSON file to write the counts to")


def pytest_configure(config: pytest.Config) -> None:
    report = config.getoption("--faults-report", None)
    if report is not None and not hasattr(config, "workerinput"):
        report.unlink(missing_ok=True)
    _seed(config)  # before the workers of xdist start


def pytest_report_header(config: pytest.Config) -> str:
    return f"faults: --faults-seed {_seed(config)}"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Divide the time among the test functions, and that of each among its parameters."""
    functions = {
        item.nodeid: item.nodeid.partition("[")[0]
        for item in session.items
        if item.get_closest_marker("faults") is not None
    }
    sizes = Counter(functions.values())
    # Each worker of xdist runs its part of them.
    workers = getattr(session.config, "workerinput", {"workercount": 1})["workercount"]
    session.config.stash[_SHARES] = {
        item: min(1.0, workers / (len(sizes) * sizes[function]))
        for item, function in functions.items()
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    round = item.stash.get(_ROUND, None)
    if report.failed and call.when == "call" and round is not None:
        line = f"python -m pytest -m '' '{item.nodeid}' --faults-seed {round.seed}"
        if round.campaign is not None:
            round.count(round.campaign, FAILED)
            line += f" --faults-case {round.case}"
        report.sections.append(("repeat", line))
    return report


@pytest.fixture
def round(request: pytest.FixtureRequest) -> Iterator[Round]:
    """Cases and counters of a campaign."""
    config = request.config
    seconds = config.getoption("--faults-seconds", None)
    if seconds is not None:
        seconds *= config.stash[_SHARES][request.node.nodeid]
    made = Round(_seed(config), seconds, config.getoption("--faults-case", None))
    request.node.stash[_ROUND] = made
    yield made
    report = config.getoption("--faults-report", None)
    if report is not None:
        add_to_report(report, made.counts)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Return the inputs of all verbs that write, and a server that runs them."""
    from .stage import staged

    yield from staged(tmp_path_factory.mktemp("stage"))


def _seed(config: pytest.Config) -> int:
    given = config.getoption("--faults-seed", None)
    if given is not None:
        return given
    # In the environment, where the workers of xdist find it too.
    return int(os.environ.setdefault("FAULTS_SEED", str(secrets.randbelow(1 << 32))))
