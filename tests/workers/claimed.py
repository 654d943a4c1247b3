"""A job as a claim returns it, with fields of your own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ledger import ids
from ledger.shapes import ClaimedJob

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def claimed_job(**fields: Any) -> ClaimedJob:
    """A job that does nothing, just claimed for the first time."""
    values: dict[str, Any] = {
        "id": ids.new(),
        "attempt": 1,
        "kind": "test.nothing",
        "queue": "bulk",
        "tenant": "default",
        "lane": "default",
        "priority": 5,
        "max_attempts": 3,
        "uncounted": 0,
        "timeout_s": 10.0,
        "backoff": None,
        "alone": False,
        "deaths": 0,
        "workflow_id": None,
        "tags": [],
        "traceparent": None,
        "run_at": NOON,
        "started_at": NOON,
        "ready_at": NOON,
        "is_late": False,
        "payload": {},
    }
    return ClaimedJob(**(values | fields))
