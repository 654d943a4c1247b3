"""Outcomes on their way to the ledger: batched, retried until Postgres accepts them, then reported.

An outcome is written with the next batch, fenced by the job's id and attempt; its slot is free
meanwhile. Metrics, log and Flower get it after the commit.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

from sqlalchemy import text

from ledger import outage, transitions
from ledger.group_commit import GroupCommit
from ledger.models.jobs import State
from ledger.patience import Announcements, Patience
from ledger.shapes import Finish
from runtime import logs, metrics
from tasks.outcomes import Cancelled, Failed, RetryLater, Snooze, Succeeded, Unknown
from workers.execute import Performed, backoff_of
from workers.sealing import Sealed, bounded_delay_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from doorbell.ringer import Ringer
    from ledger.shapes import ClaimedJob, Woken
    from tasks.kinds import Backoff
    from tasks.outcomes import Outcome
    from workers.events import TaskEvents
    from workers.executor import Fence

log = logs.logger("completer")

BATCH_MAX = 500
BATCH_MAX_BYTES = 8 * 1024 * 1024
FULL_BYTES = 64 * 1024 * 1024  # of waiting results: no more jobs are started
ROW_BYTES = 200  # of an outcome, not counting its texts and its result
# A locked row must not delay the rest of its batch; on its own it waits longer.
BATCH_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '1s'")
UNWRITABLE_AGAIN_S = 60.0
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


class Completer:
    """Writes the outcomes of attempts; belongs to one event loop.

    An outcome waits for Postgres as long as it takes. Its fence makes waiting safe: if the job was
    taken over meanwhile, nothing is written.
    """

    def __init__(
        self,
        database: AsyncEngine,
        *,
        ringer: Ringer,
        events: TaskEvents | None = None,
        on_stuck: Callable[[], None] = lambda: None,
        snooze_max_s: float = transitions.SNOOZE_MAX_S,
        writers: int = 1,
    ) -> None:
        """`on_stuck` is called when Postgres refuses an outcome and it has to wait."""
        self._database = database
        self._events = events
        self._on_stuck = on_stuck
        self._stuck: set[Fence] = set()
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
        """Whether so much is waiting to be written that no more should be produced."""
        return self._commit.unsettled_bytes >= FULL_BYTES

    @property
    def stuck(self) -> int:
        """For how many jobs Postgres refuses every outcome, although it is up."""
        return len(self._stuck)

    def complete(
        self,
        job: ClaimedJob,
        performed: Performed,
        *,
        settled: Callable[[Fence], None],
        seconds: float = 0.0,
    ) -> None:
        """Write the outcome with the next batch; `settled` is called when written or fenced."""
        item = finish_of(
            job, performed.outcome, backoff=backoff_of(job), traceparent=performed.traceparent
        )

        def written(done: asyncio.Future[bool]) -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None:
                again = partial(self.complete, job, seconds=seconds, settled=settled)
                self._refused(job, item, performed, error=error, again=again)
                return
            self._stuck.discard(job.fence)
            settled(job.fence)
            if done.cancelled() or not done.result():
                log.warning("finish.fenced", job_id=job.id, attempt=job.attempt, state=item.state)
                metrics.finished(queue=job.queue, kind=job.kind, outcome="lost")
                return
            _report(job, item, performed.outcome, seconds=seconds, events=self._events)

        self.put(item, size_bytes=performed.sealed.size_bytes).add_done_callback(written)

    async def give_back(
        self, jobs: Sequence[ClaimedJob], *, reason: str, settled: Callable[[Fence], None]
    ) -> None:
        """Make the jobs ready again, at no cost to them; `settled` as above."""
        writes = [self.put(release_of(job, reason=reason)) for job in jobs]
        await asyncio.gather(*writes, return_exceptions=True)
        for job in jobs:
            settled(job.fence)

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

    def _refused(
        self,
        job: ClaimedJob,
        item: Finish,
        performed: Performed,
        *,
        error: BaseException,
        again: Callable[[Performed], None],
    ) -> None:
        """Postgres refuses the outcome itself: that is a failure, and must be recorded as one."""
        log.error("finish.unwritable", job_id=job.id, kind=job.kind, error=type(error).__name__)
        if item.state is not State.FAILED:
            reason = f"its outcome could not be written: {type(error).__name__}"
            again(Performed(Sealed(Failed(reason), len(reason)), performed.traceparent))
            return
        # Not even that works: the ledger is in trouble. The job stays held, and is retried.
        self._stuck.add(job.fence)
        self._on_stuck()
        asyncio.get_running_loop().call_later(UNWRITABLE_AGAIN_S, again, performed)

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


def finish_of(
    job: ClaimedJob, outcome: Outcome, *, backoff: Backoff, traceparent: str | None = None
) -> Finish:
    """The write that `outcome` of this attempt requires."""

    def finish(state: State, **fields: Any) -> Finish:  # noqa: ANN401 - as Finish says
        return Finish(job.id, job.attempt, state, traceparent=traceparent, **fields)

    match outcome:
        case Succeeded(result=result):
            return finish(State.SUCCEEDED, result=result)
        case RetryLater() if job.tries_left > 0:
            wait_s = outcome.delay_s
            if wait_s is None:  # a kind's backoff is user code, too
                wait_s = bounded_delay_s(backoff.delay_s(tries=job.counted)) or 0.0
            return finish(
                State.SCHEDULED,
                reason=outcome.reason,
                error=_error(outcome),
                delay_s=wait_s,
            )
        case RetryLater(reason=reason):
            reason = f"out of attempts ({job.max_attempts}): {reason}"
            return finish(State.FAILED, reason=reason, error=_error(outcome))
        case Snooze(delay_s=wait_s, reason=reason):
            return finish(
                State.SCHEDULED,
                reason=reason,
                delay_s=wait_s,
                is_counted=False,
            )
        case Failed(reason=reason, result=result):
            return finish(
                State.FAILED,
                reason=reason,
                error=_error(outcome),
                result=result,
            )
        case Cancelled(reason=reason):
            return finish(State.CANCELLED, reason=reason)
        case Unknown(reason=reason, result=result):
            return finish(State.UNKNOWN, reason=reason, result=result)
        case _ as never:
            assert_never(never)


def release_of(job: ClaimedJob, *, reason: str) -> Finish:
    """Give a claim back; it costs no attempt."""
    return Finish(job.id, job.attempt, State.READY, reason=reason)


def _error(outcome: RetryLater | Failed) -> dict[str, Any] | None:
    return outcome.error.as_json() if outcome.error else None


async def _take_back(
    connection: AsyncConnection, job: ClaimedJob, *, counted: bool, reason: str
) -> Sequence[Woken]:
    """Ready again after its process died; at the third death that counts it is quarantined."""
    taken = await transitions.reclaim(connection, died=[job.fence], counted=counted, reason=reason)
    return taken.woken


def _say_waiting(error: BaseException, failures: int) -> None:
    log.warning(
        "finish.waiting",
        failures=failures,
        error=type(error).__name__,
        sqlstate=outage.sqlstate(error) or None,
    )


def _report(
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
