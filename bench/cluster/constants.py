"""What an item costs in each stage of a build, from which larger builds are estimated."""

from __future__ import annotations

from ..table import Table
from .builds import Build
from .files import shuffled


def stages(each: Build) -> Table:
    """Return tasks, time and bytes of each stage of a build."""
    n = each.n
    table = Table(
        f"**Stages of a build**, {n:,} items, {each.shards} shards, {each.where}",
        ("stage", "tasks", "seconds", "µs/item", "stored, bytes/item", "shuffled, bytes/item"),
        notes=["What is not a task of a stage is the assembly of the index, by the coordinator."],
    )
    sent = shuffled(each.stages)
    for name, stage in each.stages.items():
        table.rows.append(
            [
                name,
                stage.tasks,
                stage.seconds,
                1e6 * stage.seconds / n,
                round(stage.total / n),
                round(sent[name] / n) or None,
            ]
        )
    rest = max(0.0, each.seconds - sum(stage.seconds for stage in each.stages.values()))
    table.rows.append(["(none)", None, rest, 1e6 * rest / n, None, None])
    total = round(sum(stage.total for stage in each.stages.values()) / n)
    table.rows.append(
        [
            "total",
            each.tasks,
            each.seconds,
            1e6 * each.seconds / n,
            total,
            round(each.shuffled / n),
        ]
    )
    return table


def arrays(each: Build) -> Table:
    """Return the bytes per item of every array of every stage, and of the index."""
    table = Table(
        f"**Arrays of a build**, {each.n:,} items, {each.shards} shards",
        ("stage", "array", "bytes/item"),
        notes=["Arrays of less than a tenth of a byte per item are left out."],
    )
    found = {name: stage.bytes for name, stage in each.stages.items()} | {"index": each.index}
    for stage, sizes in found.items():
        for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
            if size >= each.n / 10:
                table.rows.append([stage, name, size / each.n])
    return table
