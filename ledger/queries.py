"""Reading the ledger: one function for each question; nothing here changes a row.

Rows are returned as dictionaries with the names of the API.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import text

from ledger import counts
from ledger.filters import literals
from ledger.models.jobs import FINISHED, OPEN, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Result
    from sqlalchemy.ext.asyncio import AsyncConnection

    from ledger.filters import JobFilter

_BRIEF = (
    "j.id, j.kind, j.queue, j.state, j.priority, j.attempt, j.attempt - j.uncounted AS counted,"
    " j.max_attempts, j.run_at, j.created_at, j.started_at, j.finished_at, j.reason,"
    " j.workflow_id, j.tags, j.trace_id"
)
_FULL = (
    f"{_BRIEF}, j.lane, j.deadline, j.timeout_s, j.error, body.result, j.worker,"
    " j.colour, j.version, j.deaths,"
    " j.cancel_requested_at, j.callback_url, j.idempotency_key, j.on_parent_failure,"
    " j.traceparent, j.accepted_by, ARRAY(SELECT p.parent_id FROM relais.job_parents AS p"
    " WHERE p.child_id = j.id ORDER BY p.parent_id) AS depends_on"
)

# One job, for a caller of its tenant.
_ONE = (
    " FROM relais.jobs AS j LEFT JOIN relais.job_bodies AS body ON body.job_id = j.id"
    " WHERE j.tenant = :tenant AND j.id = :id"
)
JOB = f"SELECT {_FULL}{_ONE}"
JOB_WITH_PAYLOAD = f"SELECT {_FULL}, coalesce(body.payload, '{{}}') AS payload{_ONE}"
# The callbacks of one job, newest first: one for each time that it ended.
CALLBACKS = text(
    "SELECT id, state, attempt - uncounted AS counted, max_attempts, run_at, finished_at, reason"
    " FROM relais.jobs WHERE tags <> '{}' AND tags @> ARRAY[CAST(:tag AS text)]"
    " AND tenant = :tenant AND kind = 'http.callback' ORDER BY id DESC LIMIT 20"
)
# The history of one job, oldest first; it outlives the job.
EVENTS = text(
    "SELECT seq, from_state, to_state, attempt, worker, colour, version, reason, error,"
    " duration_ms, at, repeats, last_at FROM relais.job_events"
    " WHERE job_id = :id AND tenant = :tenant AND seq > :after ORDER BY seq LIMIT :limit"
)
# The messages of one job, in the order of its recipients.
MESSAGES = text(
    "SELECT id, position, recipient, role, message_id, relay, state, attempt, tries, reply_code,"
    " enhanced_code, reply, reason, created_at, dot_sent_at, sent_at, changed_at"
    " FROM relais.messages WHERE job_id = :id AND tenant = :tenant"
    " ORDER BY position LIMIT :limit"
)
# Which of these jobs have ended.
OVER = text(
    "SELECT id FROM relais.jobs WHERE id = ANY(CAST(:ids AS uuid[]))"
    f" AND state IN ({literals(FINISHED)})"
)
# Since when the oldest ready job of each queue has been ready; one probe per lane.
OLDEST_READY = text("""
SELECT l.queue, extract(epoch FROM statement_timestamp() - min(head.ready_at))::float8 AS oldest_s
FROM relais.lanes AS l
CROSS JOIN LATERAL (
    SELECT j.ready_at FROM relais.jobs AS j
    WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind AND j.priority = l.priority
      AND j.state = 'ready'
    ORDER BY j.ready_at LIMIT 1
) AS head
WHERE CAST(:tenant AS text) IS NULL OR l.lane = :tenant
      OR left(l.lane, length(:tenant) + 1) = :tenant || '/'
