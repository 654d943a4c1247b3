"""How a run in a child process may end without a result.

RelaisError
└── IsolationError
    ├── TimedOut         the time was over; the child was killed
    ├── ChildDied        the child died: a signal, an exit, out of memory
    ├── Interrupted      the child died with the process that had forked it: not its own doing
    └── HandlerRaised    the code raised; `report` has class, message and traceback
"""

from __future__ import annotations

import signal
from typing import Any, NoReturn

from runtime.errors import RelaisError
from tasks import errors as task_errors
from tasks.outcomes import ErrorReport


class IsolationError(RelaisError):
    """A child process did not return a result."""


class TimedOut(IsolationError):  # noqa: N818 - reads as the event it is
    """The time was up; the child was killed."""


# What the kernel sends to a process for its own faults; any other signal came from outside.
_OWN_FAULTS = frozenset(
    {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP", "SIGXCPU", "SIGXFSZ"}
)


class ChildDied(IsolationError):  # noqa: N818 - reads as the event it is
    """The child died; its fork server lives."""

    def __init__(self, what: str, *, returncode: int | None) -> None:
        self.signal = -returncode if returncode is not None and returncode < 0 else None
        self.exit_code = returncode if self.signal is None else None
        super().__init__(f"The process that ran {what} died: {self._cause()}.")

    @property
    def by_itself(self) -> bool:
        """Whether it caused its own end, rather than a signal from outside."""
        return self.signal is None or _signal_name(self.signal) in _OWN_FAULTS

    def _cause(self) -> str:
        if self.signal is not None:
            return f"killed by {_signal_name(self.signal)}"
        if self.exit_code is not None:
            return f"it ended itself with exit code {self.exit_code}"
        return "it closed its connection or sent an invalid response"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


class Interrupted(IsolationError):  # noqa: N818 - reads as the event it is
    """The fork server died, and the child with it; `had_begun` says whether the code ran."""

    def __init__(self, what: str, *, had_begun: bool) -> None:
        super().__init__(f"The process that ran {what} ended because its fork server died.")
        self.had_begun = had_begun


class HandlerRaised(IsolationError):  # noqa: N818 - reads as the event it is
    """The code that ran in the child raised."""

    def __init__(self, report: ErrorReport) -> None:
        super().__init__(f"{report.type}: {report.message}")
        self.report = report


def raise_told(raised: dict[str, Any]) -> NoReturn:
    """Raise what was raised in the child, an error of `tasks.errors` as itself."""
    told = HandlerRaised(ErrorReport(**raised["report"]))
    name = told.report.type.removeprefix("tasks.errors.")
    known = getattr(task_errors, name, None) if name.isidentifier() else None
    if "sentence" in raised and isinstance(known, type) and issubclass(known, RelaisError):
        raise known(raised["sentence"], remedy=raised["remedy"]) from told
    raise told
