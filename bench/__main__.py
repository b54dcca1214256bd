"""Run a benchmark: `python -m bench NAME`, with the name of one of `BENCHMARKS`.

A benchmark prints its tables as Markdown as soon as they are measured. Data that are not part of
the project are looked for in the directory that the environment variable DIFFUSION_DATA names;
what needs absent data is skipped.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from diffusion.errors import DiffusionError

from .cluster.benchmark import SECTIONS as CLUSTER_SECTIONS
from .objects import SECTIONS
from .quality import DATASETS
from .table import measurement, write_json

# Each benchmark: its package, whose module `benchmark` has `run`, and what it measures.
BENCHMARKS = {
    "quality": ("bench.quality", "quality of the rankings of every method"),
    "text": ("bench.text", "quality of rankings of texts by several embeddings"),
    "confidence": ("bench.confidence", "confidence of rankings, cautious rankings and their cut"),
    "tune": ("bench.tuning", "gain of parameters that are chosen from ten labelled queries"),
    "rivals": ("bench.rivals", "quality of published methods on the whole survey; takes an hour"),
    "speed": ("bench.speed", "speed and memory of graph construction and of every solver"),
    "live": ("bench.live", "time, quality and files of a collection that items come to and leave"),
    "serve": ("bench.serve", "speed and steadiness of the service, under load and updates"),
    "cluster": ("bench.cluster", "builds over shards and queries on their large indexes"),
    "gpu": ("bench.gpu", "speed of building and re-ranking on a GPU"),
    "features": ("bench.photos", "quality of descriptors of photos and speed of extraction"),
    "pretext": ("bench.pretext", "descriptors of networks that learn without labels"),
    "objects": ("bench.objects", "quality and speed of object discovery"),
}


def main() -> int:
    """Run a benchmark, print its tables and, if asked, write them as JSON."""
    arguments = parser()
    options = vars(arguments.parse_args())
    name, json = options.pop("benchmark"), options.pop("json")
    package, _ = BENCHMARKS[name]
    measured = measurement(command_of(name, options))
    try:
        benchmark = importlib.import_module(f"{package}.benchmark")
        measured.tables = list(benchmark.run(**options))
    except DiffusionError as error:
        arguments.error(str(error))
    if json:
        write_json(json, measured)
    return 0


def command_of(name: str, options: Mapping[str, Any]) -> str:
    """Return the command of a benchmark with the options that are given, without its folders.

    A folder of scratch files is left out, and one of data is called DIR: where they are is no
    part of what is measured.
    """
    words = ["python", "-m", "bench", name]
    for option, value in options.items():
        if value in (None, False) or option == "folder":
            continue
        words.append(f"--{option.replace('_', '-')}")
        if option == "descriptors":
            words.append("DIR")
        elif value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command; a benchmark's options are the arguments of its `run`."""
    layout = argparse.RawDescriptionHelpFormatter
    command = argparse.ArgumentParser(
        "python -m bench", description=__doc__, formatter_class=layout
    )
    benchmarks = command.add_subparsers(dest="benchmark", required=True)
    options = {}
    for name, (_, measured) in BENCHMARKS.items():
        options[name] = benchmarks.add_parser(
            name, help=measured, description=f"Measure the {measured}."
        )
        options[name].add_argument("--json", metavar="FILE", help="write the figures to a file too")
    options["quality"].add_argument(
        "--dataset", choices=DATASETS, help="measure your descriptors of this data set"
    )
    options["quality"].add_argument(
        "--descriptors",
        metavar="DIR",
        help="with --dataset: the descriptors, laid out as bench/data/descriptors.py says",
    )
    for name, more in (
        ("quality", "with --dataset: also a spectral solver of rank 5000"),
        ("speed", "also the large eigenproblem"),
        ("serve", "a soak of 100,000 requests"),
        ("features", "also trainings"),
        ("pretext", "also trainings on photos of groceries"),
    ):
        options[name].add_argument("--long", action="store_true", help=f"{more}; takes minutes")
    for name in ("items", "rounds"):
        options["live"].add_argument(f"--{name}", type=int, help=f"another number of {name}")
    options["objects"].add_argument(
        "--section", choices=SECTIONS, help="measure this section only; by default all"
    )
    cluster = options["cluster"]
    cluster.add_argument(
        "--sections", nargs="+", choices=CLUSTER_SECTIONS, help="measure these only; default all"
    )
    for name, more in (
        ("n", "items of the build beside that of one process; default 1,000,000"),
        ("largest", "the most items; by default as many as the disk has space for, to 30,000,000"),
        ("shard-rows", "items of a shard; default 125,000"),
    ):
        cluster.add_argument(f"--{name}", type=int, help=more)
    cluster.add_argument("--folder", metavar="DIR", help="where files are made, and removed")
    return command


if __name__ == "__main__":
    sys.exit(main())
