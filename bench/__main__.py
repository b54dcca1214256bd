"""`python -m bench quality`, `speed`, `features` and `objects`.

`python -m bench quality --dataset NAME --descriptors DIR` measures descriptors of your own on a
data set of the field: bench/descriptors.py says what DIR may hold.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from diffusion.errors import DiffusionError

from .quality import datasets as retrieval
from .table import write_json

BENCHMARKS = {
    "quality": "bench.quality.methods",
    "speed": "bench.speed.benchmark",
    "features": "bench.photos.benchmark",
    "objects": "bench.objects.benchmark",
}
SECTIONS = ("pasted", "drawn", "raccoons", "time")  # of `objects`


def main() -> int:
    """Run a benchmark, print its tables and, asked for, write them as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=tuple(BENCHMARKS))
    parser.add_argument("--json", metavar="FILE", help="write the same figures here")
    parser.add_argument(
        "--long",
        action="store_true",
        help="speed: the large eigenproblems too; features: trainings too; minutes more",
    )
    parser.add_argument("--dataset", choices=retrieval.DATASETS, help="quality: on this data set")
    parser.add_argument("--descriptors", metavar="DIR", help="with --dataset: its descriptors")
    parser.add_argument("--section", choices=SECTIONS, help="objects: this one alone")
    options = parser.parse_args()
    named = [options.dataset, options.descriptors]
    if any(named) and not (all(named) and options.benchmark == "quality"):
        parser.error("--dataset, --descriptors: expected both, with quality")
    if options.section and options.benchmark != "objects":
        parser.error("--section: expected with objects alone")
    chosen = {"section": options.section} if options.section else {}
    if options.dataset:
        try:
            tables = retrieval.run(options.dataset, options.descriptors, long=options.long)
        except DiffusionError as error:
            parser.error(str(error))
    else:
        benchmark = importlib.import_module(BENCHMARKS[options.benchmark])
        tables = benchmark.run(long=options.long, **chosen)
    if options.json:
        write_json(options.json, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
