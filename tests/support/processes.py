"""Processes that are killed at a given moment, or that have little memory."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


@contextlib.contextmanager
def limited_memory(extra: int = 1 << 30) -> Iterator[None]:
    """Let this process take so many bytes of address space more than it has, and no others."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
