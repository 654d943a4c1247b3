"""The only place that changes `jobs.state`: one function per transition, one named statement each.

Every function takes a connection inside a transaction; the caller commits, and tells the outside
world only then. The statements are in `transitions.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from ledger import consequences
from ledger.errors import NotFound, WrongState
from ledger.models.jobs import State
from ledger.shapes import Accepted, ClaimedJob, Finish, Finished, NewJob, Reclaimed, Woken
from ledger.statements import TRANSITIONS as SQL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = [
    "Accepted",
    "ClaimedJob",
    "Finish",
    "Finished",
    "NewJob",
    "Reclaimed",
    "Woken",
    "accept",
    "cancel",
    "claim",
    "extend_leases",
    "finish",
    "promote",
    "reclaim",
    "release_strays",
    "resolve",
    "retry",
]


async def accept(connection: AsyncConnection, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Write new jobs; answers in the order of `jobs`. Safe to repeat with the same keys."""
    parents = await _adopt_parents(connection, jobs)
    missing = {
        job.id: tuple(p for p in job.depends_on if (job.tenant, p) not in parents) for job in jobs
    }
    # Sorted by key, so that two writers with the same keys wait for each other in one order.
    ordered = sorted(
        (job for job in jobs if not missing[job.id]),
        key=lambda job: (job.tenant, job.idempotency_key or ""),
    )
    inserted: dict[UUID, Accepted] = {}
    if ordered:
        rows = to_json([job.as_row() for job in ordered]).decode()
        result = await connection.execute(SQL["accept"], {"jobs": rows})
        inserted = {
            row.id: Accepted(row.id, State(row.state), row.created_at, row.run_at) for row in result
        }
    children = [job for job in ordered if job.id in inserted and job.depends_on]
    if children:
        links = [(job.id, parent) for job in children for parent in dict.fromkeys(job.depends_on)]
        await connection.execute(
            SQL["link_parents"],
            {"children": [child for child, _ in links], "parents": [p for _, p in links]},
        )
        inserted |= await _settle_children(connection, [p for _, p in links], inserted)
    known = await _find_by_key(connection, [job for job in ordered if job.id not in inserted])
    return [_answer(job, inserted, known, missing[job.id]) for job in jobs]


async def claim(
    connection: AsyncConnection,
    *,
    queue: str,
    owner: UUID,
    worker: str,
    colour: str,
    version: str,
    lease_s: float,
    limit: int,
) -> list[ClaimedJob]:
    """Take up to `limit` ready jobs, in the order in which they should run."""
    result = await connection.execute(
        SQL["claim"],
        {
            "queue": queue,
            "owner": owner,
            "worker": worker,
            "colour": colour,
            "version": version,
            "lease_s": lease_s,
            "limit": limit,
        },
    )
    jobs = [ClaimedJob(*row) for row in result]
    jobs.sort(key=lambda job: (-job.priority, job.run_at, job.id))
    return jobs


async def finish(connection: AsyncConnection, finishes: Sequence[Finish]) -> Finished:
    """Write outcomes, each fenced by (id, attempt).

    Whatever follows from an end (children, the callback) is written in the same transaction.
    """
    written: set[UUID] = set()
    ended: list[UUID] = []
    for name, rows in _by_statement(finishes).items():
        result = await connection.execute(SQL[name], {"rows": to_json(rows).decode()})
        ids = list(result.scalars())
        written.update(ids)
        if name in {"succeed", "finish"}:
            ended.extend(ids)
    woken: list[Woken] = []
    if ended:
        traces = {item.id: item.traceparent for item in finishes}
        woken = await consequences.follow(connection, ended, traces=traces)
    return Finished([item.id in written for item in finishes], woken)


async def release_strays(
    connection: AsyncConnection, *, owner: UUID, known: Iterable[UUID]
) -> list[UUID]:
    """Give back what `owner` holds without knowing it."""
    result = await connection.execute(SQL["release_strays"], {"owner": owner, "known": list(known)})
    return list(result.scalars())


async def reclaim(
    connection: AsyncConnection,
    *,
    dead: Sequence[UUID] = (),
    overdue: Sequence[UUID] = (),
    died: Sequence[tuple[UUID, int]] = (),
    reason: str = "its worker died",
) -> Reclaimed:
    """Take back jobs of `dead` owners, expired ones of `overdue` owners, and `died` attempts.

    A job that was taken back runs alone from then on; at its third death alone it is quarantined.
    """
    parameters = {
        "dead": list(dead),
        "overdue": list(overdue),
        "died": [job_id for job_id, _ in died],
        "died_attempts": [attempt for _, attempt in died],
    }
    gone = (await connection.execute(SQL["quarantine"], parameters)).all()
    woken: list[Woken] = []
    if gone:
        woken = await consequences.follow(connection, [row.id for row in gone])
    back = (await connection.execute(SQL["reclaim"], {**parameters, "reason": reason})).all()
    return Reclaimed(
        ready=tuple((row.id, row.queue, row.kind) for row in back),
        quarantined=tuple((row.id, row.queue, row.kind) for row in gone),
        woken=tuple(woken),
    )


async def promote(connection: AsyncConnection, *, queue: str, limit: int) -> int:
    """Make due jobs of `queue` ready; how many."""
    result = await connection.execute(SQL["promote"], {"queue": queue, "limit": limit})
    return len(result.all())


