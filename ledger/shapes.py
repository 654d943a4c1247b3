"""The inputs and results of transitions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ledger.models.jobs import State


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as its caller asked for it, routed and checked."""

    id: UUID
    tenant: str
    kind: str
    queue: str
    payload: dict[str, Any]
    max_attempts: int
    timeout_s: float
    priority: int = 5
    lane: str | None = None  # None: the tenant's own
    payload_bytes: int = 0  # as JSON; what a claim counts
    run_at: datetime | None = None
    delay_s: float | None = None
    deadline: datetime | None = None
    backoff: dict[str, Any] | None = None
    idempotency_key: str | None = None
    request_hash: bytes | None = None
    callback_url: str | None = None
    workflow_id: str | None = None
    tags: tuple[str, ...] = ()
    traceparent: str | None = None
    trace_id: str | None = None
    accepted_by: str | None = None
    depends_on: tuple[UUID, ...] = ()
    on_parent_failure: str = "fail"

    def as_row(self) -> dict[str, Any]:
        """The columns that the statement `accept` reads."""
        return {
            "id": self.id,
            "tenant": self.tenant,
            "kind": self.kind,
            "queue": self.queue,
            "lane": self.tenant if self.lane is None else self.lane,
            "priority": self.priority,
            "payload": self.payload,
            "payload_bytes": self.payload_bytes,
            "run_at": self.run_at,
            "delay_s": self.delay_s,
            "deadline": self.deadline,
            "max_attempts": self.max_attempts,
            "timeout_s": self.timeout_s,
            "backoff": self.backoff,
            "idempotency_key": self.idempotency_key,
            "request_hash": self.request_hash.hex() if self.request_hash else None,
            "callback_url": self.callback_url,
            "workflow_id": self.workflow_id,
            "tags": self.tags,
            "traceparent": self.traceparent,
            "trace_id": self.trace_id,
            "accepted_by": self.accepted_by,
            "on_parent_failure": self.on_parent_failure,
        }


@dataclass(frozen=True, slots=True)
class Accepted:
    """The result for a NewJob.

    `is_new` False: the idempotency key was in use, and this is the first job. `is_conflict`: it was
    used with a different body. `missing_parents`: not accepted, these parents do not exist.
    """

    id: UUID
    state: State
    created_at: datetime | None
    run_at: datetime | None
    is_new: bool = True
    is_conflict: bool = False
    missing_parents: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A running job and its fence (`id`, `attempt`)."""

    id: UUID
    attempt: int
    kind: str
    queue: str
    tenant: str
    lane: str
    priority: int
    max_attempts: int
    uncounted: int
    timeout_s: float
    backoff: dict[str, Any] | None
    alone: bool
    deaths: int
    workflow_id: str | None
    tags: list[str]
    traceparent: str | None
    run_at: datetime
    started_at: datetime
    is_late: bool  # its deadline had passed when it was claimed
    ready_at: datetime  # where this claim found it
    payload: dict[str, Any]

    @property
    def fence(self) -> tuple[UUID, int]:
        """The fence that every outcome of this attempt names."""
        return (self.id, self.attempt)

    @property
    def counted(self) -> int:
        """Attempts that count, this one included."""
        return self.attempt - self.uncounted

    @property
    def tries_left(self) -> int:
        """Attempts that may follow this one."""
        return max(0, self.max_attempts - self.counted)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a claim may take: jobs of one lane, kind and priority, up to a limit.

    `floor`: none of them became ready before that; the scan starts there.
    """

    lane: str
    kind: str
    priority: int
    quota: int
    floor: datetime | None = None


@dataclass(frozen=True, slots=True)
class Woken:
    """A job that became ready because another one ended; ring after the commit."""

    id: UUID
    queue: str
    kind: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """The result of one check for due jobs."""

    jobs: int  # made ready
    most: int  # of one lane, kind and priority
    looked_at: datetime  # everything due by then was looked at, as far as the limits went


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a batch of finishes; `written[n]` False: the nth had lost its ownership."""

    written: list[bool]
    woken: list[Woken]


@dataclass(frozen=True, slots=True)
class Finish:
    """The outcome of one attempt, ready to be written."""

    id: UUID
    attempt: int
    state: State  # succeeded, failed, cancelled, unknown; scheduled = deferred; ready = released
    reason: str | None = None
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    delay_s: float = 0.0  # of a deferred job
    is_counted: bool = True  # False: this attempt costs nothing
    traceparent: str | None = None  # of the run; what follows from it joins its trace


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What one check for dead workers reclaimed, and what else became ready as a result."""

    ready: tuple[tuple[UUID, str, str], ...]  # (job id, queue, kind)
    quarantined: tuple[tuple[UUID, str, str], ...]
    cancelled: tuple[UUID, ...] = ()  # their cancel had been accepted
    woken: tuple[Woken, ...] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """One step of a walk: how many rows it looked at, and how many of them it removed."""

    looked_at: int
    removed: int
