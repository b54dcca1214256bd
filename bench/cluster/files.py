"""What a build writes: bytes of every stage and array, the time of every stage, the space in use.

Nothing is known of the stages but where their results are: the files of stage S for shard P are in
a folder S/P below the work folder. Stages come one after the other, so that one lasts from the last
file of the one before to its own last file, unless the build itself keeps a log of its stages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# A file of a result: stage, shard, name. One that is not complete is in a folder of another name.
_RESULT = re.compile(r"(?:.*/)?([a-z][^/]*)/(\d+)/([^/]+)\.npy")
# The array of the records that tasks send to other shards.
RECORDS = "records"
# The log of a build: a line for each stage that is done, an object with `stage` and `seconds`.
_LOG = "stages.jsonl"


@dataclass
class Stage:
    """What was seen of a stage.

    Attributes
    ----------
    tasks : int
        Number of its results.
    seconds : float
    bytes : dict of str to int
        The bytes of all shards of each array.
    """

    tasks: int = 0
    seconds: float = 0.0
    bytes: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all arrays."""
        return sum(self.bytes.values())


class Folder:
    """The files that are made and removed below a folder; `look` has to be called meanwhile.

    Parameters
    ----------
    path : path-like

    Attributes
    ----------
    peak : int
        The most space in use that was seen, in bytes; a file of two names counts once.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._log = ""
        self._sizes: dict[str, int] = {}
        self._times: dict[str, float] = {}
        self.peak = 0

    def look(self) -> None:
        """Note what is there now."""
        used: dict[tuple[int, int], int] = {}
        for file, state in _files(str(self._path)):
            used[state.st_dev, state.st_ino] = 512 * state.st_blocks
            name = os.path.relpath(file, self._path)
            self._sizes[name] = max(state.st_size, self._sizes.get(name, 0))
            self._times[name] = state.st_mtime
            if os.path.basename(file) == _LOG:
                with contextlib.suppress(OSError):
                    self._log = Path(file).read_text()
        self.peak = max(self.peak, sum(used.values()))

    def stages(self, begin: float) -> dict[str, Stage]:
        """Return the stages that have left results, in the order of time.

        The first one begins at `begin`, in seconds since the epoch.
        """
        ends: dict[str, float] = defaultdict(float)
        shards: dict[str, set[str]] = defaultdict(set)
        found: dict[str, Stage] = defaultdict(Stage)
        for name, size in self._sizes.items():
            match = _RESULT.fullmatch(name)
            if match:
                stage, shard, array = match.groups()
                ends[stage] = max(ends[stage], self._times[name])
                shards[stage].add(shard)
                own = found[stage].bytes
                own[array] = own.get(array, 0) + size
        logged = self._logged()
        before = begin
        for stage in sorted(found, key=ends.__getitem__):
            found[stage].tasks = len(shards[stage])
            found[stage].seconds = logged.get(stage, max(0.0, ends[stage] - before))
            before = ends[stage]
        return {stage: found[stage] for stage in sorted(found, key=ends.__getitem__)}

    def _logged(self) -> dict[str, float]:
        """Return the seconds of the stages in the log."""
        seconds: dict[str, float] = defaultdict(float)
        for line in self._log.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line
                entry = json.loads(line)
                seconds[entry["stage"]] += entry["seconds"]
        return dict(seconds)


def arrays_of(index: Path) -> dict[str, int]:
    """Return the bytes of each array of an index."""
    return {file.stem: file.stat().st_size for file in sorted(index.rglob("*.npy"))}


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files below a folder that are still there."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        yield from _files(entry.path)
                    else:
                        yield entry.path, entry.stat(follow_symlinks=False)
                except OSError:  # removed meanwhile
                    continue
    except OSError:
        return
