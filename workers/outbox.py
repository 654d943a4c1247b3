"""Outcomes on their way to the ledger: batched, retried while Postgres is away, then reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionInTime

from ledger import transitions
from ledger.group_commit import GroupCommit
from ledger.models.jobs import State
from runtime import logs, metrics
from tasks.outcomes import Failed, RetryLater

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeVar

    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.shapes import ClaimedJob, Finish, Finished, Woken
    from tasks.outcomes import Outcome
    from workers.doorbell import Ringer
    from workers.events import TaskEvents

    Result = TypeVar("Result")

log = logs.logger("outbox")

AGAIN_S = 0.3
EVENTS = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "revoked",
    State.UNKNOWN: "failed",
    State.SCHEDULED: "retried",
    State.READY: "retried",
}


class Outbox:
    """Writes finishes of one event loop; an outcome waits for Postgres as long as it takes.

    Its fence makes waiting safe: if the job was taken over meanwhile, nothing is written.
    """

    def __init__(self, database: AsyncEngine, *, ringer: Ringer, writers: int = 1) -> None:
        self._database = database
        self._ringer = ringer
        self._commit = GroupCommit(self._write, batch_max=500, writers=writers)

    def put(self, item: Finish) -> asyncio.Future[bool]:
        """True when written; False: ownership was lost."""
        return self._commit.enqueue(item)

    async def flush(self) -> None:
        """Wait until everything put so far is written."""
        await self._commit.flush()

    async def report_death(self, job: ClaimedJob, *, reason: str) -> None:
        """The job's own process died: it runs alone from now on, or is quarantined."""

        async def write() -> Sequence[Woken]:
            async with self._database.begin() as connection:
                died = [(job.id, job.attempt)]
                taken = await transitions.reclaim(connection, died=died, reason=reason)
            return taken.woken

        self._ring(await self._until_postgres_answers(write))

    async def _write(self, items: Sequence[Finish]) -> Sequence[bool]:
        async def write() -> Finished:
            async with self._database.begin() as connection:
                return await transitions.finish(connection, items)

        finished = await self._until_postgres_answers(write)
        self._ring(finished.woken)
        return finished.written

    def _ring(self, woken: Sequence[Woken]) -> None:
        for job in woken:
            self._ringer.ring(queue=job.queue, kind=job.kind, job_id=job.id)

    async def _until_postgres_answers(self, write: Callable[[], Awaitable[Result]]) -> Result:
        failures = 0
        while True:
            try:
                return await write()
            except (OperationalError, InterfaceError, NoConnectionInTime, OSError) as error:
                failures += 1
                if failures in {1, 10, 100}:
                    log.warning("finish.waiting", failures=failures, error=type(error).__name__)
                await asyncio.sleep(AGAIN_S)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                await asyncio.sleep(AGAIN_S)


def report(
    job: ClaimedJob,
    item: Finish,
    outcome: Outcome,
    *,
    seconds: float,
    events: TaskEvents | None,
) -> None:
    """Metrics, log and Flower, after the commit."""
    name = "retry" if item.state is State.SCHEDULED and item.is_counted else item.state.value
    metrics.finished(queue=job.queue, kind=job.kind, outcome=name)
    metrics.ran(queue=job.queue, kind=job.kind, seconds=seconds)
    error = outcome.error if isinstance(outcome, (RetryLater, Failed)) else None
    if events is not None:
        reason = item.reason or ""
        events.ended(job, EVENTS[item.state], seconds=seconds, reason=reason, error=error)
    if item.state is State.SUCCEEDED:
        log.debug("job.succeeded", job_id=job.id, kind=job.kind, attempt=job.attempt)
        return
    log.info(
        "job.ended",
        job_id=job.id,
        kind=job.kind,
        attempt=job.attempt,
        state=item.state,
        error=error.type if error else None,
        delay_s=round(item.delay_s, 1) if item.state is State.SCHEDULED else None,
    )
