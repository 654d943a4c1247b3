"""The slots of one worker: claimed jobs wait and run here; the completer takes their outcomes.

Every attempt is a separate task. However that task ends, `_ended` is called and its slot is free
again: there is no runner that a handler could kill.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from runtime import logs
from tasks import kinds
from tasks.outcomes import Cancelled, RetryLater
from workers import execute
from workers.deaths import Death, Deaths
from workers.isolation.errors import Interrupted
from workers.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from ledger.shapes import ClaimedJob
    from tasks.outcomes import Outcome
    from workers.claim_window import ClaimWindow
    from workers.completer import Completer
    from workers.events import TaskEvents

    Fence = tuple[UUID, int]

log = logs.logger("executor")

STALE_CLAIM_S = 1.0  # a claimed job that has not started by then is given back
STUBBORN_S = 30.0  # a handler still running this long after its timeout is abandoned
END_S = 2.0  # for cancelled handlers to end, while shutting down
SHUTTING_DOWN = "its worker was shutting down"


class Attempt:
    """One job in a handler, in its own task; `performed` once the handler has ended."""

    def __init__(self, job: ClaimedJob, around: execute.Surroundings) -> None:
        self.job = job
        self.fence = job.fence
        self.started = time.monotonic()
        self._is_out_of_time = False
        self._waits = 0
        self._waiting_since = 0.0
        self._waited_s = 0.0
        self.performed: execute.Performed | None = None
        self.task = asyncio.create_task(self._perform(around))

    def seconds(self) -> float:
        """For how long it has been running."""
        return time.monotonic() - self.started

    def over_s(self) -> float:
        """For how long it has been running beyond its timeout; negative before.

        Others that render keep it waiting: that is no time of its own.
        """
        waited_s = self._waited_s
        if self._waits:
            waited_s += time.monotonic() - self._waiting_since
        return self.seconds() - waited_s - self.job.timeout_s

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Its clock is paused meanwhile; several waits at once count as one."""
        if not self._waits:
            self._waiting_since = time.monotonic()
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1
            if not self._waits:
                self._waited_s += time.monotonic() - self._waiting_since

    def is_out_of_time(self) -> bool:
        """Whether it was cancelled for that."""
        return self._is_out_of_time

    def end_for_time(self) -> None:
        """Cancel it, for having run too long."""
        self._is_out_of_time = True
        self.task.cancel()

    async def _perform(self, around: execute.Surroundings) -> None:
        self.started = time.monotonic()  # not counting the wait for the loop
        # Kept apart from the task's own result: a handler may cancel its own task as it ends.
        self.performed = await execute.perform(
            self.job, around, is_out_of_time=self.is_out_of_time, waiting=self.waiting
        )


