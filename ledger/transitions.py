"""The only place that changes `jobs.state`: one function per transition, one named statement each.

Every function takes a connection inside a transaction; the caller commits, and only then tells the
outside world. The statements are in `transitions.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic_core import to_json

from ledger import consequences, parents
from ledger.errors import NotFound, WrongState
from ledger.models.jobs import State
from ledger.shapes import (
    Accepted,
    ClaimedJob,
    Finish,
    Finished,
    NewJob,
    Promoted,
    Reclaimed,
    Wish,
    Woken,
)
from ledger.statements import TRANSITIONS as SQL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    Fence = tuple[UUID, int]

__all__ = [
    "Accepted",
    "ClaimedJob",
    "Finish",
    "Finished",
    "NewJob",
    "Promoted",
    "Reclaimed",
    "Wish",
    "Woken",
    "accept",
    "cancel",
    "claim",
    "expire_unknown_kinds",
    "extend_leases",
    "finish",
    "promote",
    "reclaim",
    "release_strays",
    "resolve",
    "retry",
    "settle_blocked",
]

CLAIM_BYTES_MAX = 64 * 1024 * 1024  # payloads of one claim, beyond the first job's
SNOOZE_MAX_S = 3 * 86_400.0
EVER = "-infinity"


async def accept(connection: AsyncConnection, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Insert new jobs; results in the order of `jobs`. Safe to repeat with the same keys.

    Parents are locked so that they cannot finish meanwhile; raises ParentBusy if one stays locked.
    """
    families = await parents.look(connection, jobs)
    # Sorted by key, so that two writers with the same keys lock them in the same order.
    ordered = sorted(
        (job for job in jobs if not families.missing(job)),
        key=lambda job: (job.tenant, job.idempotency_key or ""),
    )
    inserted: dict[UUID, Accepted] = {}
    if ordered:
        rows = [job.as_row() | families.columns(job) for job in ordered]
        inserted = {
            row.id: Accepted(row.id, State(row.state), row.created_at, row.run_at)
            for row in await consequences.insert(connection, rows)
        }
    children = [job for job in ordered if job.id in inserted and job.depends_on]
    if children:
        await parents.link(connection, children, families)
        born_over = [job.id for job in children if families.columns(job)["ended"]]
        await consequences.follow(connection, born_over)
    known = await _find_by_key(connection, [job for job in ordered if job.id not in inserted])
    return [_answer(job, inserted, known, families.missing(job)) for job in jobs]


async def claim(
    connection: AsyncConnection,
    *,
    queue: str,
    wishes: Sequence[Wish],
    owner: UUID,
    worker: str,
    colour: str,
    version: str,
    lease_s: float,
    limit: int,
    bytes_max: int = CLAIM_BYTES_MAX,
) -> list[ClaimedJob]:
    """Take up to `limit` ready jobs, as `wishes` say, in the order in which they should run.

    Nothing if `owner` has no row in `workers`. Beyond `bytes_max` of payload no further job is
    taken.
    """
    result = await connection.execute(
        SQL["claim"],
        {
            "queue": queue,
            "lanes": [wish.lane for wish in wishes],
            "kinds": [wish.kind for wish in wishes],
            "priorities": [wish.priority for wish in wishes],
            "floors": [wish.floor or EVER for wish in wishes],
            "quotas": [wish.quota for wish in wishes],
            "owner": owner,
            "worker": worker,
            "colour": colour,
            "version": version,
            "lease_s": lease_s,
            "limit": limit,
            "bytes_max": bytes_max,
        },
    )
    jobs = [ClaimedJob(*row) for row in result]
    jobs.sort(key=lambda job: (-job.priority, job.ready_at, job.id))
    return jobs


async def finish(
    connection: AsyncConnection,
    finishes: Sequence[Finish],
    *,
    snooze_max_s: float = SNOOZE_MAX_S,
) -> Finished:
    """Write outcomes, each fenced by (id, attempt).

    Whatever follows from an end (children, the callback) is written in the same transaction.
    """
    written: set[UUID] = set()
    ended: list[UUID] = []
    calling: list[UUID] = []
    for name, rows in _by_statement(finishes).items():
        parameters: dict[str, Any] = {"rows": to_json(rows).decode()}
        if name == "defer":
            parameters["snooze_max_s"] = snooze_max_s
            ids = [row["id"] for row in rows]
            await connection.execute(SQL["lock"], {"ids": ids, "tenant": None})
        for row in await connection.execute(SQL[name], parameters):
            written.add(row.id)
            if row.is_over:
                ended.append(row.id)
                if row.calls_back:
                    calling.append(row.id)
    over = set(ended)
    results = [
        {"id": item.id, "result": item.result}
        for item in finishes
        if item.result is not None and item.id in over
    ]
    if results:
        await connection.execute(SQL["keep_results"], {"rows": to_json(results).decode()})
    traces = {item.id: item.traceparent for item in finishes}
    woken = await consequences.follow(connection, ended, calling=calling, traces=traces)
    return Finished([item.id in written for item in finishes], woken)


