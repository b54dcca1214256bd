"""Options and messages that the verbs of the command `features` share.

Options are made from the fields of the settings in `features.settings`: their names, types,
defaults and documentation are given there alone.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from diffusion.cli import command
from diffusion.errors import DiffusionError

from ..settings import ImageSettings, NetworkSettings, RunSettings

Group = TypeVar("Group")

# Describes photos if nobody names a network, for `features index` and `features extract`: a network
# of the Hugging Face hub, whose weights (Apache 2.0, 102 MB) are downloaded once.
DEFAULT_BACKBONE = "hf:microsoft/resnet-50"
BY_DEFAULT = f"By default {DEFAULT_BACKBONE}; in an update, the network and settings of before."

_ENTRY = re.compile(r"^(\w+) : (.+)\n((?:    .+\n)+)", re.MULTILINE)


def add_options(
    verb: argparse._ActionsContainer, kind: type, *, skip: Collection[str] = ()
) -> None:
    """Add an option for each field of a kind of settings, but for some."""
    hints, texts = get_type_hints(kind), documentation(kind)
    for field in fields(kind):
        if field.name in skip:
            continue
        name = f"-{field.name}" if len(field.name) == 1 else f"--{field.name.replace('_', '-')}"
        how = _how_to_parse(hints[field.name], field.default)
        shown = texts[field.name]
        if "action" not in how and field.default is not None:
            shown += f" (default {_in_words(field.default)})"
        verb.add_argument(
            name, dest=field.name, default=field.default, help=shown.replace("%", "%%"), **how
        )


def from_options(kind: type[Group], options: argparse.Namespace, **given: Any) -> Group:
    """Make settings from the options that `add_options` added, and from values given besides."""
    names = [field.name for field in fields(kind) if field.name in options]  # type: ignore[arg-type]
    return kind(**{**{name: getattr(options, name) for name in names}, **given})


def add_network(
    verb: argparse.ArgumentParser, *, skip: Collection[str] = (), about: str | None = None
) -> None:
    """Add the options of `NetworkSettings`; `about` is what the help says of them together."""
    add_options(verb.add_argument_group("network", about), NetworkSettings, skip=skip)


def add_stored_network(verb: argparse.ArgumentParser) -> None:
    """Add the options of verbs that take the network from what was stored."""
    verb.add_argument("--weights", metavar="FILE", help="weights of the network, if they moved")
    verb.add_argument(
        "--allow-download",
        action="store_true",
        help="download the network hf:NAME that the stored files name, if it is not here",
    )


def add_images(verb: argparse.ArgumentParser, *, skip: Collection[str] = ()) -> None:
    """Add the options of `ImageSettings`."""
    group = verb.add_argument_group("images")
    add_options(group, ImageSettings, skip=("scales", *skip))
    group.add_argument(
        "--multi-scale", action="store_true", help="average over scales 1, 1/sqrt(2) and 1/2"
    )


def images_of(options: argparse.Namespace) -> ImageSettings:
    """Return the settings that the options of `add_images` give."""
    if not options.multi_scale:
        return from_options(ImageSettings, options)
    from ..networks.retrieval_network import MULTI_SCALE

    return from_options(ImageSettings, options, scales=MULTI_SCALE)


def add_run(verb: argparse.ArgumentParser) -> None:
    """Add the options of `RunSettings`."""
    group = verb.add_argument_group("run")
    add_options(group, RunSettings, skip=("progress",))
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress bars")


def run_of(options: argparse.Namespace) -> RunSettings:
    """Return the settings that the options of `add_run` give."""
    return from_options(RunSettings, options, progress=not options.quiet)


def names_network(options: argparse.Namespace, *kinds: type, **defaults: Any) -> bool:
    """Return whether options name a network; without one, what is there is updated.

    Parameters
    ----------
    options : argparse.Namespace
    *kinds : type
        Kinds of settings that there are options for, besides those of networks and images.
    **defaults
        Further options, with their defaults.

    Raises
    ------
    DiffusionError
        If they do not, and name other settings, which would replace those of what is there.
    """
    if options.backbone is not None or options.weights is not None:
        return True
    for kind in (NetworkSettings, ImageSettings, *kinds):
        defaults |= {field.name: field.default for field in fields(kind)}
    defaults |= {"whitening": None, "multi_scale": False}
    for name, default in defaults.items():
        if getattr(options, name, default) != default:
            raise DiffusionError(
                f"--{name.replace('_', '-')}: expected --backbone or --weights too; without them, "
                "what is there is updated with its own settings"
            )
    return False


def network_of(options: argparse.Namespace) -> NetworkSettings:
    """Return the network that options name, or say that the default one is taken."""
    if options.backbone is not None or options.weights is not None:
        return from_options(NetworkSettings, options)
    command.say(
        "features",
        f"no network is named: {DEFAULT_BACKBONE} describes the photos, 102 MB that are downloaded "
        "from the Hugging Face hub once; for another one: --backbone NAME --weights FILE",
    )
    return from_options(NetworkSettings, options, backbone=DEFAULT_BACKBONE)


def check_output(option: str, output: str | None) -> None:
    """Raise before the work starts if its output could not be written afterwards."""
    if output is not None:
        path = Path(output).absolute()
        # A device is written to, and a file is replaced by another one in its directory.
        changed = path if path.exists() and not path.is_file() else path.parent
        if not output or path.is_dir() or not os.access(changed, os.W_OK):
            raise DiffusionError(
                f"{option} {output!r}: expected a file in a directory that exists and may be "
                "written to"
            )


def say_skipped(
    manifest: Mapping[str, Any], out: str | os.PathLike[str], *, most: int = 20
) -> None:
    """Name the images that were skipped and why, at most so many of them, and count other files."""
    from ..images.reading import Listing

    skipped = manifest["skipped"]
    for entry in skipped[:most]:
        command.say("features", f"skipped {entry['file']}: {entry['reason']}")
    if len(skipped) > most:
        more = f"{len(skipped) - most} more; {Path(out) / 'manifest.json'} lists them all"
        command.say("features", f"skipped {more}")
    found = manifest["passed_over"]
    if passed_over := Listing([], found["files"], found["linked_folders"]).passed_over():
        command.say("features", f"skipped {passed_over}")


def documentation(kind: type) -> dict[str, str]:
    """Return what the "Parameters" section of a settings class says of each field.

    The list of choices that a type holds is put before the text.
    """
    found = {field.name: "" for field in fields(kind)}
    # Python's option -OO removes docstrings.
    section = (inspect.getdoc(kind) or "").partition("Parameters\n----------\n")[2]
    for name, about, text in _ENTRY.findall(section.partition("\n\n")[0] + "\n"):
        words = " ".join(text.split()).replace("`", "")
        choices = re.match(r"\{(.+?)\}", about)
        listed = "" if choices is None else f"{choices[1]}: ".replace('"', "")
        found[name] = listed + words[0].lower() + words[1:].removesuffix(".")
    return found


def _how_to_parse(hint: Any, default: Any) -> dict[str, Any]:
    """Return the arguments of `add_argument` for a field of a type."""
    metavars = {int: "N", float: "X", str: "NAME"}
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        hint = parts[0]
        if len(parts) > 1:  # a path, as a str or as an object
            metavars[str] = "FILE"
    if hint is bool:  # what is on by default is turned off by --no-NAME
        return {"action": argparse.BooleanOptionalAction if default else "store_true"}
    if get_origin(hint) is tuple:
        kinds = get_args(hint)  # of the three colour channels
        return {"type": kinds[0], "nargs": 3, "metavar": ("RED", "GREEN", "BLUE")}
    if is_dataclass(hint):
        return {"type": _parser_of(default), "metavar": "NAME=VALUE,..."}
    return {"type": hint, "metavar": metavars[hint]}


def _parser_of(default: Any) -> Callable[[str], Any]:
    """Return what reads settings within settings: some of the fields, in place of the default's."""
    hints = get_type_hints(type(default))

    def parse(text: str) -> Any:
        values = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if not equals or name not in hints:
                expected = ", ".join(hints)
                raise argparse.ArgumentTypeError(f"expected NAME=VALUE with a NAME of {expected}")
            try:
                values[name] = hints[name](value)
            except ValueError:
                raise argparse.ArgumentTypeError(f"{name}: no number, {value!r}") from None
        return replace(default, **values)

    return parse


def _in_words(default: Any) -> str:
    """Return a default value as it is typed on the command line."""
    if is_dataclass(default):
        values = {field.name: getattr(default, field.name) for field in fields(default)}
        plain = {field.name: field.default for field in fields(default)}
        return ",".join(f"{n}={_in_words(v)}" for n, v in values.items() if v != plain[n])
    return f"{default:g}" if isinstance(default, float) else str(default)
