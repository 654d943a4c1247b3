"""What follows from the end of a job, in the same transaction: its callback and its children."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from ledger import dependence, ids, lanes, queries
from ledger.models.jobs import State
from ledger.shapes import NewJob, Woken
from ledger.statements import TRANSITIONS as SQL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection


CALLBACK_KIND = "http.callback"
CALLBACK_ATTEMPTS = 10
CALLBACK_TIMEOUT_S = 60.0


async def follow(
    connection: AsyncConnection,
    ended: Sequence[UUID],
    *,
    calling: Sequence[UUID] | None = None,
    traces: Mapping[UUID, str | None] | None = None,
) -> list[Woken]:
    """Write the callbacks of `ended` jobs and move their children; children's ends too.

    `calling`: those of them that have a callback, if the caller knows. `traces`: the traceparent
    of the run that ended each job. Returns the jobs that became ready as a result.
    """
    if not ended:
        return []
    woken = await _call_back(connection, ended if calling is None else calling, traces or {})
    return woken + await settle(connection, ended)


async def insert(
    connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]
) -> Sequence[Row[Any]]:
    """Insert `rows` of new jobs and their payloads; returns those whose key was free."""
    result = await connection.execute(SQL["accept"], {"jobs": to_json(rows).decode()})
    return result.all()


async def settle(connection: AsyncConnection, parents: Sequence[UUID]) -> list[Woken]:
    """Fail, cancel or free the jobs that wait for `parents`, as far as those have ended."""
    woken: list[Woken] = []
    ended = list(parents)
    while ended:
        closed = (await connection.execute(SQL["close_links"], {"parents": ended})).all()
        if not closed:
            break
        doomed = await _fail_descendants(connection, ended, closed)
        woken += await _free_children(connection, closed)
        woken += await _call_back(connection, doomed, {})
        ended = doomed  # children that do not mind are freed by it
    return woken


async def _fail_descendants(
    connection: AsyncConnection, ended: Sequence[UUID], closed: Sequence[Row[Any]]
) -> list[UUID]:
    asked = {"parents": list(ended), "children": [row.id for row in closed]}
    found = (await connection.execute(SQL["find_doomed"], asked)).all()
    locked = await _lock(connection, [row.id for row in found])
    doomed = [row for row in found if row.id in locked]
    if not doomed:
        return []
    values = {
        "ids": [row.id for row in doomed],
        "parents": [row.parent_id for row in doomed],
        "states": [str(row.state) for row in doomed],
    }
    return list((await connection.execute(SQL["fail_children"], values)).scalars())


async def _free_children(connection: AsyncConnection, closed: Sequence[Row[Any]]) -> list[Woken]:
    await _lock(connection, [row.id for row in closed])
    values = {"ids": [row.id for row in closed], "links": [row.links for row in closed]}
    freed = (await connection.execute(SQL["free_children"], values)).all()
    return [Woken(row.id, row.queue, row.kind) for row in freed if row.state == State.READY]


async def _lock(connection: AsyncConnection, children: Sequence[UUID]) -> set[UUID]:
    if not children:
        return set()
    locked = await connection.execute(SQL["lock_waiting"], {"ids": list(children)})
    return set(locked.scalars())


async def state_of(connection: AsyncConnection, *, tenant: str, job_id: UUID) -> State | None:
    """The state of one job of `tenant`."""
    result = await connection.execute(SQL["state_of"], {"tenant": tenant, "id": job_id})
    value = result.scalar_one_or_none()
    return None if value is None else State(value)


async def _call_back(
    connection: AsyncConnection, ended: Sequence[UUID], traces: Mapping[UUID, str | None]
) -> list[Woken]:
    if not ended:
        return []
    rows = (await connection.execute(SQL["callbacks_of"], {"ids": list(ended)})).all()
    callbacks = [_callback(row, traces.get(row.id)) for row in rows]
    if callbacks:
        no_parents = {"waits_for": 0, "ended": None, "reason": None}
        await insert(connection, [job.as_row() | no_parents for job in callbacks])
    return [Woken(job.id, job.queue, job.kind) for job in callbacks]


def _callback(row: Row[Any], trace: str | None) -> NewJob:
    body = {
        "type": f"job.{row.state}",
        "timestamp": row.finished_at,
        "data": {
            "id": row.id,
            "kind": row.kind,
            "queue": row.queue,
            "state": row.state,
            "attempt": row.attempt,
            "reason": row.reason,
            "result": row.result,
            "workflow_id": row.workflow_id,
            "tags": row.tags,
            "trace_id": row.trace_id,
            "created_at": row.created_at,
            "finished_at": row.finished_at,
        },
    }
    payload = {"url": row.callback_url, "body": body}
    return NewJob(
        id=ids.new(),
        tenant=row.tenant,
        kind=CALLBACK_KIND,
        queue="callback",
        lane=lanes.name(row.tenant, dependence.on_host(row.callback_url)),
        payload=payload,
        payload_bytes=len(to_json(payload)),
        max_attempts=CALLBACK_ATTEMPTS,
        timeout_s=CALLBACK_TIMEOUT_S,
        workflow_id=row.workflow_id,
        tags=("callback", queries.about(row.id)),
        traceparent=trace or row.traceparent,
        trace_id=row.trace_id,
        accepted_by=f"job:{row.id}",
    )
