"""Every verb that writes, on a file system that fails at any of its operations."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator

import numpy as np
import pytest

from diffusion import DiffusionError
from tests.support.disk import CRASHES, DELETING, READING, Crash, Disk, operations

from .server import HANGS
from .verbs import VERBS, VerbFailedError, prompt_records, register_network

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True, scope="module")
def settings() -> Iterator[None]:
    """Make this process run the verbs as the server does."""
    import torch

    from features.description import sweep
    from features.networks import backbones

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, prompt_records():
        patch.setattr(sweep, "SHARD_IMAGES", sweep.SHARD_IMAGES)
        patch.setattr(backbones, "_MAKERS", dict(backbones._MAKERS))
        register_network()
        yield
    torch.set_num_threads(threads)


def run_on(disk, verb, inputs, home):
    """Run a verb on a disk; return what it raised."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        with disk():
            verb.run(inputs, home, 1)
    except (Crash, DiffusionError, OSError, VerbFailedError) as error:
        return error
    finally:
        faulthandler.cancel_dump_traceback_later()
    return None


def check_error(error, home):
    """Check that an error is one line that names a path."""
    text = str(error)
    assert str(home) in text, f"no path in: {text!r}"
    if isinstance(error, VerbFailedError):
        assert text.count("\n") == 1, text
        assert text.startswith(("diffusion: error: ", "features: error: ")), text


def check_no_leftovers(home):
    """Check that nothing is left of what was being written, except to resume it."""
    assert not list(home.rglob("*.tmp"))
    for folder in (home, *(path for path in home.rglob("*") if path.is_dir())):
        assert len(list(folder.glob("arrays-*"))) <= 1, folder


@pytest.mark.parametrize("name", [*VERBS])
def test_a_fault_anywhere_leaves_the_old_state_or_the_new_one(round, stage, name, tmp_path):
    verb, campaign = VERBS[name], f"disk: {name}"
    faults = []
    for over in (False, True)[: 1 + verb.replaces]:
        home = stage.fresh(verb, tmp_path / "home", over=over)
        disk = Disk(home)
        assert run_on(disk, verb, stage.inputs, home) is None
        stage.check_done(verb, home)
        faults += [(over, *fault) for fault in operations(disk.log)]
    # All of them in random order.
    order = np.random.default_rng(round.seed).permutation(len(faults))
    for _ in round.cases(campaign, default=15, most=len(faults)):
        over, kind, operation = faults[order[round.case]]
        home = stage.fresh(verb, tmp_path / "home", over=over)
        before = verb.read(home)
        disk = Disk(home, kind, operation.number)
        error = run_on(disk, verb, stage.inputs, home)
        about = f"{kind} at operation {operation}, {over=}: {error!r}"
        try:
            assert disk.failed is not None
            assert isinstance(error, Crash) == (kind in CRASHES)
            # A file that cannot be deleted stays, and so does what cannot be looked at.
            deleting = disk.failed.what in DELETING | READING
            if error is None:
                round.count(campaign, "unharmed")
                if not deleting:
                    stage.check_done(verb, home)
            else:
                round.count(campaign, "crashed" if kind in CRASHES else "refused")
                stage.check_between(verb, home, before)
                if kind not in CRASHES:
                    check_error(error, home)
                    assert deleting or check_no_leftovers(home) is None
            verb.run(stage.inputs, home, 1)
            stage.check_done(verb, home)
        except (AssertionError, DiffusionError, OSError, VerbFailedError) as failure:
            raise AssertionError(about) from failure
