"""Outcomes on their way to the ledger: batched, tried until Postgres takes them, then reported."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger import outage, transitions
from ledger.group_commit import GroupCommit
from ledger.models.jobs import State
from ledger.patience import Announcements, Patience
from ledger.shapes import Finish
from runtime import logs, metrics
from tasks.outcomes import Failed, RetryLater

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ledger.shapes import ClaimedJob, Woken
    from tasks.outcomes import Outcome
    from workers.doorbell import Ringer
    from workers.events import TaskEvents

log = logs.logger("outbox")

BATCH_MAX = 500
BATCH_MAX_BYTES = 8 * 1024 * 1024
FULL_BYTES = 64 * 1024 * 1024  # of results that wait: no more jobs are started
ROW_BYTES = 200  # of an outcome, beside its texts and its result
# A row that somebody has locked must not hold the rest of its batch; alone it waits longer.
BATCH_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '1s'")
SNOOZE_MAX_S = transitions.SNOOZE_MAX_S
EVENTS = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "revoked",
    State.UNKNOWN: "failed",
    State.SCHEDULED: "retried",
    State.READY: "retried",
}


@dataclass(frozen=True, slots=True)
class _Outgoing:
    finish: Finish
    size_bytes: int


class Outbox:
    """Writes finishes of one event loop; an outcome waits for Postgres as long as it takes.

    Its fence makes waiting safe: if the job was taken over meanwhile, nothing is written.
    """

    def __init__(
        self,
        database: AsyncEngine,
        *,
        ringer: Ringer,
        snooze_max_s: float = 3 * 86_400.0,
        writers: int = 1,
    ) -> None:
        self._database = database
        self._snooze_max_s = snooze_max_s
        self._ringer = ringer
        self._announcements = Announcements(_say_waiting)
        self._commit = GroupCommit(
            self._write,
            batch_max=BATCH_MAX,
            batch_max_bytes=BATCH_MAX_BYTES,
            weigh=lambda outgoing: outgoing.size_bytes,
            writers=writers,
            is_patient=True,
            on_wait=_say_waiting,
        )

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be written that no more should be made."""
        return self._commit.unsettled_bytes >= FULL_BYTES

    def put(self, item: Finish, *, size_bytes: int = 0) -> asyncio.Future[bool]:
        """True when written; False: ownership was lost. `size_bytes` of its texts and result."""
        return self._commit.enqueue(_Outgoing(item, size_bytes + ROW_BYTES))

    async def flush(self) -> None:
        """Wait until everything put so far is written."""
        await self._commit.flush()

    async def report_death(self, job: ClaimedJob, *, counted: bool, reason: str) -> None:
        """The job's own process died: it runs alone from now on, or is quarantined."""
        patience = Patience(self._announcements)
        while True:
            try:
                async with self._database.begin() as connection:
                    woken = await _take_back(connection, job, counted=counted, reason=reason)
            except Exception as error:
                if not outage.is_passing(error):
                    raise
                await asyncio.sleep(patience.after(error))
            else:
                self._ring(woken)
                return

    async def _write(self, batch: Sequence[_Outgoing]) -> Sequence[bool]:
        async with self._database.begin() as connection:
            if len(batch) > 1:
                await connection.execute(BATCH_LOCK_TIMEOUT)
            finished = await transitions.finish(
                connection, [each.finish for each in batch], snooze_max_s=self._snooze_max_s
            )
        self._ring(finished.woken)
        return finished.written

    def _ring(self, woken: Sequence[Woken]) -> None:
        for job in woken:
            self._ringer.ring(queue=job.queue, kind=job.kind, job_id=job.id)


async def _take_back(
    connection: AsyncConnection, job: ClaimedJob, *, counted: bool, reason: str
) -> Sequence[Woken]:
    """Ready again after its process died; at the third death that counts it is put aside."""
    taken = await transitions.reclaim(connection, died=[job.fence], counted=counted, reason=reason)
    return taken.woken


def _say_waiting(error: BaseException, failures: int) -> None:
    log.warning(
        "finish.waiting",
        failures=failures,
        error=type(error).__name__,
        sqlstate=outage.sqlstate(error) or None,
    )


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
