"""Relais' own kinds: `relais.retention` and `relais.queue_health`.

Each is a list of independent tasks: one that fails or does not get a lock is logged, does not
affect the others, and is retried by the next run.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from ledger import counts, lanes, messages, outage, partitions, queue_health, retention, transitions
from ledger.database import briefly
from runtime import logs, metrics
from tasks.email import logins
from tasks.kinds import QUEUES, kind
from tasks.outcomes import Failed, Outcome, Snooze, Succeeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ledger.shapes import Slice
    from runtime.settings import Settings
    from tasks.context import Context

    Task = Callable[[float], Awaitable[Any]]  # until when (monotonic) -> what it did
    Prune = Callable[[AsyncConnection], Awaitable[Slice]]

SLICE_ROWS = 1_000
# The next run continues with what is not done by then. The time limit leaves room for what is still
# running: each statement has 30 seconds at most.
RETENTION_BUDGET_S = 480.0
RETENTION_TIMEOUT_S = 800.0
BOOKS_BUDGET_S = 40.0
BOOKS_TIMEOUT_S = 300.0
AGAIN_S = 5.0  # after an outage of the ledger
SYSTEM_JOBS_S = 3_600.0
SYSTEM_TICKS_S = 86_400.0
STALLED_S = 120.0  # a queue whose oldest ready job waits longer is worth a warning
log = logs.logger("housekeeping")


class Nothing(BaseModel, extra="forbid"):
    """These jobs need no input: the settings say what they do."""


@dataclass(slots=True)
class Round:
    """What each task did, and which could not be done."""

    done: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True  # False: a task failed, or had more to do than time
    is_cut_short: bool = False  # the ledger as a whole took nothing for a while

    async def run(self, tasks: Mapping[str, Task], *, budget_s: float) -> None:
        """Do all of `tasks`; each may use its share of the time plus what earlier ones left."""
        until = time.monotonic() + budget_s
        for position, (name, task) in enumerate(tasks.items()):
            now = time.monotonic()
            share_s = max(0.0, until - now) / (len(tasks) - position)
            try:
                self.done[name] = await task(now + share_s)
                self.is_complete &= time.monotonic() <= now + share_s
            except Exception as error:  # whatever it is, the others continue; it is logged in full
                self.failed[name] = type(error).__name__
                self.is_complete = False
                self.is_cut_short |= outage.is_away(error)
                if outage.is_passing(error):
                    log.warning(
                        "housekeeping.failed",
                        task=name,
                        error=type(error).__name__,
                        sqlstate=outage.sqlstate(error),
                    )
                else:
                    log.error("housekeeping.broken", exc_info=error, task=name)
            metrics.ran_housekeeping(task=name, result="failed" if name in self.failed else "done")

    def outcome(self, result: dict[str, Any]) -> Outcome:
        """Succeeded, unless a task failed; `result` is kept either way.

        Where that was an outage of the ledger nobody failed: all of it is done again afterwards.
        """
        if not self.failed:
            return Succeeded(result)
        failed = ", ".join(f"{name} ({error})" for name, error in self.failed.items())
        if self.is_cut_short:
            return Snooze(AGAIN_S, f"not done: {failed}; the ledger was away")
        return Failed(f"not done: {failed}; the next run tries again", result=result)


@kind(
    "relais.retention",
    payload=Nothing,
    queue="bulk",
    max_attempts=1,
    timeout_s=RETENTION_TIMEOUT_S,
    internal=True,
)
async def prune(_: Nothing, context: Context) -> Outcome:
    """Delete what has expired, a slice at a time, and create the history's next days."""
    database, settings = context.database, context.settings
    slices = {
        name: partial(_in_slices, database, one_slice)
        for name, one_slice in _slices(settings).items()
    }
    days: dict[str, Task] = {
        "days_made": partial(_make_days, database),
        "days_dropped": partial(_drop_days, database, settings.retention_events_s),
    }
    this = Round()
    await this.run(days | slices, budget_s=RETENTION_BUDGET_S)
    removed = {name: this.done[name] for name in slices if name in this.done}
    log.info("retention.done", **removed, is_complete=this.is_complete)
    return this.outcome({"removed": removed})