async def release_strays(
    connection: AsyncConnection, *, owner: UUID, held: Sequence[Fence], since_s: float = 1e9
) -> list[UUID]:
    """Give back jobs that `owner` got within `since_s` and does not hold."""
    result = await connection.execute(
        SQL["release_strays"], {"owner": owner, "since_s": since_s, **_fences(held)}
    )
    rows = result.all()
    await consequences.follow(connection, [row.id for row in rows if row.is_over])
    return [row.id for row in rows]


async def reclaim(
    connection: AsyncConnection,
    *,
    dead: Sequence[UUID] = (),
    overdue: Sequence[UUID] = (),
    died: Sequence[Fence] = (),
    counted: bool = True,
    reason: str = "its worker died",
) -> Reclaimed:
    """Reclaim jobs of `dead` owners, expired ones of `overdue` owners, and `died` attempts.

    A reclaimed job runs alone from then on. It counts against the job only if its own process died
    and `counted` says that the job caused it; the third time it is quarantined.
    """
    parameters = {
        "dead": list(dead),
        "overdue": list(overdue),
        "died": [job_id for job_id, _ in died],
        "died_attempts": [attempt for _, attempt in died],
        "reason": reason,
    }
    is_counted = counted and bool(died)
    gone = (await connection.execute(SQL["quarantine"], parameters)).all() if is_counted else []
    back = (
        await connection.execute(SQL["reclaim"], {**parameters, "is_counted": is_counted})
    ).all()
    cancelled = [row.id for row in back if row.is_over]
    woken = await consequences.follow(connection, [*(row.id for row in gone), *cancelled])
    return Reclaimed(
        ready=tuple((row.id, row.queue, row.kind) for row in back if not row.is_over),
        quarantined=tuple((row.id, row.queue, row.kind) for row in gone),
        cancelled=tuple(cancelled),
        woken=tuple(woken),
    )


async def promote(
    connection: AsyncConnection,
    *,
    queue: str,
    limit: int,
    per_lane: int | None = None,
    since: datetime | None = None,
) -> Promoted:
    """Make due jobs of `queue` ready, those due since `since` only; `per_lane` of each at most."""
    result = await connection.execute(
        SQL["promote"],
        {"queue": queue, "limit": limit, "per_lane": per_lane or limit, "since": since or EVER},
    )
    return Promoted(*result.one())


async def extend_leases(
    connection: AsyncConnection, *, held: Sequence[Fence], lease_s: float
) -> None:
    """Extend the leases of those attempts that have been running for a while."""
    await connection.execute(SQL["extend_leases"], {"lease_s": lease_s, **_fences(held)})


async def cancel(connection: AsyncConnection, *, tenant: str, job_id: UUID, by: str) -> State:
    """Cancel a waiting job, or ask the worker of a running one to stop.

    Returns the state right after: cancelled, or running until the worker has stopped it.
    """
    parameters = {"tenant": tenant, "id": job_id, "reason": f"cancelled by {by}"}
    # Locked first: between two looks at it a running job could have become a waiting one.
    await connection.execute(SQL["lock"], {"ids": [job_id], "tenant": tenant})
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
    """Make failed, cancelled or unknown jobs ready again, or blocked if a parent is open.

    Returns their (id, queue, kind); raises ParentBusy if a parent stays locked.
    """
    await parents.lock_all_of(connection, job_ids)
    await connection.execute(SQL["lock"], {"ids": list(job_ids), "tenant": tenant})
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


async def settle_blocked(
    connection: AsyncConnection, *, after: UUID, limit: int
) -> tuple[UUID | None, list[Woken]]:
    """Move children, in a slice of blocked jobs, that missed the ends of their parents.

    Returns where the next slice begins (None: that was the last), and what became ready.
    """
    slice_of = {"after": after, "limit": limit}
    last: UUID | None = (await connection.execute(SQL["last_blocked"], slice_of)).scalar()
    found = list((await connection.execute(SQL["parents_left_behind"], slice_of)).scalars())
    return last, await consequences.settle(connection, found)


async def expire_unknown_kinds(
    connection: AsyncConnection, *, older_than_s: float, limit: int
) -> list[UUID]:
    """Fail jobs that have been ready for too long and whose kind no worker knows."""
    result = await connection.execute(
        SQL["expire_unknown_kinds"], {"older_than_s": older_than_s, "limit": limit}
    )
    expired = list(result.scalars())
    await consequences.follow(connection, expired)
    return expired


def _fences(held: Sequence[Fence]) -> dict[str, Any]:
    return {"ids": [job_id for job_id, _ in held], "attempts": [attempt for _, attempt in held]}


def _by_statement(finishes: Sequence[Finish]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in sorted(finishes, key=lambda item: item.id):
        row: dict[str, Any] = {"id": item.id, "attempt": item.attempt}
        if item.state is State.SUCCEEDED:
            name = "succeed"
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
            row |= {"state": item.state.value, "reason": item.reason, "error": item.error}
        groups.setdefault(name, []).append(row)
    return groups


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
    raise WrongState(message, remedy="Its events say how it came to this state.")
