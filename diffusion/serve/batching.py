"""Requests that arrive together are answered together, by one thread and from a bounded queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any


class FullError(Exception):
    """As much as may wait is waiting."""


@dataclass(eq=False, slots=True)
class _Waiting:
    item: Any
    size: int
    answer: asyncio.Future[Any]


class Batcher:
    """A thread that answers requests of one event loop, as many at once as belong together.

    When it is idle, a request is answered at once. What arrives while it is at work forms the next
    batches: only requests with equal keys are answered together, and different keys take turns. No
    time is spent on waiting for more.

    Parameters
    ----------
    name : str
        That of the thread.
    answer : callable
        Takes a list of requests with equal keys, and returns as many answers. It is called by one
        thread at a time. If it raises an error for several requests, it is called again with each
        of them alone, so that one of them cannot fail the others.
    most : int >= 1
        Largest sum of the sizes of a batch. A larger request is answered alone.
    waiting : int >= 1
        Largest sum of the sizes of the requests that wait or are being answered.
    watch : callable, optional
        Called with the sum of the sizes of each batch.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[list[Any]], Sequence[Any]],
        *,
        most: int,
        waiting: int,
        watch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._answer, self._most, self._limit, self._watch = answer, most, waiting, watch
        self._pool = ThreadPoolExecutor(1, f"diffusion-{name}")
        self._groups: dict[Hashable, deque[_Waiting]] = {}  # those that wait longest come first
        self._held = 0
        self._busy = self._closed = False

    @property
    def held(self) -> int:
        """The sum of the sizes of the requests that wait or are being answered."""
        return self._held

    @property
    def full(self) -> bool:
        """Whether a request of any size would be refused."""
        return self._closed or self._held >= self._limit

    async def ask(self, key: Hashable, item: Any, size: int = 1) -> Any:
        """Return the answer to a request.

        Parameters
        ----------
        key : hashable
            Requests with equal keys may be answered together.
        item : object
            What the thread is given.
        size : int >= 1, default 1
            For how many it counts.

        Raises
        ------
        FullError
            If it would exceed what may wait. A request of any size is accepted if none waits.
        Exception
            That of this request, whatever it was.
        """
        if self._closed or (self._held and self._held + size > self._limit):
            raise FullError
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, size, loop.create_future())
        self._groups.setdefault(key, deque()).append(waiting)
        self._held += size
        # Not yet: what else arrives in this turn of the loop belongs to the batch.
        loop.call_soon(self._start, loop)
        try:
            return await waiting.answer
        finally:
            self._held -= size
            if waiting.answer.cancelled():
                self._forget(key, waiting)

    def close(self) -> None:
        """Refuse further requests, and wait for the thread."""
        self._closed = True
        for group in self._groups.values():
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(FullError())
        self._groups.clear()
        self._pool.shutdown(cancel_futures=True)

    def _forget(self, key: Hashable, waiting: _Waiting) -> None:
        group = self._groups.get(key, ())
        if waiting in group:
            group.remove(waiting)  # type: ignore[union-attr]
        if key in self._groups and not group:
            del self._groups[key]

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the thread the next batch if it is idle."""
        if self._busy or self._closed:
            return
        batch: list[_Waiting] = []
        while self._groups and not batch:
            batch = self._next()
        if not batch:
            return
        self._busy = True
        self._watch(sum(waiting.size for waiting in batch))
        items = [waiting.item for waiting in batch]
        solving = loop.run_in_executor(self._pool, self._answers, items)
        solving.add_done_callback(partial(self._finish, loop, batch))

    def _next(self) -> list[_Waiting]:
        """Take a batch of the group whose turn it is; what is left of it goes to the end."""
        key = next(iter(self._groups))
        group, size = self._groups.pop(key), 0
        batch: list[_Waiting] = []
        while group and (not batch or size + group[0].size <= self._most):
            waiting = group.popleft()
            if not waiting.answer.done():  # else its client has gone
                batch.append(waiting)
                size += waiting.size
        if group:
            self._groups[key] = group
        return batch

    def _answers(self, items: list[Any]) -> list[Any]:
        """Return an answer or an exception for each request."""
        try:
            answers = list(self._answer(items))
            if len(answers) != len(items):
                raise RuntimeError(f"{len(answers)} answers to {len(items)} requests")
            return answers
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [self._answers([item])[0] for item in items]

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting],
        solving: asyncio.Future[list[Any]],
    ) -> None:
        self._busy = False
        self._start(loop)
        if solving.cancelled() or solving.exception() is not None:
            answers: list[Any] = [RuntimeError("the thread was ended")] * len(batch)
        else:
            answers = solving.result()
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)
