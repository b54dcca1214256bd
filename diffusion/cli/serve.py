"""The verb `serve`: an index over HTTP."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from pathlib import Path

from ..errors import DiffusionError
from ..storage import opened
from ..validation import check_integer
from .command import Verbs, report

TOKEN = "DIFFUSION_TOKEN"  # the name of an environment variable
_LONGEST_TOKEN = 4096


def add_verbs(verbs: Verbs) -> None:
    """Add `serve`."""
    serve = verbs.add("serve", _serve, "Serve an index over HTTP, and a page to look at it.")
    serve.add_argument("index", metavar="INDEX")
    add = serve.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=int, default=8000, help="0 takes a free one (default %(default)s)")
    add("--workers", type=int, default=1, help="processes that answer (default %(default)s)")
    add(
        "--token-file",
        metavar="FILE",
        help=f"what clients have to send as `Authorization: Bearer TOKEN`; or set {TOKEN}",
    )
    add("--read-only", action="store_true", help="refuse updates")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which clients may address the service, as behind a proxy",
    )
    add(
        "--max-queue", type=int, metavar="N", help="queries that may wait; what exceeds it gets 503"
    )
    add(
        "--photos",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="show the photos of an index of photos and accept uploads; FOLDER if they have moved",
    )
    add(
        "--weights", metavar="FILE", help="with --photos: the network's weights, if they have moved"
    )


def _serve(options: argparse.Namespace) -> None:
    # The service needs libraries that the other verbs do without.
    from ..serve import server
    from ..serve.security import LOOPBACK, Settings

    if options.weights is not None and options.photos is None:
        raise DiffusionError("--weights: expected --photos as well")
    hosts = [*LOOPBACK, *map(_as_addressed, (options.host, *options.allow_host))]
    anyone = not server.is_local(options.host) and not options.allow_host
    queue = {}
    if options.max_queue is not None:
        queue = {"waiting": check_integer(options.max_queue, "--max-queue", low=1)}
    settings = Settings(
        token=_token(options.token_file),
        hosts=None if anyone else tuple(dict.fromkeys(hosts)),
        title=Path(options.index).resolve().name,
        **queue,
    )
    service = server.Service(
        options.index,
        settings,
        read_only=options.read_only,
        photos=options.photos is not None,
        folder=options.photos or None,
        weights=options.weights,
    )
    server.serve(
        service,
        host=options.host,
        port=options.port,
        workers=options.workers,
        ready=lambda address: _say_ready(options.index, address),
    )


def _say_ready(index: str, address: str) -> None:
    report(f"{index}: {address}")
    sys.stdout.flush()  # whoever waits for the line may read it from a pipe


def _as_addressed(host: str) -> str:
    """Return a name or an address as the `Host` header of requests has it, without a port."""
    if ":" not in host:
        return host.lower()
    try:
        return f"[{ipaddress.IPv6Address(host.strip('[]'))}]"
    except ValueError:
        raise DiffusionError(
            f"--host, --allow-host: expected a name or an address, without a port, got {host!r}"
        ) from None


def _token(file: str | None) -> str | None:
    """Return the token, None if there is none; errors do not show it."""
    given = os.environ.get(TOKEN)
    if file is None:
        source, token = TOKEN, given
    elif given is not None:
        raise DiffusionError(f"--token-file, {TOKEN}: expected one of them, got both")
    else:
        source = file
        with opened(file, links=True) as stream:
            token = stream.read(_LONGEST_TOKEN + 1).decode("latin-1").strip()
    if token is not None and not (len(token) <= _LONGEST_TOKEN and _is_visible(token)):
        raise DiffusionError(
            f"{source}: expected a token of 1 to {_LONGEST_TOKEN} visible ASCII characters"
        )
    return token


def _is_visible(text: str) -> bool:
    return bool(text) and all("!" <= character <= "~" for character in text)