class Executor:
    """`concurrency` jobs run at once; the rest of the held jobs wait their turn. One event loop."""

    def __init__(
        self,
        *,
        concurrency: int,
        window: ClaimWindow,
        around: execute.Surroundings,
        completer: Completer,
        events: TaskEvents | None,
        on_room: Callable[[], None],
        on_leaving: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_room` is called when more jobs could be claimed.

        `on_leaving`: when the grace is over, so that what hears out an answer ends as well.
        """
        self._window = window
        self._around = around
        self._completer = completer
        self._events = events
        self._on_room = on_room
        self._on_leaving = on_leaving
        self._waiting = Waiting(slots=concurrency)
        self._held: dict[Fence, ClaimedJob] = {}  # claimed and not yet settled in the ledger
        self._running: dict[Fence, Attempt] = {}  # in a handler right now
        self._called_off: set[Fence] = set()
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.deaths = Deaths(self._completer.report_death, on_reported=self._let_go)

    @property
    def held(self) -> int:
        """How many claims have not settled yet."""
        return len(self._held) - self._completer.stuck

    def claim_room(self) -> int:
        """How many more jobs to claim now: none while outcomes pile up."""
        if self._completer.is_full:
            return 0
        return self._window.room(held=self.held, waiting=len(self._waiting))

    def held_by_lane(self) -> Counter[str]:
        """How many of them each lane has."""
        return Counter(job.lane for job in self._held.values())

    def claimable(self, lane: str) -> int | None:
        """How many more jobs of `lane` are worth claiming; None: any number."""
        return self._waiting.claimable(lane)

    def fences(self) -> list[Fence]:
        """The fences of everything that is held; callable from any thread."""
        return list(self._held)  # atomic in the interpreter: nothing changes it meanwhile

    def holds(self, fence: Fence) -> bool:
        """Whether this claim is held, and its attempt was not abandoned."""
        return fence in self._held

    def kind_of(self, task: object) -> str | None:
        """The kind whose handler `task` runs; callable from any thread."""
        for attempt in list(self._running.values()):
            if attempt.task is task:
                return attempt.job.kind
        return None

    def take(self, jobs: Sequence[ClaimedJob]) -> None:
        """Hold claimed jobs; they run as slots become free, the lanes in turn."""
        for job in jobs:
            self._held[job.fence] = job
        self._waiting.add(jobs)
        self._fill()

    async def give_back_stale(self) -> None:
        """Give back jobs that wait behind slow ones, so that another worker may take them."""
        stale = self._waiting.take_stale(before=time.monotonic() - STALE_CLAIM_S)
        if stale:
            self._window.slow_down()
            await self._give_back(stale, reason="claimed, but no slot became free")

    def cancel(self, fences: Sequence[Fence]) -> None:
        """Stop these attempts, if they are held here."""
        for fence in fences:
            if fence in self._held and fence not in self._called_off:
                self._called_off.add(fence)
                if fence in self._running:
                    self._running[fence].task.cancel()

    def keep_time(self) -> None:
        """Cancel what has run for too long, and free the slots of what ignored being cancelled.

        Called several times a second: a timer for each attempt would cost more than a quick job.
        A kind that hears its peer out, as a mail behind its dot does, keeps its slot until then.
        """
        for attempt in list(self._running.values()):
            over_s = attempt.over_s()
            if over_s < 0 or execute.runs_apart(attempt.job):
                continue
            kind = kinds.get(attempt.job.kind)
            if not attempt.is_out_of_time():
                attempt.end_for_time()
            elif over_s > STUBBORN_S and not (kind is not None and kind.hears_out):
                _say_left(attempt.job)
                attempt.task.cancel()
                attempt.performed = self._performed(attempt.job, execute.timed_out(attempt.job))
                self._ended(attempt, attempt.task)

    async def wind_down(self, *, grace_s: float) -> int:
        """Give back waiting jobs, let the rest finish within the grace; how many went back."""
        unstarted = self._waiting.take_all()
        await self._give_back(unstarted, reason=SHUTTING_DOWN)
        if self._running:
            await asyncio.wait(self._running_tasks(), timeout=grace_s)
        await self.close()
        await self._completer.flush()
        left = list(self._held.values())
        await self._give_back(left, reason=SHUTTING_DOWN)
        return len(unstarted) + len(left)

    async def close(self) -> None:
        """Cancel whatever is running; what does not end in time is abandoned."""
        if self._is_over:
            return
        self._is_over = True
        tasks = self._running_tasks()
        for task in tasks:
            task.cancel()
        self._on_leaving()
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)
        for attempt in self._running.values():
            if not attempt.task.done():
                _say_left(attempt.job)
        await self.deaths.close()

    def _running_tasks(self) -> list[asyncio.Task[None]]:
        return [attempt.task for attempt in self._running.values()]

    def _fill(self) -> None:
        """Start waiting jobs, while there are slots and room for their outcomes."""
        while not (self._is_over or self._completer.is_full):
            job = self._waiting.start()
            if job is None:
                return
            if job.fence in self._called_off:
                self._waiting.end(job)
                self._settle(job, self._performed(job, Cancelled("cancelled before it ran")))
                continue
            if self._events is not None:
                self._events.started(job)
            attempt = self._running[job.fence] = Attempt(job, self._around)
            attempt.task.add_done_callback(partial(self._ended, attempt))

    def _ended(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """Free the slot, however the attempt ended."""
        if self._running.get(attempt.fence) is not attempt:
            if not task.cancelled():
                task.exception()  # it was abandoned: nothing waits for how it ended
            return
        del self._running[attempt.fence]
        self._waiting.end(attempt.job)
        seconds = attempt.seconds()
        if attempt.performed is not None:
            self._window.ran(seconds)
            self._settle(attempt.job, attempt.performed, seconds=seconds)
        elif task.cancelled():
            self._settle_cancelled(attempt.job, seconds=seconds)
        else:
            self._settle_broken(attempt, task.exception(), seconds=seconds)
        self._fill()

    def _settle_cancelled(self, job: ClaimedJob, *, seconds: float) -> None:
        if job.fence in self._called_off:
            self._settle(job, self._performed(job, Cancelled()), seconds=seconds)
        elif not self._is_over:  # else `wind_down` gives the job back
            outcome = RetryLater("the handler awaited something that was cancelled")
            self._settle(job, self._performed(job, outcome), seconds=seconds)

    def _settle_broken(
        self, attempt: Attempt, error: BaseException | None, *, seconds: float
    ) -> None:
        """Whatever ran the handler has ended, not the handler itself."""
        job = attempt.job
        match error:
            case execute.ProcessDied() if not self._is_over:  # else `wind_down` gives the job back
                now = time.monotonic()
                self.deaths.note(Death(job, str(error), attempt.started, now, error.by_itself))
            case Interrupted():
                task = asyncio.create_task(self._give_back([job], reason=str(error)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Exception():
                log.error("attempt.broken", exc_info=error, job_id=job.id, kind=job.kind)
                outcome = RetryLater(f"its worker is broken: {type(error).__name__}")
                self._settle(job, self._performed(job, outcome), seconds=seconds)

    def _performed(self, job: ClaimedJob, outcome: Outcome) -> execute.Performed:
        return execute.performed(job, self._around, outcome)

    def _settle(
        self, job: ClaimedJob, performed: execute.Performed, *, seconds: float = 0.0
    ) -> None:
        self._completer.complete(job, performed, seconds=seconds, settled=self._let_go)

    async def _give_back(self, jobs: Sequence[ClaimedJob], *, reason: str) -> None:
        await self._completer.give_back(jobs, reason=reason, settled=self._let_go)

    def _let_go(self, fence: Fence) -> None:
        """Settled in the ledger: no longer held."""
        self._held.pop(fence, None)
        self._called_off.discard(fence)
        if self._waiting:
            self._fill()  # the completer may have been full
        if self.claim_room():
            self._on_room()


def _say_left(job: ClaimedJob) -> None:
    log.error("job.left_to_itself", job_id=job.id, kind=job.kind, attempt=job.attempt)
