"""How long to wait before a retry, and when to report it."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger import outage

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[BaseException, int], None]

FIRST_WAIT_S = 0.05
WAIT_MAX_S = 0.5  # Postgres is usually back within seconds, and this should be noticed soon
FIRST_GAP_S = 1.0
GAP_MAX_S = 60.0  # between two log lines about the same trouble


@dataclass(slots=True)
class _Trouble:
    failures: int = 0
    failed_at: float = 0.0  # monotonic
    said_at: float = 0.0
    gap_s: float = 0.0


class Announcements:
    """Reports what keeps us waiting: each class of error at once, then at growing intervals."""

    def __init__(self, say: Say | None) -> None:
        """`say` is called with the error, and how many of its class there were recently."""
        self._say = say
        self._troubles: dict[str, _Trouble] = {}

    def failed(self, error: BaseException) -> None:
        """Record `error`, and report it if that is due."""
        now = time.monotonic()
        name = f"{type(error).__name__} {outage.sqlstate(error)}"
        trouble = self._troubles.get(name)
        if trouble is None or now - trouble.failed_at > GAP_MAX_S:
            trouble = self._troubles[name] = _Trouble()
        trouble.failures += 1
        trouble.failed_at = now
        if trouble.said_at and now - trouble.said_at < trouble.gap_s:
            return
        trouble.said_at = now
        trouble.gap_s = min(max(2 * trouble.gap_s, FIRST_GAP_S), GAP_MAX_S)
        if self._say is not None:
            self._say(error, trouble.failures)


class Patience:
    """The growing, jittered waits of one write that is retried until it succeeds."""

    def __init__(self, announcements: Announcements) -> None:
        self.failures = 0
        self._announcements = announcements

    def after(self, error: BaseException, *, wait_max_s: float = WAIT_MAX_S) -> float:
        """Note one more failure; seconds until the next try."""
        self.failures += 1
        self._announcements.failed(error)
        ceiling_s = min(FIRST_WAIT_S * 2.0 ** min(self.failures - 1, 20), wait_max_s)
        return random.uniform(ceiling_s / 2, ceiling_s)  # noqa: S311 - jitter
