"""Handing jobs over to the ledger: in groups, where no job can block another.

Three doors: jobs with parents and jobs with a key may meet a lock, all others cannot. A group that
meets a lock gives up after a moment and is split up (`gateway/contention.py`).
"""

from __future__ import annotations

import asyncio
import random
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from gateway import exception_handlers
from gateway.errors import Problem
from ledger import database, outage, transitions
from ledger.errors import LedgerUnavailable
from ledger.group_commit import GroupCommit
from ledger.statements import TRANSITIONS as SQL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.connections import Connections
    from gateway.lane_registry import LaneRegistry
    from ledger.shapes import Accepted, NewJob

COMMIT_TOGETHER_MAX = 200
COMMIT_TOGETHER_MAX_BYTES = 4 * 1_048_576
WRITERS = 1  # two would halve the batches, and so cost more commits for the same jobs
GROUP_WAITS_MS = 250  # for a lock; a transaction that holds one for longer is not just committing
TRIES = 3  # for a group that hit a deadlock or a serialization failure
LOCKED: Final = None  # the result for a job that met a lock
_LOCK_NOT_AVAILABLE = "55P03"
_TRY_AGAIN = {"40P01", "40001"}
_BRIEFLY = text("SELECT set_config('lock_timeout', CAST(:ms AS text), true)")


async def hand_over(
    ledger: Connections, jobs: Sequence[NewJob], *, wait_ms: int = GROUP_WAITS_MS
) -> list[Accepted | Problem | None]:
    """Commit `jobs` in one transaction that waits about `wait_ms` for a lock; in order.

    A job that Postgres cannot hold gets its Problem and affects no other one. LOCKED (all of them):
    nothing was written. Raises what is an outage.
    """
    patient_until = time.monotonic() + wait_ms / 1000
    tries = 0
    while True:
        try:
            return list(await ledger.call(_accept, jobs, wait_ms=wait_ms))
        except DBAPIError as error:
            state = outage.sqlstate(error)
            tries += state in _TRY_AGAIN
            if state in _TRY_AGAIN and tries < TRIES:
                continue
            if state in _TRY_AGAIN or state == _LOCK_NOT_AVAILABLE:
                if time.monotonic() > patient_until:
                    return [LOCKED] * len(jobs)
            elif not outage.is_own_fault(error):
                raise
            elif len(jobs) == 1:
                return [exception_handlers.from_database(error)]
            else:
                middle = len(jobs) // 2
                first = await hand_over(ledger, jobs[:middle], wait_ms=wait_ms)
                return first + await hand_over(ledger, jobs[middle:], wait_ms=wait_ms)
        # Locks on parents are not waited for; their holder has a moment to release them.
        await asyncio.sleep(random.uniform(0.002, 0.02))  # noqa: S311 - no secret


async def _accept(
    connection: AsyncConnection, jobs: Sequence[NewJob], *, wait_ms: int
) -> Sequence[Accepted]:
    if database.lock_timeout_ms(connection) != wait_ms:  # otherwise it costs no round trip
        await connection.execute(_BRIEFLY, {"ms": wait_ms})
    parents = sorted({parent for job in jobs for parent in job.depends_on})
    if parents:  # here, since the ledger would keep the connection while it retries
        await connection.execute(SQL["lock_parents"], {"ids": parents})
    return await transitions.accept(connection, jobs)


class Door:
    """Single jobs of one sort, committed together with all others that are waiting."""

    def __init__(
        self,
        ledger: Connections,
        *,
        lanes: LaneRegistry,
        tell: Callable[[Sequence[NewJob], Sequence[Accepted | Problem | None]], None],
    ) -> None:
        """`tell` is called after every commit."""
        self._ledger = ledger
        self._lanes = lanes
        self._tell = tell
        self._waiting: dict[asyncio.Future[Accepted | Problem | None], float] = {}
        self._together: GroupCommit[NewJob, Accepted | Problem | None] = GroupCommit(
            self._write,
            batch_max=COMMIT_TOGETHER_MAX,
            batch_max_bytes=COMMIT_TOGETHER_MAX_BYTES,
            weigh=attrgetter("payload_bytes"),
            writers=WRITERS,
        )
        self.failed_at: float | None = None  # the last attempt; None: it succeeded

    async def take(self, job: NewJob, *, until: float) -> Accepted | None:
        """Commit `job`; None: it met a lock. Raises Problem, also at `until` (loop time).

        A job that is given up while it waits its turn is never written; after that nobody knows.
        """
        future = self._together.enqueue(job)
        self._waiting[future] = time.monotonic()
        try:
            async with asyncio.timeout_at(until):
                found = await future
        except TimeoutError:
            raise exception_handlers.unavailable() from None
        finally:
            del self._waiting[future]
        if isinstance(found, Problem):
            raise found
        return found

    def oldest_s(self) -> float:
        """How long the oldest waiting job has waited."""
        since = next(iter(self._waiting.values()), None)
        return 0.0 if since is None else time.monotonic() - since

    async def flush(self) -> None:
        """Wait for running commits."""
        await self._together.flush()

    async def _write(self, jobs: Sequence[NewJob]) -> Sequence[Accepted | Problem | None]:
        try:
            await self._lanes.register(jobs)
            found = await hand_over(self._ledger, jobs)
        except LedgerUnavailable:
            self.failed_at = time.monotonic()
            raise
        self.failed_at = None
        self._tell(jobs, found)
        return found
