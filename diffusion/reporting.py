"""What fitted objects share: the report of each thread's last search, and turns of updates."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any

from .solvers import Report


class _OfThread(threading.local):
    """A value of each thread. A copy, or what is unpickled, has that of the thread it is made in.

    Attributes
    ----------
    report : Report or None
    """

    report: Report | None = None

    def __reduce__(self) -> Any:
        return type(self), (), dict(self.__dict__)


class Reporting:
    """A fitted object with the report of each thread's last search."""

    _reports: _OfThread

    @property
    def report_(self) -> Report:
        """Residual, iterations, convergence and so on of the last search of the calling thread.

        Raises
        ------
        AttributeError
            If this thread has not searched since the fit.
        """
        reports: _OfThread | None = self.__dict__.get("_reports")
        if reports is None or reports.report is None:
            raise AttributeError(
                f"report_: this thread has not searched with this {type(self).__name__} yet"
            )
        return reports.report

    def _begin_reports(self) -> None:
        """Forget all reports, as a fit does."""
        self._reports = _OfThread()

    def _keep_report(self, report: Report) -> None:
        self._reports.report = report


class Turns:
    """Lets one thread at a time update an object. A copy, or what is unpickled, has its own."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()

    def __enter__(self) -> None:
        if os.getpid() != self._process:
            self._renew()  # a fork has not copied the thread that may have held it
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> Any:
        return type(self), ()