@kind(
    "relais.queue_health",
    payload=Nothing,
    queue="bulk",
    max_attempts=1,
    timeout_s=BOOKS_TIMEOUT_S,
    internal=True,
)
async def look_at_queues(_: Nothing, context: Context) -> Outcome:
    """Do the housekeeping, log the health of every queue, and warn about stalled ones."""
    database, settings = context.database, context.settings
    tasks: dict[str, Task] = {
        "counts": partial(_roll_up, database),
        "idle_lanes": partial(
            _in_slices, database, partial(lanes.IdleLanes().forget, limit=SLICE_ROWS)
        ),
        # After that: jobs that arrived at that very moment may find their lane gone.
        "missing_lanes": partial(_register_missing_lanes, database),
        "queues": partial(_look_at_queues, database),
        "relay_logins": lambda _: logins.resume_changed(database, settings),
        "abandoned_messages": partial(_settle_abandoned, database),
        "unknown_kinds": partial(_expire_unknown_kinds, database, settings),
        "blocked_jobs": partial(_settle_blocked, database),
    }
    this = Round()
    await this.run(tasks, budget_s=BOOKS_BUDGET_S)
    queues = this.done.pop("queues", [])
    log.info("housekeeping.done", **this.done)
    return this.outcome({"queues": queues, "done": this.done})


async def _roll_up(database: AsyncEngine, until: float) -> int:
    """Add up the counts of jobs."""
    deltas = 0
    while True:
        async with briefly(database) as connection:
            rolled_up = await counts.roll_up(connection)
        deltas += rolled_up
        if rolled_up < counts.ROLL_UP_MAX or time.monotonic() > until:
            return deltas


async def _register_missing_lanes(database: AsyncEngine, _: float) -> int:
    async with briefly(database) as connection:
        return await lanes.register_missing(connection)


async def _look_at_queues(database: AsyncEngine, _: float) -> list[dict[str, Any]]:
    async with briefly(database) as connection:
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
    return [asdict(queue) for queue in queues]


_walks: WeakKeyDictionary[AsyncEngine, messages.Abandoned] = WeakKeyDictionary()


async def _settle_abandoned(database: AsyncEngine, until: float) -> int:
    """Continue where this process's last look ended; the first one goes back a day."""
    walk = _walks.setdefault(database, messages.Abandoned())
    unknown = failed = 0
    while True:
        settled = await walk.settle(database, limit=SLICE_ROWS)
        unknown += settled.unknown
        failed += settled.failed
        if settled.looked_at < SLICE_ROWS or time.monotonic() > until:
            break
    if unknown or failed:
        log.warning("messages.abandoned", unknown=unknown, failed=failed)
    return unknown + failed


async def _expire_unknown_kinds(database: AsyncEngine, settings: Settings, _: float) -> int:
    """End jobs of a kind that no worker knows."""
    async with briefly(database) as connection:
        expired = await transitions.expire_unknown_kinds(
            connection, older_than_s=settings.unknown_kind_max_s, limit=SLICE_ROWS
        )
    if expired:
        log.error("jobs.of_unknown_kinds", count=len(expired))
    return len(expired)


async def _settle_blocked(database: AsyncEngine, _: float) -> int:
    """Move children that missed their parents' end: all of them, since each run starts over."""
    after: UUID | None = UUID(int=0)
    moved = 0
    while after is not None:
        async with briefly(database) as connection:
            after, woken = await transitions.settle_blocked(
                connection, after=after, limit=SLICE_ROWS
            )
        moved += len(woken)
    return moved


async def _make_days(database: AsyncEngine, _: float) -> list[str]:
    async with briefly(database) as connection:
        made = await partitions.make_ahead(connection)
    if made:
        log.info("history.days_made", days=made)
    return made


async def _drop_days(database: AsyncEngine, events_s: float, _: float) -> list[str]:
    async with briefly(database) as connection:
        days = await partitions.drop_old(connection, events_s=events_s)
    if days:
        log.info("history.days_dropped", days=days)
    return days


def _slices(settings: Settings) -> dict[str, Prune]:
    """What is pruned; jobs come last, so that they get whatever time is left."""
    finished_s, events_s = settings.retention_finished_s, settings.retention_events_s
    return {
        "system_jobs": partial(
            retention.prune_system_jobs,
            kept_s=min(SYSTEM_JOBS_S, finished_s),
            shelf_s=finished_s,
            limit=SLICE_ROWS,
        ),
        "system_ticks": partial(
            retention.prune_ticks, kept_s=SYSTEM_TICKS_S, is_system=True, limit=SLICE_ROWS
        ),
        "ticks": partial(retention.prune_ticks, kept_s=events_s, is_system=False, limit=SLICE_ROWS),
        "events": partial(partitions.prune_undated, events_s=events_s, limit=SLICE_ROWS),
        "messages": partial(retention.OldMessages(events_s=events_s).prune, limit=SLICE_ROWS),
        "jobs": partial(
            retention.FinishedJobs(finished_s=finished_s, shelf_s=events_s).prune, limit=SLICE_ROWS
        ),
    }


async def _in_slices(database: AsyncEngine, one_slice: Prune, until: float) -> int:
    """Repeat `one_slice`, each in its own transaction, while it comes back full."""
    removed = 0
    while True:
        async with briefly(database) as connection:
            done = await one_slice(connection)
        removed += done.removed
        if done.looked_at < SLICE_ROWS or time.monotonic() > until:
            return removed
