"""What a build writes: bytes of every stage and array, the time of every stage, the space in use.

Nothing is known of the stages but where their results are: the files of stage S for shard P are in
a folder S/P below the work folder. Stages come one after the other, so that one lasts from the last
file of the one before to its own last file, unless the build itself reports what its stages took.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# A file of a result: stage, shard, name. One that is not complete is in a folder of another name.
_RESULT = re.compile(r"(?:.*/)?([a-z][^/]*)/(\d+)/([^/]+)\.npy")
# What tasks send to other shards: arrays of their results, or all of those of some stages.
_SENT = "sent_"
_SENDING = re.compile(r"sent|outgoing-.*")


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


def shuffled(stages: dict[str, Stage]) -> dict[str, int]:
    """Return the bytes of each stage that its tasks have sent to other shards, in files."""
    return {
        name: sum(
            size
            for array, size in stage.bytes.items()
            if _SENDING.fullmatch(name) or array.startswith(_SENT)
        )
        for name, stage in stages.items()
    }


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
        self.peak = max(self.peak, sum(used.values()))

    def stages(self, begin: float, reports: Sequence[Sequence[Any]] = ()) -> dict[str, Stage]:
        """Return the stages that have left results, in the order of time.

        Parameters
        ----------
        begin : float
            When the first one began, in seconds since the epoch.
        reports : sequence of sequences
            What the build says of its stages, in their order: name, tasks, seconds and bytes.
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
        stages = {}
        for stage in sorted(found, key=ends.__getitem__):
            stages[stage], end = found[stage], ends[stage]
            found[stage].tasks = len(shards[stage])
            found[stage].seconds, begin = max(0.0, end - begin), end
        return _reported(stages, reports) if reports else stages


def _reported(stages: dict[str, Stage], reports: Sequence[Sequence[Any]]) -> dict[str, Stage]:
    """Return stages with the tasks and seconds of reports; those without a report took no time."""
    found: dict[str, Stage] = {}
    for name, tasks, seconds, size in reports:
        # Results that were removed at once were not seen: their size is known, not their arrays.
        seen = stages[name].bytes if name in stages else {"(all)": int(size)} if size else {}
        before = found.get(name, Stage())
        found[name] = Stage(before.tasks + tasks, before.seconds + seconds, seen)
    return found | {name: replace(stages[name], seconds=0.0) for name in stages.keys() - found}


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
