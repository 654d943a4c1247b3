"""What follows from the end of a job, in the same transaction: its callback and its children."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from sqlalchemy import text

from ledger import ids
from ledger.models.jobs import State
from ledger.shapes import NewJob, Woken
from ledger.statements import TRANSITIONS as SQL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Settled:
    """Children that no longer wait: their new states, and what is ready to run."""

    states: dict[UUID, State]
    woken: tuple[Woken, ...]


CALLBACK_KIND = "http.callback"
CALLBACK_ATTEMPTS = 10
CALLBACK_TIMEOUT_S = 60.0

STATE_OF = text("SELECT state FROM relais.jobs WHERE tenant = :tenant AND id = :id")


async def follow(
    connection: AsyncConnection,
    ended: Sequence[UUID],
    *,
    traces: Mapping[UUID, str | None] | None = None,
) -> list[Woken]:
    """Write the callbacks of `ended` jobs and move their children; children's ends too.

    `traces`: the traceparent of the run that ended each job. Returns what became ready by it.
    """
    rows = (await connection.execute(SQL["finished_with_consequences"], {"ids": list(ended)})).all()
    callbacks = [_callback(row, (traces or {}).get(row.id)) for row in rows if row.callback_url]
    if callbacks:
        new = to_json([job.as_row() for job in callbacks]).decode()
        await connection.execute(SQL["accept"], {"jobs": new})
    woken = [Woken(job.id, job.queue, job.kind) for job in callbacks]
    parents = [row.id for row in rows if row.has_children]
    if parents:
        settled = await settle_children(connection, parents)
        woken.extend(settled.woken)
    return woken


async def settle_children(connection: AsyncConnection, parents: Sequence[UUID]) -> Settled:
    """Unblock, fail or cancel the children of `parents`, as far as their parents are over."""
    parameters = {"parents": list(parents)}
    children = list((await connection.execute(SQL["lock_children"], parameters)).scalars())
    if not children:
        return Settled({}, ())
    failed = (await connection.execute(SQL["fail_children"], parameters)).all()
    freed = (await connection.execute(SQL["unblock"], {"children": children})).all()
    woken = [Woken(row.id, row.queue, row.kind) for row in freed if row.state == State.READY]
    if failed:
        woken.extend(await follow(connection, [row.id for row in failed]))
    states = {row.id: State(row.state) for row in (*failed, *freed)}
    return Settled(states, tuple(woken))


async def state_of(connection: AsyncConnection, *, tenant: str, job_id: UUID) -> State | None:
    """The state of one job of `tenant`."""
    result = await connection.execute(STATE_OF, {"tenant": tenant, "id": job_id})
    value = result.scalar_one_or_none()
    return None if value is None else State(value)


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
    return NewJob(
        id=ids.new(),
        tenant=row.tenant,
        kind=CALLBACK_KIND,
        queue="callback",
        payload={"url": row.callback_url, "body": body},
        max_attempts=CALLBACK_ATTEMPTS,
        timeout_s=CALLBACK_TIMEOUT_S,
        workflow_id=row.workflow_id,
        tags=("callback",),
        traceparent=trace or row.traceparent,
        trace_id=row.trace_id,
        accepted_by=f"job:{row.id}",
    )
