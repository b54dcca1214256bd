"""Builds of an index as programs of their own, so that their time and memory are theirs alone.

``python -m bench.cluster.builds WHERE LISTS INDEX`` builds an index from the lists that
`tiles.Tiles.write` has written, WHERE is "single" for one process without shards, or what
`diffusion.cluster.executors.open_executor` takes, and prints the seconds of each step.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion import Reranker
from diffusion.cluster.build import build_sharded
from diffusion.cluster.executors import open_executor

from .files import RECORDS, Folder, Stage, arrays_of
from .processes import Usage, run

SINGLE = "single"


@dataclass
class Build:
    """What was measured of a build.

    Attributes
    ----------
    n : int
        Number of items.
    where : str
    shards : int
    steps : dict of str to float
        Seconds of each step; the start of workers is one, that of the program is not.
    usage : processes.Usage
    stages : dict of str to files.Stage
    index : dict of str to int
        Bytes of each array of the index.
    peak : int
        The most space in use on disk beside the given lists, in bytes.
    """

    n: int
    where: str
    shards: int
    steps: dict[str, float]
    usage: Usage
    stages: dict[str, Stage]
    index: dict[str, int]
    peak: int

    @property
    def seconds(self) -> float:
        """Seconds of all steps but the start of workers."""
        return sum(seconds for step, seconds in self.steps.items() if step != "start")

    @property
    def tasks(self) -> int:
        """Number of tasks of all stages."""
        return sum(stage.tasks for stage in self.stages.values())

    @property
    def shuffled(self) -> int:
        """Bytes of the records that tasks have sent to other shards."""
        return sum(stage.bytes.get(RECORDS, 0) for stage in self.stages.values())


def build(where: str, n: int, lists: Path, index: Path) -> Build:
    """Build an index from the lists of n items in another process.

    Parameters
    ----------
    where : str
        "single", or where tasks run.
    n : int
    lists : Path
        A folder that `Tiles.write` has written.
    index : Path
        In a folder that holds nothing else.
    """
    folder, root = Folder(index.parent), Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", __spec__.name, where, str(lists), str(index)]
    usage = run(command, folder.look, root)
    steps: dict[str, float] = json.loads(usage.output.splitlines()[-1])
    stages = folder.stages(steps.pop("begin"))
    shards = len(list(lists.glob("ids_*.npy")))
    return Build(n, where, shards, steps, usage, stages, arrays_of(index), folder.peak)


# --- the program ----------------------------------------------------------------------------------


def main(where: str, lists: str, index: str) -> None:
    """Build an index and print the seconds of each step, and when the build began."""
    steps = _single(Path(lists), index) if where == SINGLE else _sharded(where, lists, index)
    print(json.dumps(steps))


def _single(lists: Path, index: str) -> dict[str, float]:
    times = [time.time()]
    scores, ids = (
        np.concatenate([np.load(file) for file in sorted(lists.glob(f"{name}_*.npy"))])
        for name in ("scores", "ids")
    )
    times.append(time.time())
    ranker = Reranker().fit_neighbors(scores, ids)
    times.append(time.time())
    ranker.save(index)
    times.append(time.time())
    return {"begin": times[0], **dict(zip(("read", "fit", "save"), np.diff(times), strict=True))}


def _sharded(where: str, lists: str, index: str) -> dict[str, float]:
    start = time.time()
    with open_executor(where) as executor:
        begin = time.time()
        build_sharded(lists, index, executor=executor, progress=sys.stderr.isatty())
        end = time.time()
    return {"begin": begin, "start": begin - start, "build": end - begin}


if __name__ == "__main__":
    main(*sys.argv[1:])
