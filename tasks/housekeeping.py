"""Kinds that Relais gives itself: `relais.retention` and `relais.queue_health`."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID
from weakref import WeakKeyDictionary

from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError

from ledger import (
    counts,
    lanes,
    messages,
    outage,
    partitions,
    queue_health,
    retention,
    transitions,
)
from runtime import logs
from tasks.email import logins
from tasks.kinds import QUEUES, kind
from tasks.outcomes import Outcome, Succeeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from runtime.settings import Settings
    from tasks.context import Context

SLICE_ROWS = 1_000
RETENTION_TIMEOUT_S = 600.0
BUDGET_S = 0.8 * RETENTION_TIMEOUT_S  # the next run goes on where this one stopped
SYSTEM_JOBS_S = 3_600.0
SYSTEM_TICKS_S = 86_400.0
SETTLE_BUDGET_S = 20.0  # the next look goes on where this one stopped
STALLED_S = 120.0  # a queue whose oldest ready job waits longer is worth a warning
log = logs.logger("housekeeping")


class Nothing(BaseModel, extra="forbid"):
    """These jobs need no input: what they do is in the settings."""


@kind(
    "relais.retention",
    payload=Nothing,
    queue="bulk",
    max_attempts=1,
    timeout_s=RETENTION_TIMEOUT_S,
    internal=True,
)
async def prune(_: Nothing, context: Context) -> Outcome:
    """Remove what is past its time, a slice at a time."""
    deadline = time.monotonic() + BUDGET_S
    removed = {
        name: await _in_slices(context.database, one_slice, deadline=deadline)
        for name, one_slice in _slices(context.settings).items()
    }
    async with context.database.begin() as connection:
        days = await partitions.drop_old(connection, events_s=context.settings.retention_events_s)
    if days:
        log.info("history.days_dropped", days=days)
    log.info("retention.done", **removed, is_complete=time.monotonic() < deadline)
    return Succeeded({"removed": removed})


@kind(
    "relais.queue_health",
    payload=Nothing,
    queue="bulk",
    max_attempts=1,
    timeout_s=60.0,
    internal=True,
)
async def look_at_queues(_: Nothing, context: Context) -> Outcome:
    """Log how deep and how old every queue is, and warn of those that stand still.

    On the way the books are kept: counts are rolled up, the history's next days are made, lanes
    that nobody uses are forgotten, messages of jobs that ended without their handler are settled,
    relays that refused a login are resumed where it has changed, and jobs end that would otherwise
    wait for ever.
    """
    await _keep_books(context.database)
    await _end_what_waits_in_vain(context.database, context.settings)
    await logins.resume_changed(context.database, context.settings)
    await _settle_abandoned(context.database)
    async with context.database.connect() as connection:
        queues = await queue_health.look(connection, queues=QUEUES)
    for queue in queues:
        log.info("queue.health", **asdict(queue))
        if (queue.oldest_ready_s or 0.0) > STALLED_S and not queue.is_paused:
            log.warning(
                "queue.stalled",
                name=queue.name,
                ready=queue.ready,
                oldest_ready_s=queue.oldest_ready_s,
            )
    return Succeeded({"queues": [asdict(queue) for queue in queues]})


async def _keep_books(database: AsyncEngine) -> None:
    while True:
        async with database.begin() as connection:
            if await counts.roll_up(connection) < counts.ROLL_UP_MAX:
                break
    async with database.begin() as connection:
        await lanes.register_missing(connection)
        await lanes.forget_idle(connection)
    try:
        async with database.begin() as connection:
            made = await partitions.make_ahead(connection)
    except DBAPIError as error:
        if not outage.is_passing(error):
            raise
        log.warning("history.days_not_made", error=type(error).__name__)  # a week is ahead
    else:
        if made:
            log.info("history.days_made", days=made)


async def _end_what_waits_in_vain(database: AsyncEngine, settings: Settings) -> None:
    """Children whose parents ended untold, and jobs of a kind that no worker knows."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        async with database.begin() as connection:
            after, _ = await transitions.settle_blocked(connection, after=after, limit=SLICE_ROWS)
    async with database.begin() as connection:
        expired = await transitions.expire_unknown_kinds(
            connection, older_than_s=settings.unknown_kind_max_s, limit=SLICE_ROWS
        )
    if expired:
        log.error("jobs.of_unknown_kinds", count=len(expired))


_walks: WeakKeyDictionary[AsyncEngine, messages.Abandoned] = WeakKeyDictionary()


async def _settle_abandoned(database: AsyncEngine) -> None:
    """Go on where the last look of this process ended; the first one goes back a day."""
    walk = _walks.setdefault(database, messages.Abandoned())
    deadline = time.monotonic() + SETTLE_BUDGET_S
    unknown = failed = 0
    while time.monotonic() < deadline:
        settled = await walk.settle(database, limit=SLICE_ROWS)
        unknown += settled.unknown
        failed += settled.failed
        if settled.looked_at < SLICE_ROWS:
            break
    if unknown or failed:
        log.warning("messages.abandoned", unknown=unknown, failed=failed)


def _slices(settings: Settings) -> dict[str, Callable[[AsyncConnection], Awaitable[int]]]:
    """What is pruned, in an order in which nothing loses its owner too early."""
    finished_s, events_s = settings.retention_finished_s, settings.retention_events_s
    return {
        "jobs": partial(
            retention.FinishedJobs(finished_s=finished_s, shelf_s=events_s).prune, limit=SLICE_ROWS
        ),
        "system_jobs": partial(
            retention.prune_system_jobs,
            kept_s=min(SYSTEM_JOBS_S, finished_s),
            shelf_s=finished_s,
            limit=SLICE_ROWS,
        ),
        "events": partial(partitions.prune_undated, events_s=events_s, limit=SLICE_ROWS),
        "messages": partial(retention.prune_messages, events_s=events_s, limit=SLICE_ROWS),
        "system_ticks": partial(
            retention.prune_ticks, kept_s=SYSTEM_TICKS_S, is_system=True, limit=SLICE_ROWS
        ),
        "ticks": partial(retention.prune_ticks, kept_s=events_s, is_system=False, limit=SLICE_ROWS),
    }


async def _in_slices(
    database: AsyncEngine,
    one_slice: Callable[[AsyncConnection], Awaitable[int]],
    *,
    deadline: float,
) -> int:
    """Repeat `one_slice`, each in a transaction of its own, while it comes back full."""
    removed = 0
    while time.monotonic() < deadline:
        async with database.begin() as connection:
            rows = await one_slice(connection)
        removed += rows
        if rows < SLICE_ROWS:
            break
    return removed
