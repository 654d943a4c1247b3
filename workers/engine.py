"""The engine of one worker: claims jobs of one queue, runs them, writes their ends.

It lives in a thread with an event loop of its own, beside Celery's consumer, whose doorbells
only wake it. Claims and finishes are batched where the backlog is deep; a lone job waits for
nobody.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from ledger import database as ledger_database
from ledger import transitions
from ledger.models.jobs import State
from runtime import logs, metrics
from tasks.outcomes import Cancelled, Failed
from workers import execute, finishing, outbox, reconcile
from workers.isolation import Interrupted, IsolationPool
from workers.pace import Pace

if TYPE_CHECKING:
    from uuid import UUID

    from ledger.presence import Presence
    from ledger.shapes import ClaimedJob, Finish
    from runtime.settings import Settings
    from tasks.outcomes import Outcome
    from workers.doorbell import Ringer
    from workers.events import TaskEvents

log = logs.logger("engine")

STALE_CLAIM_S = 1.0  # a claimed job that has not started by then is given back
PROMOTE_MAX = 1000
AWAY_S = 0.3  # between two tries while Postgres is away


class Engine:
    """One queue's claims, runs and finishes."""

    def __init__(
        self,
        settings: Settings,
        *,
        queue: str,
        presence: Presence,
        ringer: Ringer,
        events: TaskEvents | None = None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._presence = presence
        self._ringer = ringer
        self._events = events
        self._concurrency = settings.concurrency(queue)
        self._pace = Pace(concurrency=self._concurrency, claim_max=settings.claim_max)
        self._waiting: deque[tuple[ClaimedJob, float]] = deque()
        self._held: dict[UUID, ClaimedJob] = {}  # claimed and not yet settled in the ledger
        self._running: dict[UUID, asyncio.Task[None]] = {}  # in a handler right now
        self._to_cancel: set[UUID] = set()
        self._promote_at = 0.0  # monotonic
        self._is_stopping = False
        self._is_over = False
        self._is_suspicious = False  # a claim's COMMIT went unanswered
        self._grace_s = settings.grace_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start claiming."""
        self._thread.start()
        self._started.wait()

    def wake(self) -> None:
        """A doorbell rang; callable from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._bell.set)

    def cancel(self, fences: list[tuple[UUID, int]]) -> None:
        """Stop these attempts, where they run here; callable from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, fences)

    def stop(self, *, grace_s: float | None = None) -> None:
        """Stop claiming, let running jobs finish within the grace, give back the rest."""
        if self._loop is None:
            return
        if grace_s is not None:
            self._grace_s = grace_s
        self._is_stopping = True
        self._loop.call_soon_threadsafe(self._bell.set)
        self._thread.join(self._grace_s + 10)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self._work = asyncio.Condition()
        self._database = ledger_database.engine(
            self._settings, pool_size=8, name=f"relais worker {self._queue}"
        )
        self._outbox = outbox.Outbox(self._database)
        pool = IsolationPool(self._settings, size=self._concurrency)
        self._around = execute.Surroundings(
            self._settings, self._database, pool, self._presence.still_owned
        )
        self._started.set()
        runners = [asyncio.create_task(self._runner()) for _ in range(self._concurrency)]
        reconciler = asyncio.create_task(
            reconcile.run(self._database, self._settings, self._presence, self._ringer)
        )
        try:
            await self._claim_until_stopped()
            await self._wind_down(runners)
        finally:
            reconciler.cancel()
            for runner in runners:
                runner.cancel()
            await asyncio.gather(reconciler, *runners, return_exceptions=True)
            await pool.close()
            await self._database.dispose()

    # claiming

    async def _claim_until_stopped(self) -> None:
        while not self._is_stopping:
            self._bell.clear()
            room = self._pace.room(held=len(self._held))
            taken = await self._claim(room) if room else 0
            if taken == room and room:
                continue  # there is more where that came from
            await self._give_back_stale()
            await self._sleep()

    async def _sleep(self) -> None:
        """Until a doorbell, a freed slot, or the time for a look."""
        look_s = self._settings.poll_s * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        try:
            async with asyncio.timeout(look_s):
                await self._bell.wait()
        except TimeoutError:
            pass

    async def _claim(self, limit: int) -> int:
        """Make due jobs ready, claim up to `limit`; how many were claimed."""
        started = time.monotonic()
        is_promoting = started >= self._promote_at
        try:
            if self._is_suspicious:
                await self._release_strays()
            async with self._database.begin() as connection:
                due = 0
                if is_promoting:
                    due = await transitions.promote(
                        connection, queue=self._queue, limit=PROMOTE_MAX
                    )
                jobs = await transitions.claim(
                    connection,
                    queue=self._queue,
                    owner=self._presence.owner,
                    worker=self._presence.name,
                    colour=self._settings.colour,
                    version=self._settings.version,
                    lease_s=self._settings.lease_s,
                    limit=limit,
                )
        except (DBAPIError, OSError) as error:
            self._is_suspicious = True
            log.warning("claim.failed", queue=self._queue, error=type(error).__name__)
            await asyncio.sleep(AWAY_S)
            return 0
        now = time.monotonic()
        if is_promoting and due < PROMOTE_MAX:
            self._promote_at = now + self._settings.poll_s / 2
        metrics.claimed(seconds=now - started, jobs=len(jobs))
        for job in jobs:
            self._held[job.id] = job
            self._waiting.append((job, now))
            metrics.waited(
                queue=self._queue, seconds=max(0.0, (job.started_at - job.run_at).total_seconds())
            )
        if jobs:
            async with self._work:
                self._work.notify(len(jobs))
        return len(jobs)

    async def _release_strays(self) -> None:
        """A claim whose COMMIT was answered into the void holds jobs that nobody runs."""
        async with self._database.begin() as connection:
            strays = await transitions.release_strays(
                connection, owner=self._presence.owner, known=list(self._held)
            )
        self._is_suspicious = False
        if strays:
            log.warning("claim.strays_released", queue=self._queue, count=len(strays))

    async def _give_back_stale(self) -> None:
        """Jobs that wait behind slow ones go back, so that another worker may take them."""
        horizon = time.monotonic() - STALE_CLAIM_S
        stale = []
        while self._waiting and self._waiting[0][1] < horizon:
            stale.append(self._waiting.popleft()[0])
        if stale:
            self._pace.slow_down()
            await self._give_back(stale, reason="claimed, but no slot came free")

    async def _give_back(self, jobs: list[ClaimedJob], *, reason: str) -> None:
        writes = [self._outbox.put(finishing.release_of(job, reason=reason)) for job in jobs]
        await asyncio.gather(*writes, return_exceptions=True)
        for job in jobs:
            self._held.pop(job.id, None)

    # running

    async def _runner(self) -> None:
        """One slot: takes claimed jobs, oldest first, and runs them one at a time."""
        while not self._is_over:
            async with self._work:
                while not self._waiting:
                    await self._work.wait()
                job, _ = self._waiting.popleft()
            await self._run_one(job)

    async def _run_one(self, job: ClaimedJob) -> None:
        task = self._running[job.id] = _this_task()
        if self._events is not None:
            self._events.started(job)
        started = time.monotonic()
        try:
            outcome = await execute.perform(job, self._around)
        except execute.ProcessDied as death:
            await self._settle_death(job, str(death))
            return
        except Interrupted as interruption:
            await self._give_back([job], reason=str(interruption))
            self._bell.set()
            return
        except asyncio.CancelledError:
            if job.id not in self._to_cancel:
                raise  # the worker is going down: `_wind_down` gives the job back
            outcome = Cancelled()
        finally:
            self._running.pop(job.id, None)
            while task.cancelling() and job.id in self._to_cancel:
                task.uncancel()
            self._to_cancel.discard(job.id)
        seconds = time.monotonic() - started
        self._pace.ran(seconds)
        self._settle(job, outcome, seconds=seconds)

    def _settle(self, job: ClaimedJob, outcome: Outcome, *, seconds: float) -> None:
        """Write the outcome with the next batch; the slot is free at once."""
        item = finishing.finish_of(job, outcome, backoff=execute.backoff_of(job))
        future = self._outbox.put(item)
        future.add_done_callback(lambda done: self._settled(job, item, outcome, seconds, done))

    def _settled(
        self,
        job: ClaimedJob,
        item: Finish,
        outcome: Outcome,
        seconds: float,
        done: asyncio.Future[bool],
    ) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None and item.state is not State.FAILED:
            self._settle_unwritable(job, error, seconds=seconds)
            return
        self._held.pop(job.id, None)
        if self._pace.has_room(held=len(self._held)):
            self._bell.set()
        if done.cancelled() or error is not None or not done.result():
            log.warning("finish.fenced", job_id=job.id, attempt=job.attempt, state=item.state)
            metrics.finished(queue=job.queue, kind=job.kind, outcome="lost")
            return
        outbox.report(job, item, outcome, seconds=seconds, events=self._events)

    def _settle_unwritable(self, job: ClaimedJob, error: BaseException, *, seconds: float) -> None:
        """Postgres refuses the outcome itself (a NUL in a result, say): that is a failure."""
        log.error("finish.unwritable", job_id=job.id, kind=job.kind, error=type(error).__name__)
        reason = f"its outcome could not be written: {type(error).__name__}"
        self._settle(job, Failed(reason), seconds=seconds)

    async def _settle_death(self, job: ClaimedJob, what: str) -> None:
        """The job's own process died: one death of its own, none of its neighbours'."""
        log.warning("job.process_died", job_id=job.id, kind=job.kind, attempt=job.attempt)
        await self._outbox.report_death(job, reason=what)
        self._held.pop(job.id, None)
        self._bell.set()

    # stopping

    def _cancel(self, fences: list[tuple[UUID, int]]) -> None:
        for job_id, attempt in fences:
            job, task = self._held.get(job_id), self._running.get(job_id)
            if job and task and job.attempt == attempt and job_id not in self._to_cancel:
                self._to_cancel.add(job_id)
                task.cancel()

    async def _wind_down(self, runners: list[asyncio.Task[None]]) -> None:
        """Give back what has not started, wait for what runs, then stop it."""
        unstarted = [job for job, _ in self._waiting]
        self._waiting.clear()
        if unstarted:
            await self._give_back(unstarted, reason="its worker was shutting down")
        deadline = time.monotonic() + self._grace_s
        while self._running and time.monotonic() < deadline:
            await asyncio.wait(
                list(self._running.values()),
                timeout=min(0.05, self._grace_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
        self._is_over = True
        interrupted = [self._held[job_id] for job_id in self._running if job_id in self._held]
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)
        await self._outbox.flush()
        left = [job for job in interrupted if job.id in self._held]
        if left:
            await self._give_back(left, reason="its worker was shutting down")
        log.info("engine.stopped", queue=self._queue, given_back=len(unstarted) + len(left))


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    if task is None:
        message = "a runner is a task"
        raise RuntimeError(message)
    return task
