"""Vocabulary of `beat_schedule.py`: Relais' own periodic jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger import cron

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Every:
    """Each `seconds`, counted from the epoch, so that every beat names the same moments."""

    seconds: float

    def latest(self, now: datetime) -> datetime:
        """The newest nominal time that is not in the future."""
        step = timedelta(seconds=self.seconds)
        return EPOCH + (now - EPOCH) // step * step

    def next_after(self, now: datetime) -> datetime:
        """The nominal time after that."""
        return self.latest(now) + timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression (five fields or @hourly, @daily ...) in a time zone."""

    expression: str
    timezone: str = "UTC"

    def latest(self, now: datetime) -> datetime | None:
        """The newest nominal time that is not in the future."""
        return cron.parse(self.expression, self.timezone).latest(after=EPOCH, until=now)

    def next_after(self, now: datetime) -> datetime | None:
        """The nominal time after that."""
        return cron.parse(self.expression, self.timezone).next_after(now)


@dataclass(frozen=True, slots=True)
class Periodic:
    """One line of the table: `name` identifies its ticks, `when` says when they are due."""

    name: str
    kind: str
    when: Every | Cron
    queue: str
    payload: dict[str, Any] = field(default_factory=dict)
    priority: int = 9

    @property
    def key(self) -> str:
        """Under which its ticks are kept in the ledger."""
        return f"system:{self.name}"
