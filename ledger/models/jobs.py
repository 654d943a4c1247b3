"""Jobs, their history, their dependencies and the queues they wait in."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL
from sqlalchemy.orm import Mapped, mapped_column

from ledger.models.registry import SCHEMA, Id, Instant, Model, Now, TenantName


class State(StrEnum):
    """Where a job stands; the same words in table, API and console."""

    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


OPEN = (State.BLOCKED, State.SCHEDULED, State.READY, State.RUNNING)
FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.UNKNOWN)

JOB_STATE = Enum(
    State, name="job_state", schema=SCHEMA, values_callable=lambda states: [s.value for s in states]
)

LANE = Text(collation="C")  # compared for equality and order alone


class Job(Model):
    """One unit asked for by a caller."""

    __tablename__ = "jobs"

    id: Mapped[Id]
    tenant: Mapped[TenantName]
    lane: Mapped[str] = mapped_column(
        LANE, server_default=text("''")
    )  # what it depends on, as a group of jobs
    kind: Mapped[str]
    queue: Mapped[str]
    state: Mapped[State] = mapped_column(JOB_STATE)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("5"))
    payload_bytes: Mapped[int] = mapped_column(server_default=text("0"))
    run_at: Mapped[Now]  # not before this
    ready_at: Mapped[Instant | None]  # ready: since when
    deadline: Mapped[Instant | None]  # must start by then
    attempt: Mapped[int] = mapped_column(server_default=text("0"))  # the fence: never goes back
    uncounted: Mapped[int] = mapped_column(server_default=text("0"))  # attempts that cost nothing
    max_attempts: Mapped[int] = mapped_column(SmallInteger)
    timeout_s: Mapped[float]
    backoff: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # None: the kind's own
    owner: Mapped[UUID | None]
    lease_until: Mapped[Instant | None]
    worker: Mapped[str | None]  # name of the worker of the last attempt
    colour: Mapped[str | None]
    version: Mapped[str | None]
    alone: Mapped[bool] = mapped_column(server_default=text("false"))  # a worker died under it
    deaths: Mapped[int] = mapped_column(
        SmallInteger, server_default=text("0")
    )  # of its own process, caused by the job
    death_attempts: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=text("'{}'"))
    snoozes: Mapped[int] = mapped_column(server_default=text("0"))  # in a row
    snoozed_since: Mapped[Instant | None]
    waits_for: Mapped[int] = mapped_column(server_default=text("0"))  # parents that are open
    reason: Mapped[str | None]  # why it is in this state, for a person
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # {type, message, traceback}
    created_at: Mapped[Now]
    started_at: Mapped[Instant | None]  # of the last attempt
    finished_at: Mapped[Instant | None]
    cancel_requested_at: Mapped[Instant | None]
    on_parent_failure: Mapped[str] = mapped_column(server_default=text("'fail'"))
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[bytes | None]
    callback_url: Mapped[str | None]
    workflow_id: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    traceparent: Mapped[str | None]
    trace_id: Mapped[str | None]  # X-Trace-ID as the caller gave it, or the traceparent's
    accepted_by: Mapped[str | None]  # prefix of the API key, subject of the token, or a schedule

    __table_args__ = (
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('succeeded','failed','cancelled','unknown'))",
            name="finished_at",
        ),
        CheckConstraint(
            "(state = 'running') = (owner IS NOT NULL AND lease_until IS NOT NULL)",
            name="running_owned",
        ),
        CheckConstraint("(owner IS NULL) = (lease_until IS NULL)", name="owner_lease"),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
        CheckConstraint("attempt >= uncounted AND uncounted >= 0", name="attempts"),
        CheckConstraint("max_attempts >= 1 AND timeout_s > 0", name="limits"),
        CheckConstraint("on_parent_failure IN ('fail','release')", name="on_parent_failure"),
        CheckConstraint("(idempotency_key IS NULL) = (request_hash IS NULL)", name="idempotency"),
        CheckConstraint("(state = 'ready') = (ready_at IS NOT NULL)", name="ready_at"),
        # The claim, by lane: the longest ready of a kind and priority. Holds ready rows only.
        Index(
            "ix_jobs_ready",
            "queue",
            "lane",
            "kind",
            "priority",
            "ready_at",
            "id",
            postgresql_where=text("state = 'ready'"),
        ),
        Index(
            "ix_jobs_scheduled",
            "queue",
            "lane",
            "kind",
            "priority",
            "run_at",
            postgresql_where=text("state = 'scheduled'"),
        ),
        Index("ix_jobs_blocked", "id", postgresql_where=text("state = 'blocked'")),
        Index(
            "ix_jobs_ended_badly",
            "finished_at",
            "id",
            postgresql_where=text("state IN ('failed', 'cancelled', 'unknown')"),
        ),
        Index("ix_jobs_held", "owner", "started_at", postgresql_where=text("state = 'running'")),
        Index(
            "uq_jobs_idempotency",
            "tenant",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # Ids are UUIDv7, so the newest job has the largest id: one index serves every listing.
        Index("ix_jobs_tenant_id", "tenant", text("id DESC")),
        Index("ix_jobs_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        Index(
            "ix_jobs_workflow",
            "tenant",
            "workflow_id",
            text("id DESC"),
            postgresql_where=text("workflow_id IS NOT NULL"),
        ),
        Index(
            "ix_jobs_tags",
            "tags",
            postgresql_using="gin",
            postgresql_where=text("tags <> '{}'"),
            postgresql_with={"fastupdate": "on"},
        ),
        Index(
            "ix_jobs_put_right",
            "tenant",
            "state",
            text("id DESC"),
            postgresql_where=text("state IN ('failed','unknown','cancelled','blocked')"),
        ),
    )


class JobBody(Model):
    """A job's payload and result, apart from the row that claims read."""

    __tablename__ = "job_bodies"

    job_id: Mapped[Id]  # no foreign key: retention removes both in one statement
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    key_id: Mapped[str | None]  # of the key that encrypted it
    template: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # what its mail is made from