GROUP BY l.queue
""")
# What operators decided about queues, and when the newest canary came through.
QUEUES = text(
    "SELECT name, paused_at, paused_by, canary_at,"
    " extract(epoch FROM clock_timestamp() - canary_at)::float8 AS canary_age_s"
    " FROM relais.queues ORDER BY name"
)
# The processes that were seen lately.
WORKERS = text(
    "SELECT queue, colour, version, host, pid, name, started_at, seen_at,"
    " extract(epoch FROM clock_timestamp() - seen_at)::float8 AS seen_s"
    " FROM relais.workers WHERE seen_at > clock_timestamp() - interval '1 hour'"
    " ORDER BY queue, colour, started_at"
)


async def job(
    connection: AsyncConnection, *, tenant: str, job_id: UUID, with_payload: bool = False
) -> dict[str, Any] | None:
    """One job of `tenant`."""
    statement = text(JOB_WITH_PAYLOAD if with_payload else JOB)
    result = await connection.execute(statement, {"tenant": tenant, "id": job_id})
    rows = _rows(result)
    return rows[0] if rows else None


def about(job_id: UUID) -> str:
    """The tag by which the callbacks of a job are found."""
    return f"job:{job_id}"


async def callbacks(
    connection: AsyncConnection, *, tenant: str, job_id: UUID
) -> list[dict[str, Any]]:
    """The jobs that report the ends of one job, the newest first."""
    return _rows(await connection.execute(CALLBACKS, {"tenant": tenant, "tag": about(job_id)}))


async def jobs(
    connection: AsyncConnection,
    *,
    tenant: str,
    matching: JobFilter,
    before: UUID | None,
    limit: int,
) -> list[dict[str, Any]]:
    """Up to `limit` jobs, newest first, older than `before`."""
    found: list[dict[str, Any]] = []
    for of_one_state in matching.by_state():
        where, values = of_one_state.conditions(tenant=tenant)
        if before is not None:
            where += " AND j.id < :before"
            values["before"] = before
        statement = text(
            f"SELECT {_BRIEF} FROM relais.jobs AS j WHERE {where} ORDER BY j.id DESC LIMIT :limit"
        )
        found += _rows(await connection.execute(statement, {**values, "limit": limit}))
    found.sort(key=itemgetter("id"), reverse=True)
    return found[:limit]


async def stats(
    connection: AsyncConnection, *, tenant: str, matching: JobFilter
) -> list[dict[str, Any]]:
    """How many jobs there are by queue and state; without other conditions from the counts."""
    if matching.is_of_counts:
        known = await counts.read(connection, tenant=tenant)
        return [
            {"queue": queue, "state": state, "jobs": jobs}
            for (queue, state), jobs in known.items()
            if matching.queue in {None, queue} and (not matching.states or state in matching.states)
        ]
    where, values = matching.conditions(tenant=tenant)
    statement = text(
        f"SELECT j.queue, j.state, count(*) AS jobs FROM relais.jobs AS j WHERE {where}"
        " GROUP BY j.queue, j.state ORDER BY j.queue, j.state"
    )
    return _rows(await connection.execute(statement, values))


async def matching_ids(
    connection: AsyncConnection, *, tenant: str, matching: JobFilter, limit: int
) -> list[UUID]:
    """The ids of up to `limit` jobs, oldest first."""
    where, values = matching.conditions(tenant=tenant)
    statement = text(f"SELECT j.id FROM relais.jobs AS j WHERE {where} ORDER BY j.id LIMIT :limit")
    result = await connection.execute(statement, {**values, "limit": limit})
    return list(result.scalars())


async def events(
    connection: AsyncConnection, *, tenant: str, job_id: UUID, after: int = 0, limit: int = 1_000
) -> list[dict[str, Any]]:
    """The history of one job; empty where `tenant` has no such job."""
    parameters = {"tenant": tenant, "id": job_id, "after": after, "limit": limit}
    return _rows(await connection.execute(EVENTS, parameters))


async def messages(
    connection: AsyncConnection, *, tenant: str, job_id: UUID, limit: int = 1_000
) -> list[dict[str, Any]]:
    """The messages of one job."""
    parameters = {"tenant": tenant, "id": job_id, "limit": limit}
    return _rows(await connection.execute(MESSAGES, parameters))


async def over_among(connection: AsyncConnection, job_ids: Sequence[UUID]) -> list[UUID]:
    """Those of `job_ids` that are succeeded, failed, cancelled or unknown."""
    return list((await connection.execute(OVER, {"ids": list(job_ids)})).scalars())


async def open_jobs(
    connection: AsyncConnection, *, tenant: str | None = None
) -> list[dict[str, Any]]:
    """Open jobs by queue and state, and how long the oldest ready one has waited.

    `tenant` None: of all tenants. Costs the same however many there are.
    """
    known = await counts.read(connection, tenant=tenant)
    result = await connection.execute(OLDEST_READY, {"tenant": tenant})
    oldest_s = {row.queue: row.oldest_s for row in result}
    return [
        {
            "queue": queue,
            "state": state,
            "jobs": jobs,
            "oldest_s": oldest_s.get(queue) if state is State.READY else None,
        }
        for (queue, state), jobs in known.items()
        if state in OPEN
    ]


async def queues(connection: AsyncConnection) -> list[dict[str, Any]]:
    """What operators decided about queues; a queue without a row is open."""
    return _rows(await connection.execute(QUEUES))


async def workers(connection: AsyncConnection) -> list[dict[str, Any]]:
    """The processes that were seen within the last hour."""
    return _rows(await connection.execute(WORKERS))


def _rows(result: Result[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in result.mappings()]
