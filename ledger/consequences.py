"""What follows from the end of a job, in the same transaction: its callback and its children."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from sqlalchemy import text

from ledger import ids
from ledger.models.jobs import State
from ledger.shapes import NewJob
from ledger.statements import TRANSITIONS as SQL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

CALLBACK_KIND = "http.callback"
CALLBACK_ATTEMPTS = 10
CALLBACK_TIMEOUT_S = 60.0

STATE_OF = text("SELECT state FROM relais.jobs WHERE tenant = :tenant AND id = :id")


async def follow(connection: AsyncConnection, ended: Sequence[UUID]) -> None:
    """Write the callbacks of `ended` jobs and move their children; children's ends too."""
    rows = (await connection.execute(SQL["finished_with_consequences"], {"ids": list(ended)})).all()
    callbacks = [_callback(row).as_row() for row in rows if row.callback_url]
    if callbacks:
        await connection.execute(SQL["accept"], {"jobs": to_json(callbacks).decode()})
    parents = [row.id for row in rows if row.has_children]
    if parents:
        await settle_children(connection, parents)


async def settle_children(
    connection: AsyncConnection, parents: Sequence[UUID]
) -> dict[UUID, State]:
    """Unblock, fail or cancel the children of `parents`, as far as their parents are over."""
    parameters = {"parents": list(parents)}
    children = list((await connection.execute(SQL["lock_children"], parameters)).scalars())
    if not children:
        return {}
    failed = (await connection.execute(SQL["fail_children"], parameters)).all()
    freed = (await connection.execute(SQL["unblock"], {"children": children})).all()
    if failed:
        await follow(connection, [row.id for row in failed])
    return {row.id: State(row.state) for row in (*failed, *freed)}


async def state_of(connection: AsyncConnection, *, tenant: str, job_id: UUID) -> State | None:
    """The state of one job of `tenant`."""
    result = await connection.execute(STATE_OF, {"tenant": tenant, "id": job_id})
    value = result.scalar_one_or_none()
    return None if value is None else State(value)


def _callback(row: Row[Any]) -> NewJob:
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
        traceparent=row.traceparent,
        trace_id=row.trace_id,
        accepted_by=f"job:{row.id}",
    )