class JobEvent(Model):
    """One change of one job's state; written by a trigger, never cascaded away.

    Partitioned by day, so that old history is dropped, not deleted.
    """

    __tablename__ = "job_events"

    seq: Mapped[int] = mapped_column(
        BigInteger, server_default=text("nextval('relais.job_events_number')"), primary_key=True
    )
    job_id: Mapped[UUID]
    tenant: Mapped[str]
    from_state: Mapped[State | None] = mapped_column(JOB_STATE)
    to_state: Mapped[State] = mapped_column(JOB_STATE)
    attempt: Mapped[int]
    worker: Mapped[str | None]
    colour: Mapped[str | None]
    version: Mapped[str | None]
    reason: Mapped[str | None]
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    duration_ms: Mapped[float | None]  # of the attempt that this change ended
    at: Mapped[Now]
    repeats: Mapped[int] = mapped_column(server_default=text("1"))  # snoozes in a row: how many
    last_at: Mapped[Instant | None]  # of the last repeat

    __table_args__ = (
        Index("ix_job_events_job", "job_id", "seq"),
        {"postgresql_partition_by": "RANGE (at)"},
    )


class JobParent(Model):
    """A child waits in `blocked` until all its parents succeed."""

    __tablename__ = "job_parents"

    child_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    parent_id: Mapped[UUID] = mapped_column(primary_key=True)  # outlives a pruned parent
    is_open: Mapped[bool] = mapped_column(server_default=text("true"))  # counted in `waits_for`

    __table_args__ = (
        Index("ix_job_parents_parent", "parent_id"),
        Index("ix_job_parents_open", "parent_id", postgresql_where=text("is_open")),
    )


class Lane(Model):
    """Records that a queue has had such jobs; filled by the trigger that writes the history."""

    __tablename__ = "lanes"

    queue: Mapped[str] = mapped_column(primary_key=True)
    lane: Mapped[str] = mapped_column(LANE, primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    priority: Mapped[int] = mapped_column(SmallInteger, primary_key=True)


class LaneSettings(Model):
    """Pauses and settings of a lane, by operators or relays in trouble; queue '*': every queue."""

    __tablename__ = "lane_settings"

    queue: Mapped[str] = mapped_column(primary_key=True)
    lane: Mapped[str] = mapped_column(LANE, primary_key=True)
    paused_at: Mapped[Instant | None]
    paused_until: Mapped[Instant | None]  # None: until it is resumed
    paused_by: Mapped[str | None]
    reason: Mapped[str | None]
    running_max: Mapped[int | None]  # jobs at once, over all workers of the queue
    weight: Mapped[float] = mapped_column(REAL, server_default=text("1"))
    changed_at: Mapped[Now]

    __table_args__ = (
        CheckConstraint("running_max > 0", name="running_max"),
        CheckConstraint("weight > 0 AND weight <= 1000", name="weight"),
        CheckConstraint("paused_until IS NULL OR paused_at IS NOT NULL", name="paused"),
    )


class JobCount(Model):
    """How many jobs there are, not including deltas that are not rolled up yet."""

    __tablename__ = "job_counts"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[State] = mapped_column(JOB_STATE, primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)


class JobCountDelta(Model):
    """How one statement changed the counts: inserted, never updated, so nothing waits."""

    __tablename__ = "job_count_deltas"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str]
    queue: Mapped[str]
    state: Mapped[State] = mapped_column(JOB_STATE)
    jobs: Mapped[int]


class Queue(Model):
    """Operators' settings of a queue; a queue without a row is open."""

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[Instant | None]
    paused_by: Mapped[str | None]
    canary_at: Mapped[Instant | None]  # when the newest canary came through
