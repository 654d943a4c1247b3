"""What callers see of jobs: the shapes of the responses, for readers and for OpenAPI."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ledger.models.jobs import State

NOW = "2030-05-01T07:00:00Z"
JOB_ID = "0196a5b2-7c1e-7d5a-9b1f-3c2d1e0f9a8b"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
LINKS: dict[str, JsonValue] = {
    "self": f"/api/v1/jobs/{JOB_ID}",
    "events": f"/api/v1/jobs/{JOB_ID}/events",
}


class Links(BaseModel):
    """Where to look further."""

    self: str
    events: str


class Receipt(BaseModel):
    """A job that is committed to the ledger."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": JOB_ID,
                    "state": "ready",
                    "kind": "email.send",
                    "queue": "critical",
                    "priority": 9,
                    "created_at": NOW,
                    "run_at": NOW,
                    "trace_id": TRACE_ID,
                    "links": LINKS,
                }
            ]
        }
    )

    id: UUID
    state: State
    kind: str
    queue: str
    priority: int
    created_at: datetime
    run_at: datetime
    trace_id: str | None
    links: Links


class JobBrief(BaseModel):
    """A job in a list."""

    id: UUID
    kind: str
    queue: str
    state: State
    priority: int
    attempt: int = Field(description="How often it was claimed; with the id, the fence.")
    counted: int = Field(description="Attempts that count against max_attempts.")
    max_attempts: int
    run_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reason: str | None = Field(description="Why it is in this state.")
    workflow_id: str | None
    tags: list[str]
    trace_id: str | None


class CallbackBrief(BaseModel):
    """A job of the kind http.callback: the report of one end of a job."""

    id: UUID
    state: State
    counted: int = Field(description="How often it was tried.")
    max_attempts: int
    run_at: datetime = Field(
        description="When it is or was due; after a failed attempt, the next one."
    )
    finished_at: datetime | None
    reason: str | None = Field(
        description="Why it is in this state: what the receiver responded with."
    )


class JobFull(JobBrief):
    """Everything about one job; `payload` only where it was asked for."""

    lane: str = Field(description="What it depends on; lanes do not delay each other.")
    deadline: datetime | None
    timeout_s: float
    error: dict[str, Any] | None = Field(description="type, message, traceback of the last error.")
    result: dict[str, Any] | None
    worker: str | None
    colour: str | None
    version: str | None
    deaths: int
    cancel_requested_at: datetime | None
    callback_url: str | None
    callbacks: list[CallbackBrief] = Field(
        description="The deliveries to callback_url, newest first."
    )
    idempotency_key: str | None
    on_parent_failure: Literal["fail", "release"]
    traceparent: str | None
    accepted_by: str | None
    depends_on: list[UUID]
    payload: dict[str, Any] | None = None
    links: Links


class JobPage(BaseModel):
    """Jobs, newest first; `next` goes into `before` to get the next page; null on the last one."""

    jobs: list[JobBrief]
    next: UUID | None


class QueueCount(BaseModel):
    """How many jobs of one queue are in one state."""

    queue: str
    state: State
    jobs: int


class Stats(BaseModel):
    """Jobs counted by queue and state; `states` sums over the queues."""

    total: int
    states: dict[State, int]
    queues: list[QueueCount]


class Event(BaseModel):
    """One change of state."""

    seq: int
    from_state: State | None
    to_state: State
    attempt: int
    worker: str | None
    colour: str | None
    version: str | None
    reason: str | None
    error: dict[str, Any] | None
    duration_ms: float | None = Field(description="Duration of the attempt that this change ended.")
    at: datetime
    repeats: int = Field(description="How many snoozes in a row this stands for.")
    last_at: datetime | None = Field(description="When the last of them was.")


class Events(BaseModel):
    """The history of one job, oldest first."""

    events: list[Event]


class BatchJob(BaseModel):
    """An accepted job of a batch."""

    index: int
    id: UUID
    state: State
    replayed: bool = Field(default=False, description="Its idempotency key had been used before.")


class BatchError(BaseModel):
    """A refused job of a batch."""

    index: int
    code: str
    detail: str
    field: str | None = None
    remedy: str | None = None
    errors: list[dict[str, Any]] | None = None


class BatchReceipt(BaseModel):
    """What became of a batch; `index` counts its jobs from 0."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "accepted": 1,
                    "refused": 1,
                    "jobs": [{"index": 0, "id": JOB_ID, "state": "ready"}],
                    "errors": [
                        {
                            "index": 1,
                            "code": "kind_unknown",
                            "field": "kind",
                            "detail": "There is no kind 'email.sned'.",
                        }
                    ],
                }
            ]
        }
    )

    accepted: int
    refused: int
    jobs: list[BatchJob]
    errors: list[BatchError]


class Acted(BaseModel):
    """A job after an operator's action."""

    id: UUID
    state: State
    links: Links


class RetriedMany(BaseModel):
    """How many jobs matched, and how many were made ready again."""

    matched: int
    retried: int
    dry_run: bool


class ProblemDocument(BaseModel):
    """RFC 9457, with Relais' own members."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/docs#value_invalid",
                    "title": "A value is not valid",
                    "status": 422,
                    "code": "value_invalid",
                    "detail": "priority: Input should be less than or equal to 9.",
                    "field": "priority",
                    "remedy": "Correct the named fields.",
                    "trace_id": TRACE_ID,
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    code: str = Field(description="Stable; listed at /docs.")
    detail: str
    field: str | None = None
    remedy: str | None = None
    errors: list[dict[str, Any]] | None = None
    trace_id: str | None = None
