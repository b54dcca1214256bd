"""What the service counts, as Prometheus reads it.

Each process counts for itself. With several workers, a scrape is answered by one of them, and
`diffusion_worker_info` says by which; counters of different processes must not be compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from .security import Application, Message, Receive, Scope, Send

CONTENT_TYPE = CONTENT_TYPE_LATEST

# In seconds.
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The figures of one process, in a registry of their own.

    Parameters
    ----------
    queues : sequence of str
        Names of queues.
    length : callable
        Returns the length of a queue, given by its name.
    info : callable
        Returns what `Collection.info` returns.
    """

    def __init__(
        self,
        queues: Sequence[str],
        length: Callable[[str], float],
        info: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "diffusion_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "diffusion_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["route"],
            buckets=_LATENCIES,
            registry=registry,
        )
        self._batches = Histogram(
            "diffusion_batch_size",
            "Queries that were answered together.",
            ["queue"],
            buckets=_SIZES,
            registry=registry,
        )
        queue = Gauge(
            "diffusion_queue_length",
            "Queries that wait or are being answered.",
            ["queue"],
            registry=registry,
        )
        for name in queues:
            queue.labels(name).set_function(partial(length, name))
            self._batches.labels(name)
        items = Gauge("diffusion_items", "Items of the collection.", registry=registry)
        items.set_function(lambda: info()["items"])
        version = Gauge("diffusion_version", "State of the collection.", registry=registry)
        version.set_function(lambda: info()["version"])
        worker = Gauge("diffusion_worker_info", "The process.", ["pid"], registry=registry)
        worker.labels(str(os.getpid())).set(1)
        ProcessCollector(registry=registry)

    def batch(self, name: str) -> Callable[[int], None]:
        """Return what counts the size of a batch of a queue."""
        return lambda size: self._batches.labels(name).observe(size)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self._registry)


class Counted:
    """Middleware that counts requests by route and status, and their time by route.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    routes : collection of str
        The paths of the service; anything else is counted as "other".
    """

    def __init__(self, app: Application, metrics: Metrics, routes: frozenset[str]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "none"  # the client went away before it was answered
        begun = time.perf_counter()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - begun)