async def extend_leases(connection: AsyncConnection, *, owner: UUID, lease_s: float) -> None:
    """Prolong what `owner` has been running for a while."""
    await connection.execute(SQL["extend_leases"], {"owner": owner, "lease_s": lease_s})


async def cancel(connection: AsyncConnection, *, tenant: str, job_id: UUID, by: str) -> State:
    """Cancel a waiting job, or ask the worker of a running one to stop.

    Returns the state right after: cancelled, or running while the worker winds it up.
    """
    parameters = {"tenant": tenant, "id": job_id, "reason": f"cancelled by {by}"}
    if (await connection.execute(SQL["cancel"], parameters)).first():
        await consequences.follow(connection, [job_id])
        return State.CANCELLED
    if (await connection.execute(SQL["request_cancel"], parameters)).first():
        return State.RUNNING
    await _refuse(connection, tenant=tenant, job_id=job_id, verb="cancelled")
    raise AssertionError


async def retry(
    connection: AsyncConnection, *, tenant: str, job_ids: Sequence[UUID], by: str
) -> list[tuple[UUID, str, str]]:
    """Make failed, cancelled or unknown jobs ready again; (id, queue, kind) of those that were."""
    result = await connection.execute(
        SQL["retry"], {"tenant": tenant, "ids": list(job_ids), "reason": f"retried by {by}"}
    )
    retried = [(row.id, row.queue, row.kind) for row in result]
    if not retried and len(job_ids) == 1:
        await _refuse(connection, tenant=tenant, job_id=job_ids[0], verb="retried")
    return retried


async def resolve(
    connection: AsyncConnection,
    *,
    tenant: str,
    job_id: UUID,
    as_state: State,
    by: str,
    note: str = "",
) -> None:
    """Settle an unknown job as succeeded or failed."""
    reason = f"resolved by {by}" + (f": {note}" if note else "")
    result = await connection.execute(
        SQL["resolve"], {"tenant": tenant, "id": job_id, "state": as_state.value, "reason": reason}
    )
    if result.first() is None:
        await _refuse(connection, tenant=tenant, job_id=job_id, verb="resolved")
    await consequences.follow(connection, [job_id])


def _by_statement(finishes: Sequence[Finish]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in finishes:
        row: dict[str, Any] = {"id": item.id, "attempt": item.attempt}
        if item.state is State.SUCCEEDED:
            name = "succeed"
            row |= {"result": item.result}
        elif item.state is State.SCHEDULED:
            name = "defer"
            row |= {
                "delay_s": item.delay_s,
                "uncounted": 0 if item.is_counted else 1,
                "reason": item.reason,
                "error": item.error,
            }
        elif item.state is State.READY:
            name = "release"
            row |= {"reason": item.reason}
        else:
            name = "finish"
            row |= {
                "state": item.state.value,
                "reason": item.reason,
                "error": item.error,
                "result": item.result,
            }
        groups.setdefault(name, []).append(row)
    return groups


async def _adopt_parents(
    connection: AsyncConnection, jobs: Sequence[NewJob]
) -> set[tuple[str, UUID]]:
    wanted = {(parent, job.tenant) for job in jobs for parent in job.depends_on}
    if not wanted:
        return set()
    result = await connection.execute(
        SQL["adopt_parents"],
        {"ids": [parent for parent, _ in wanted], "tenants": [tenant for _, tenant in wanted]},
    )
    return {(row.tenant, row.id) for row in result}


async def _settle_children(
    connection: AsyncConnection, parents: Sequence[UUID], inserted: dict[UUID, Accepted]
) -> dict[UUID, Accepted]:
    """Children of parents that are over already do not wait; their new states."""
    settled = await consequences.settle_children(connection, sorted(set(parents)))
    return {
        job_id: Accepted(job_id, state, inserted[job_id].created_at, inserted[job_id].run_at)
        for job_id, state in settled.states.items()
        if job_id in inserted
    }


async def _find_by_key(
    connection: AsyncConnection, jobs: Sequence[NewJob]
) -> dict[tuple[str, str], Any]:
    if not jobs:
        return {}
    result = await connection.execute(
        SQL["find_by_key"],
        {"tenants": [j.tenant for j in jobs], "keys": [j.idempotency_key for j in jobs]},
    )
    return {(row.tenant, row.idempotency_key): row for row in result}


def _answer(
    job: NewJob,
    inserted: dict[UUID, Accepted],
    known: dict[tuple[str, str], Any],
    missing: tuple[UUID, ...],
) -> Accepted:
    if missing:
        return Accepted(job.id, State.BLOCKED, None, None, is_new=False, missing_parents=missing)
    if job.id in inserted:
        return inserted[job.id]
    first = known[(job.tenant, job.idempotency_key or "")]
    return Accepted(
        first.id,
        State(first.state),
        first.created_at,
        first.run_at,
        is_new=False,
        is_conflict=bytes(first.request_hash) != job.request_hash,
    )


async def _refuse(connection: AsyncConnection, *, tenant: str, job_id: UUID, verb: str) -> None:
    state = await consequences.state_of(connection, tenant=tenant, job_id=job_id)
    if state is None:
        message = f"There is no job {job_id}."
        raise NotFound(message, remedy="Check the id; pruned jobs are gone.")
    message = f"Job {job_id} is {state} and cannot be {verb}."
    raise WrongState(message)
