"""Tables of figures: printed as Markdown, and written as JSON with what they were measured with."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import psutil
from tabulate import tabulate

import diffusion
from diffusion.errors import DiffusionError
from diffusion.kernels.threads import cores
from diffusion.storage import replacing
from diffusion.storage.files import plain

from .measure import processor


@dataclass
class Table:
    """A table with a title, column names, rows and notes; a cell is text, a number or None."""

    title: str
    columns: Sequence[str]
    rows: list[list[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the table as Markdown; columns without text are aligned to the right."""
        text = [any(isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]
        body = tabulate(
            [[_text(cell) for cell in row] for row in self.rows],
            headers=self.columns,
            tablefmt="pipe",
            colalign=["left" if column else "right" for column in text],
            disable_numparse=True,
            preserve_whitespace=True,
        )
        return "\n\n".join([self.title, body, *self.notes])


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 10 else f"{cell:.1f}"
    return str(cell)


def show(table: Table) -> Table:
    """Print a table as soon as it is measured, and return it."""
    print(table, end="\n\n", flush=True)
    return table


@dataclass
class Machine:
    """The machine in general terms.

    Attributes
    ----------
    processor : str
        Its name, as the system says it.
    threads : int
        How many threads this process may use.
    memory : int
        In GiB, rounded.
    load : float or None
        The load average of the minute before the measurement, of all processes. None if the system
        does not say it. Near `threads`, the times are too long.
    """

    processor: str
    threads: int
    memory: int
    load: float | None

    def __str__(self) -> str:
        """Return the machine as a part of a sentence."""
        text = f"{self.processor}, {self.threads} threads, {self.memory} GiB of memory"
        if self.load is not None and self.load > self.threads / 4:
            text += (
                f", with other work on it (a load of {self.load:.1f}), so that times are too long"
            )
        return text


@dataclass
class Measurement:
    """Tables of a benchmark, and what they were measured with.

    Attributes
    ----------
    command : str
        That prints the tables.
    date : str
        The day on which the command began, as YYYY-MM-DD.
    version : str
        Of diffusion.
    machine : Machine
        On which it ran.
    tables : list of Table
        Unrounded.
    """

    command: str
    date: str
    version: str
    machine: Machine
    tables: list[Table] = field(default_factory=list)


def measurement(command: str) -> Measurement:
    """Return the measurement of a command that begins now, on this machine, without tables yet."""
    try:
        load = round(psutil.getloadavg()[0], 2)
    except OSError:
        load = None
    memory = round(psutil.virtual_memory().total / 2**30)
    return Measurement(
        command,
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        diffusion.__version__,
        Machine(processor(), cores(), memory, load),
    )


def write_json(path: str, measured: Measurement) -> None:
    """Write a measurement; an interrupted write leaves the file as it was."""
    with replacing(path, "w") as file:
        json.dump(asdict(measured), file, indent=1, default=plain, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | PathLike[str]) -> Measurement:
    """Return the measurement that `write_json` wrote.

    Raises
    ------
    DiffusionError
        If the file cannot be read, or does not hold a measurement.
    """
    wrong = f"{path}: expected what `python -m bench NAME --json FILE` writes"
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise DiffusionError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DiffusionError(f"{wrong}, got no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DiffusionError(f"{wrong}, got {type(content).__name__}")
    try:
        machine = Machine(**content.pop("machine"))
        tables = [Table(**table) for table in content.pop("tables")]
        measured = Measurement(machine=machine, tables=tables, **content)
    except KeyError as error:
        raise DiffusionError(f"{wrong}, got no {error}") from error
    except TypeError as error:
        # Fields that are missing or unknown.
        raise DiffusionError(f"{wrong}, got other fields: {error}") from error
    for table in tables:
        if any(len(row) != len(table.columns) for row in table.rows):
            raise DiffusionError(
                f"{wrong}, got rows of another length than the columns: {table.title}"
            )
    return measured
