"""Processes that are killed at a given moment."""

from __future__ import annotations

import signal
import subprocess
import sys

# The process kills itself just before a file with the given ending is moved to its final name.
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
    """Run code in a new process, and kill it (SIGKILL) after `after` files of an ending.

    The code finds its arguments in `sys.argv[3:]`. One more file of the ending is complete under
    its temporary name when the process dies.
    """
    values = [str(after), ending, *map(str, arguments)]
    done = subprocess.run([sys.executable, "-c", _PRELUDE + code, *values], check=False)
    assert done.returncode == -signal.SIGKILL, "the process ended before it could be killed"


def run_whole(code: str, *arguments: object) -> None:
    """Run the same code in a new process to its end."""
    values = ["1000000", "", *map(str, arguments)]
    subprocess.run([sys.executable, "-c", _PRELUDE + code, *values], check=True)
