"""Who is to blame when a job's isolated process dies.

A process that exits by itself, or that the kernel kills for its own fault, counts against its
job at once. A signal sent from outside (SIGKILL above all) may have been meant for the job, or for
the whole machine: if the processes of several jobs die of one within two seconds, the host, a lack
of memory or an operator is to blame, not the jobs. An innocent job is never quarantined for that; a
guilty one cannot hide among others forever.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from ledger.shapes import ClaimedJob
    from workers.executor import Fence

log = logs.logger("deaths")

TOGETHER_S = 2.0
EXCUSED_MAX = 5  # deaths of one job together with others that do not count
REMEMBERED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Death:
    """One attempt's process has died; `by_itself`: it caused its own death. Times are monotonic."""

    job: ClaimedJob
    what: str
    began: float
    died: float
    by_itself: bool


class Report(Protocol):
    """Writes a death into the ledger."""

    async def __call__(self, job: ClaimedJob, *, counted: bool, reason: str) -> None:
        """`counted`: the job is to blame."""


class Deaths:
    """Judges the deaths of one worker, a short while after they happened; one event loop."""

    def __init__(self, report: Report, *, on_reported: Callable[[Fence], None]) -> None:
        self._report = report
        self._on_reported = on_reported
        self._lately: list[Death] = []  # by a signal from outside
        self._bystanders: list[float] = []  # when processes without a job died of such a signal
        self._excused: dict[UUID, int] = {}
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, death: Death) -> None:
        """Report `death` once it is clear whether it counts."""
        if not death.by_itself:
            self._lately = [*self._recent(death.died), death]
        task = asyncio.create_task(self._judge(death))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def note_bystander(self) -> None:
        """A process without a job died of a signal from outside."""
        now = time.monotonic()
        self._bystanders = [*(at for at in self._bystanders if now - at <= TOGETHER_S), now]

    async def close(self) -> None:
        """Drop what is not judged yet, wait for running writes."""
        self._closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _judge(self, death: Death) -> None:
        if not death.by_itself:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), TOGETHER_S)
                return  # the worker is stopping, and gives back what it still holds
        counted, reason = self._assessment(death)
        job = death.job
        log.warning(
            "job.process_died", job_id=job.id, kind=job.kind, attempt=job.attempt, counted=counted
        )
        await self._report(job, counted=counted, reason=reason)
        self._on_reported(job.fence)

    def _assessment(self, death: Death) -> tuple[bool, str]:
        job = death.job
        others = sum(_is_of_one_event(death, other) for other in self._lately)
        others += sum(abs(at - death.died) <= TOGETHER_S for at in self._bystanders)
        if death.by_itself or not others or self._excused.get(job.id, 0) >= EXCUSED_MAX:
            return True, f"{death.what} This counts against it: death {job.deaths + 1}."
        if len(self._excused) < REMEMBERED_MAX:
            self._excused[job.id] = self._excused.get(job.id, 0) + 1
        return False, (
            f"{death.what} {others} more died within {TOGETHER_S:g} s, so the host or an"
            " operator is to blame. This does not count against it."
        )

    def _recent(self, now: float) -> list[Death]:
        return [death for death in self._lately if now - death.died <= 2 * TOGETHER_S]


def _is_of_one_event(death: Death, other: Death) -> bool:
    """Whether the same event may have killed both: both were alive when the first died."""
    return (
        other is not death
        and abs(other.died - death.died) <= TOGETHER_S
        and other.began < death.died
        and death.began < other.died
    )
