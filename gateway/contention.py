"""Jobs that meet a lock: each waits separately, on a few connections of its own.

Jobs that wait for the same thing form one line, and only the first in line checks whether it is
free. When it is, the others go through their door together.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from gateway import exception_handlers
from gateway.errors import Problem
from gateway.handover import LOCKED, hand_over
from ledger import lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from gateway.connections import Connections
    from gateway.handover import Door
    from ledger.shapes import Accepted, NewJob

LOOK_MS = 10  # how long one check waits for the lock
LOOK_EVERY_S = 0.1
FIRST_LOOKS = 2  # connections for jobs that are not yet known to be blocked
FURTHER_LOOKS = 2  # connections for jobs that are known to be blocked


class Contention:
    """Accepts the jobs that cannot be accepted together."""

    def __init__(
        self,
        ledger: Connections,
        *,
        tell: Callable[[Sequence[NewJob], Sequence[Accepted | Problem | None]], None],
    ) -> None:
        self._first_looks = ledger.share(FIRST_LOOKS)
        self._further_looks = ledger.share(FURTHER_LOOKS)
        self._tell = tell
        self._lines: dict[tuple[Hashable, ...], asyncio.Future[bool]] = {}
        self._things: Counter[Hashable] = Counter()
        self.waiting = 0

    def concerns(self, job: NewJob) -> bool:
        """Whether something that `job` needs is known to be locked."""
        return bool(self._lines) and any(thing in self._things for thing in _things(job))

    async def accept(self, job: NewJob, *, door: Door, until: float) -> Accepted:
        """Commit `job` as soon as nothing blocks it; raises Problem at `until`."""
        self.waiting += 1
        try:
            async with asyncio.timeout_at(until):
                return await self._accept(job, door=door, until=until)
        except TimeoutError:
            raise exception_handlers.locked() from None
        finally:
            self.waiting -= 1

    async def _accept(self, job: NewJob, *, door: Door, until: float) -> Accepted:
        things = _things(job)
        while True:
            line = self._lines.get(things)
            if line is None:
                return await self._lead(job, things)
            if await asyncio.shield(line):
                found = await door.take(job, until=until)
                if found is not None:
                    return found

    async def _lead(self, job: NewJob, things: tuple[Hashable, ...]) -> Accepted:
        line = self._lines[things] = asyncio.get_running_loop().create_future()
        self._things.update(things)
        is_free = False
        try:
            found = await self._look(self._first_looks, job)
            while found is LOCKED:
                await asyncio.sleep(LOOK_EVERY_S)
                found = await self._look(self._further_looks, job)
            is_free = True
        finally:
            del self._lines[things]
            self._things.subtract(things)
            self._things += Counter()  # drops what no job waits for
            line.set_result(is_free)
        if isinstance(found, Problem):
            raise found
        return found

    async def _look(self, ledger: Connections, job: NewJob) -> Accepted | Problem | None:
        found = await hand_over(ledger, [job], wait_ms=LOOK_MS)
        self._tell([job], found)
        return found[0]


def _things(job: NewJob) -> tuple[Hashable, ...]:
    """What `job` needs and another transaction may hold: its key, its parents; else its lane."""
    if job.idempotency_key is None and not job.depends_on:
        return (lanes.registered(job),)
    key = (job.tenant, job.idempotency_key) if job.idempotency_key else None
    return (*sorted(job.depends_on), *((key,) if key else ()))
