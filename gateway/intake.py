"""How a job gets in: validate, route, write and commit, ring, respond. In that order.

Never a response before the commit; a dead Redis is no reason to refuse.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from doorbell.ringer import BURST_MAX
from gateway import exception_handlers
from gateway.contention import Contention
from gateway.errors import Code, Problem
from gateway.handover import Door, hand_over
from gateway.lane_registry import LaneRegistry
from gateway.preparation import Preparation, too_late
from ledger import first_jobs
from ledger.errors import LedgerError
from ledger.models.jobs import State
from ledger.shapes import NewJob
from runtime import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from doorbell.ringer import Ringer
    from gateway.clock import Clock
    from gateway.connections import Connections
    from ledger.shapes import Accepted
    from runtime.settings import Settings
    from tasks.kinds import Kind

Settle = Callable[[int, "Accepted | Problem"], None]  # called with a job's position and result

BATCHES_AT_ONCE = 3  # slices of batches that are being committed; others wait
STILL_AFTER_S = 2.0  # if a job waits for longer, intake counts as stuck


class Intake:
    """Turns requests into committed jobs, over connections that only it uses: `handing_over`."""

    def __init__(
        self,
        ledger: Connections,
        *,
        handing_over: Connections,
        ringer: Ringer,
        kinds: Mapping[str, Kind],
        settings: Settings,
        clock: Clock,
        answer_within_s: float,
    ) -> None:
        self._preparation = Preparation(kinds, clock, settings)
        self.prepare = self._preparation.prepare
        self._ringer = ringer
        self._answer_within_s = answer_within_s
        self._lanes = LaneRegistry(handing_over.share(1, is_single=True))
        self._plain, self._keyed, self._children = (
            Door(handing_over.share(1, is_single=is_single), lanes=self._lanes, tell=self._tell)
            for is_single in (True, False, False)
        )
        self._batches = handing_over.share(BATCHES_AT_ONCE)
        self._contention = Contention(handing_over, tell=self._tell)
        self._handing_over = handing_over
        self._finding = ledger.share(1)

    async def accept(self, job: NewJob) -> Accepted:
        """Commit `job`, together with all others that are waiting; raises Problem."""
        accepted = await self._accept(job)
        problem = refusal(job, accepted)
        if problem is not None:
            raise problem
        return accepted

    async def _accept(self, job: NewJob) -> Accepted:
        if self._preparation.is_late(job):
            first = (await self._find_first([job]))[0]
            if isinstance(first, Problem):
                raise first
            return first
        until = asyncio.get_running_loop().time() + self._answer_within_s
        door = self._door_of(job)
        accepted = None
        if not self._contention.concerns(job):
            accepted = await door.take(job, until=until)
        if accepted is None:
            accepted = await self._contention.accept(job, door=door, until=until)
        problem = refusal(job, accepted)
        if problem is not None:
            raise problem
        return accepted

    async def accept_together(self, jobs: Sequence[NewJob], *, settle: Settle) -> list[int]:
        """Commit `jobs`, one transaction per sort; `settle` is called for each with its position.

        Returns the positions of those that are blocked by a lock: see `accept_apart`. Raises on an
        outage; `settle` has been called for the jobs that were committed by then.
        """
        held_up: list[int] = []
        for sort in self._sorted(jobs):
            if self._preparation.is_late(jobs[sort[0]]):
                late = [jobs[index] for index in sort]
                for index, first in zip(sort, await self._find_first(late), strict=True):
                    settle(index, first)
                continue
            together: list[int] = []
            for index in sort:
                (held_up if self._contention.concerns(jobs[index]) else together).append(index)
            asked = [jobs[index] for index in together]
            await self._lanes.register(asked)
            found = await hand_over(self._batches, asked) if asked else []
            self._tell(asked, found)
            for index, result in zip(together, found, strict=True):
                if result is None:
                    held_up.append(index)
                else:
                    settle(index, result)
        return held_up

    async def accept_apart(self, jobs: Sequence[NewJob], *, settle: Settle, until: float) -> None:
        """Commit each of `jobs` when nothing blocks it; `until` (loop time) at the latest."""

        async def accept(index: int, job: NewJob) -> None:
            found: Accepted | Problem
            try:
                found = await self._contention.accept(job, door=self._door_of(job), until=until)
            except Problem as problem:
                found = problem
            except LedgerError as error:
                found = exception_handlers.from_ledger(error)
            settle(index, found)

        async with asyncio.TaskGroup() as tasks:
            for index, job in enumerate(jobs):
                tasks.create_task(accept(index, job))

    def health(self) -> dict[str, Any]:
        """Whether jobs are being accepted: `ok` or `stands still`; how many wait for a lock."""
        doors = (self._plain, self._keyed, self._children)
        oldest_s = max(door.oldest_s() for door in doors)
        failed_s = [time.monotonic() - door.failed_at for door in doors if door.failed_at]
        is_still = oldest_s > STILL_AFTER_S or any(ago_s < STILL_AFTER_S for ago_s in failed_s)
        return {
            "status": "stands still" if is_still else "ok",
            "oldest_s": round(oldest_s, 3),
            "blocked": self._contention.waiting,
        }

    async def close(self) -> None:
        """Wait for running commits."""
        for door in (self._plain, self._keyed, self._children):
            await door.flush()
        await self._handing_over.close()

    async def _find_first(self, late: Sequence[NewJob]) -> list[Accepted | Problem]:
        """A job accepted in time stays accepted when it is sent again."""
        found = await self._finding.call(first_jobs.find, late)
        return [first or too_late(job) for job, first in zip(late, found, strict=True)]

    def _door_of(self, job: NewJob) -> Door:
        if job.depends_on:
            return self._children
        return self._plain if job.idempotency_key is None else self._keyed

    def _sorted(self, jobs: Sequence[NewJob]) -> list[list[int]]:
        """The positions of `jobs` by the door that they would go through; late ones separately."""
        sorts: dict[Door | None, list[int]] = {}
        for index, job in enumerate(jobs):
            door = None if self._preparation.is_late(job) else self._door_of(job)
            sorts.setdefault(door, []).append(index)
        return list(sorts.values())

    def _tell(self, jobs: Sequence[NewJob], found: Sequence[Accepted | Problem | None]) -> None:
        """After the commit, never before: count and ring."""
        new: defaultdict[tuple[str, str], list[NewJob]] = defaultdict(list)
        ready: defaultdict[str, list[NewJob]] = defaultdict(list)
        for job, answer in zip(jobs, found, strict=True):
            if answer is None or isinstance(answer, Problem) or not answer.is_new:
                continue
            new[job.queue, job.kind].append(job)
            if answer.state is State.READY:
                ready[job.queue].append(job)
        for (queue, kind), accepted in new.items():
            metrics.accepted(queue=queue, kind=kind, count=len(accepted))
        for queue, waiting in ready.items():
            for job in waiting[-BURST_MAX:]:  # more would not be sent
                self._ringer.ring(
                    queue=queue, kind=job.kind, job_id=job.id, traceparent=job.traceparent
                )


def refusal(job: NewJob, accepted: Accepted) -> Problem | None:
    """The problem with a job that the ledger did not accept."""
    if accepted.missing_parents:
        missing = accepted.missing_parents
        return Problem(
            Code.PARENT_UNKNOWN,
            f"There is no job {missing[0]} to depend on.",
            field="depends_on",
            remedy="Use ids of your own jobs that have not been pruned.",
            extra={"missing": [str(parent) for parent in missing]},
        )
    if accepted.is_conflict:
        return Problem(
            Code.IDEMPOTENCY_CONFLICT,
            f"The key {job.idempotency_key!r} was used with a different body.",
            field="idempotency_key",
            remedy="Use a new key for a new job.",
            extra={"first_job": str(accepted.id)},
        )
    return None


def links(job_id: UUID) -> dict[str, str]:
    """Links to a job."""
    return {"self": f"/api/v1/jobs/{job_id}", "events": f"/api/v1/jobs/{job_id}/events"}


def receipt(job: NewJob, accepted: Accepted) -> dict[str, Any]:
    """The response for a new job."""
    return {
        "id": accepted.id,
        "state": accepted.state,
        "kind": job.kind,
        "queue": job.queue,
        "priority": job.priority,
        "created_at": accepted.created_at,
        "run_at": accepted.run_at,
        "trace_id": job.trace_id,
        "links": links(accepted.id),
    }
