"""What a handler returns: a closed set; control flow is never raised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The work is done; `result` (JSON) is kept with the job."""

    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RetryLater:
    """This attempt failed for a transient reason; costs an attempt.

    `delay_s` None: the kind's own backoff decides.
    """

    reason: str
    delay_s: float | None = None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class Snooze:
    """Not now (a relay is stopped, a limit is reached); costs no attempt."""

    delay_s: float
    reason: str = "snoozed"


@dataclass(frozen=True, slots=True)
class Failed:
    """Permanent: no retry can help."""

    reason: str
    error: ErrorReport | None = None
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was asked to stop, and did before anything irreversible."""

    reason: str = "cancelled while running"


@dataclass(frozen=True, slots=True)
class Unknown:
    """An effect may or may not have happened; a person or a later signal decides."""

    reason: str
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """Class, message and traceback of what went wrong, already free of secrets."""

    type: str
    message: str
    traceback: str = field(default="", repr=False)

    def as_json(self) -> dict[str, str]:
        """The shape stored in `jobs.error` and `job_events.error`."""
        return {"type": self.type, "message": self.message, "traceback": self.traceback}


Outcome = Succeeded | RetryLater | Snooze | Failed | Cancelled | Unknown
