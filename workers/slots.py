"""The slots of one worker: claimed jobs wait here, run, and settle in the ledger."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from ledger.models.jobs import State
from runtime import logs, metrics
from tasks.outcomes import Cancelled, Failed
from workers import execute, finishing, outbox
from workers.child_errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from ledger.shapes import ClaimedJob, Finish
    from tasks.outcomes import Outcome
    from workers.events import TaskEvents
    from workers.pace import Pace

    Fence = tuple[UUID, int]

log = logs.logger("slots")

STALE_CLAIM_S = 1.0  # a claimed job that has not started by then is given back
LOOK_EVERY_S = 0.05  # at what still runs, while shutting down


class Slots:
    """`concurrency` jobs run at once; the rest of what is held waits its turn. One event loop."""

    def __init__(
        self,
        *,
        concurrency: int,
        pace: Pace,
        around: execute.Surroundings,
        out: outbox.Outbox,
        events: TaskEvents | None,
        on_room: Callable[[], None],
    ) -> None:
        """`on_room` is called when more jobs could be claimed."""
        self._pace = pace
        self._around = around
        self._out = out
        self._events = events
        self._on_room = on_room
        self._waiting: deque[tuple[ClaimedJob, float]] = deque()
        self._held: dict[Fence, ClaimedJob] = {}  # claimed and not yet settled in the ledger
        self._running: dict[Fence, asyncio.Task[None]] = {}  # in a handler right now
        self._to_cancel: set[Fence] = set()
        self._is_over = False
        self._work = asyncio.Condition()
        self._runners = [asyncio.create_task(self._runner()) for _ in range(concurrency)]

    @property
    def held(self) -> int:
        """How many claims have not settled yet."""
        return len(self._held)

    @property
    def fences(self) -> list[Fence]:
        """These claims."""
        return list(self._held)

    @property
    def held_by_lane(self) -> Counter[str]:
        """How many of them each lane has."""
        return Counter(job.lane for job in self._held.values())

    def allowed(self, _lane: str) -> int | None:
        """How many more jobs of a lane could run here; None: any number."""
        return None

    async def take(self, jobs: Sequence[ClaimedJob]) -> None:
        """Hold claimed jobs; they run in this order as slots come free."""
        now = time.monotonic()
        for job in jobs:
            self._held[job.fence] = job
            self._waiting.append((job, now))
        async with self._work:
            self._work.notify(len(jobs))

    async def give_back_stale(self) -> None:
        """Jobs that wait behind slow ones go back, so that another worker may take them."""
        horizon = time.monotonic() - STALE_CLAIM_S
        stale = []
        while self._waiting and self._waiting[0][1] < horizon:
            stale.append(self._waiting.popleft()[0])
        if stale:
            self._pace.slow_down()
            await self._give_back(stale, reason="claimed, but no slot came free")

    def cancel(self, fences: Sequence[Fence]) -> None:
        """Stop these attempts, where they run here."""
        for fence in fences:
            task = self._running.get(fence)
            if task and fence not in self._to_cancel:
                self._to_cancel.add(fence)
                task.cancel()

    async def wind_down(self, *, grace_s: float) -> int:
        """Give back what waits, let the rest finish within the grace; how many were given back."""
        reason = "its worker was shutting down"
        unstarted = [job for job, _ in self._waiting]
        self._waiting.clear()
        await self._give_back(unstarted, reason=reason)
        deadline = time.monotonic() + grace_s
        while self._running and time.monotonic() < deadline:
            await asyncio.wait(self._running.values(), timeout=min(LOOK_EVERY_S, grace_s))
        self._is_over = True
        interrupted = list(self._running)
        await self.close()
        await self._out.flush()
        left = [self._held[fence] for fence in interrupted if fence in self._held]
        await self._give_back(left, reason=reason)
        return len(unstarted) + len(left)

    async def close(self) -> None:
        """End the runners and whatever runs in them."""
        for runner in self._runners:
            runner.cancel()
        await asyncio.gather(*self._runners, return_exceptions=True)

    async def _give_back(self, jobs: Sequence[ClaimedJob], *, reason: str) -> None:
        writes = [self._out.put(finishing.release_of(job, reason=reason)) for job in jobs]
        await asyncio.gather(*writes, return_exceptions=True)
        for job in jobs:
            self._held.pop(job.fence, None)

    async def _runner(self) -> None:
        """One slot: takes claimed jobs, oldest first, and runs them one at a time."""
        while not self._is_over:
            async with self._work:
                while not self._waiting:
                    await self._work.wait()
                job, _ = self._waiting.popleft()
            await self._run(job, _this_task())

    async def _run(self, job: ClaimedJob, task: asyncio.Task[None]) -> None:
        self._running[job.fence] = task
        if self._events is not None:
            self._events.started(job)
        started = time.monotonic()
        try:
            performed = await execute.perform(job, self._around)
        except execute.ProcessDied as death:
            await self._settle_death(job, str(death))
            return
        except Interrupted as interruption:
            await self._give_back([job], reason=str(interruption))
            self._on_room()
            return
        except asyncio.CancelledError:
            if job.fence not in self._to_cancel:
                raise  # the worker is going down: `wind_down` gives the job back
            performed = execute.Performed(Cancelled(), job.traceparent)
        finally:
            del self._running[job.fence]
            while task.cancelling() and job.fence in self._to_cancel:
                task.uncancel()
            self._to_cancel.discard(job.fence)
        seconds = time.monotonic() - started
        self._pace.ran(seconds)
        self._settle(job, performed, seconds=seconds)

    def _settle(self, job: ClaimedJob, performed: execute.Performed, *, seconds: float) -> None:
        """Write the outcome with the next batch; the slot is free at once."""
        item = finishing.finish_of(
            job,
            performed.outcome,
            backoff=execute.backoff_of(job),
            traceparent=performed.traceparent,
        )
        future = self._out.put(item)
        future.add_done_callback(
            lambda done: self._settled(job, item, performed.outcome, seconds, done)
        )

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
            # Postgres refuses the outcome itself (a NUL in a result, say): that is a failure.
            log.error("finish.unwritable", job_id=job.id, kind=job.kind, error=type(error).__name__)
            reason = f"its outcome could not be written: {type(error).__name__}"
            failed = execute.Performed(Failed(reason), item.traceparent)
            self._settle(job, failed, seconds=seconds)
            return
        self._held.pop(job.fence, None)
        if self._pace.has_room(held=self.held):
            self._on_room()
        if done.cancelled() or error is not None or not done.result():
            log.warning("finish.fenced", job_id=job.id, attempt=job.attempt, state=item.state)
            metrics.finished(queue=job.queue, kind=job.kind, outcome="lost")
            return
        outbox.report(job, item, outcome, seconds=seconds, events=self._events)

    async def _settle_death(self, job: ClaimedJob, what: str) -> None:
        """The job's own process died: one death of its own, none of its neighbours'."""
        log.warning("job.process_died", job_id=job.id, kind=job.kind, attempt=job.attempt)
        await self._out.report_death(job, reason=what)
        self._held.pop(job.fence, None)
        self._on_room()


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    if task is None:
        message = "a runner is a task"
        raise RuntimeError(message)
    return task
