"""Which jobs are meant: the conditions that listings, statistics and bulk retries share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from ledger.models.jobs import State

# How far the clocks of a gateway (which creates ids) and the database (created_at) may differ.
CLOCKS_DIFFER = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Conditions on jobs; None means no condition."""

    states: tuple[State, ...] = ()
    queue: str | None = None
    kind: str | None = None
    tag: str | None = None
    workflow_id: str | None = None
    accepted_by: str | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None

    @property
    def is_of_counts(self) -> bool:
        """Whether it asks for no more than the counts know: queue and state."""
        return self == JobFilter(states=self.states, queue=self.queue)

    def by_state(self) -> list[JobFilter]:
        """The same for one state at a time, each of which an index serves."""
        return [replace(self, states=(state,)) for state in self.states] or [self]

    def conditions(self, *, tenant: str) -> tuple[str, dict[str, Any]]:
        """A WHERE clause over `jobs AS j`, always for one tenant, and what it binds."""
        parts = ["j.tenant = :tenant"]
        values: dict[str, Any] = {"tenant": tenant}
        if self.states:
            parts.append(f"j.state IN ({literals(self.states)})")
        for column in ("queue", "kind", "workflow_id", "accepted_by"):
            value = getattr(self, column)
            if value is not None:
                parts.append(f"j.{column} = :{column}")
                values[column] = value
        if self.tag is not None:
            parts.append("j.tags <> '{}' AND j.tags @> ARRAY[CAST(:tag AS text)]")
            values["tag"] = self.tag
        if self.created_from is not None:
            parts.append("j.created_at >= :created_from AND j.id >= :id_from")
            values |= {
                "created_from": self.created_from,
                "id_from": _first_id(self.created_from - CLOCKS_DIFFER),
            }
        if self.created_until is not None:
            parts.append("j.created_at < :created_until AND j.id < :id_until")
            values |= {
                "created_until": self.created_until,
                "id_until": _first_id(self.created_until + CLOCKS_DIFFER),
            }
        return " AND ".join(parts), values


def literals(states: Sequence[State]) -> str:
    """`states` as SQL literals: only literals let the planner use an index on some states."""
    return ", ".join(f"'{state.value}'" for state in states)


def _first_id(moment: datetime) -> UUID:
    """The smallest UUIDv7 of `moment`."""
    milliseconds = max(0, int((moment - _EPOCH) / timedelta(milliseconds=1)))
    return UUID(int=min(milliseconds, 2**48 - 1) << 80)
