"""Processes that are killed at a chosen moment."""

from __future__ import annotations

import signal
import subprocess
import sys

# Kills itself when the file that it has been told of is about to take its name.
_PRELUDE = """
import os, signal, sys
replace, left = os.replace, [int(sys.argv[1])]

def dying(source, target):
    if os.fspath(target).endswith(sys.argv[2]):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = dying
"""


def run_killed(code: str, after: int, ending: str, *arguments: object) -> None:
    """Run code in a new process that SIGKILL ends, `after` files of an ending having been written.

    The code finds its arguments in `sys.argv[3:]`. One more file of the ending is written whole
    under its temporary name.
    """
    values = [str(after), ending, *map(str, arguments)]
    done = subprocess.run([sys.executable, "-c", _PRELUDE + code, *values], check=False)
    assert done.returncode == -signal.SIGKILL, "the process ended before it could be killed"


def run_whole(code: str, *arguments: object) -> None:
    """Run the same code in a new process that nothing disturbs."""
    values = ["1000000", "", *map(str, arguments)]
    subprocess.run([sys.executable, "-c", _PRELUDE + code, *values], check=True)
