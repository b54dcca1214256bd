"""Lists that are divided among shards, as the stages after that take them."""

from __future__ import annotations

import contextlib

from diffusion.cluster.executors import open_executor
from diffusion.cluster.final import Final
from diffusion.cluster.numbering import number_lists
from diffusion.cluster.placing import place_lists
from diffusion.cluster.shards import Shards, save
from diffusion.cluster.stages import Stages


@contextlib.contextmanager
def numbered(folder, scores, ids, count):
    """Make the stage `lists` of some lists; yield what runs the other stages and ends them."""
    n = len(ids)
    ranges = Shards(str(folder), tuple(n * p // count for p in range(count + 1)))
    ranges.folder("given", 0).parent.mkdir()
    for r in range(count):
        a, b = ranges.bounds(r)
        save(ranges.folder("given", r), {"scores": scores[a:b], "ids": ids[a:b]})
    with open_executor("threads:1") as executor:
        stages = Stages(ranges, executor, False, [])
        stages = stages.over(place_lists(stages, count))
        number_lists(stages, ranges)
        yield stages, Final(stages, ranges)
