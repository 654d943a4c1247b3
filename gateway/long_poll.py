"""Long polls: all requests that wait for jobs share one query to the ledger."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from uuid import UUID

from ledger import queries
from ledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from gateway.connections import Connections

LOOK_EVERY_S = 0.1


class LongPolls:
    """Wakes waiting requests when their job has ended."""

    def __init__(self, ledger: Connections) -> None:
        self._ledger = ledger
        self._waiting: dict[UUID, set[asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    async def until_over(self, job_id: UUID, *, timeout_s: float) -> None:
        """Return when the job has ended, `timeout_s` has passed or the gateway stops."""
        if self._is_closed or timeout_s <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(future)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(future, timeout_s)
        finally:
            futures = self._waiting.get(job_id, set())
            futures.discard(future)
            if not futures:
                self._waiting.pop(job_id, None)

    def release_all(self) -> None:
        """Release all waiters: the gateway is stopping."""
        self._is_closed = True
        self._wake(list(self._waiting))

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(LOOK_EVERY_S)
            # An outage says nothing about the jobs: they keep waiting until their own time is up.
            with contextlib.suppress(LedgerUnavailable):
                self._wake(await self._ledger.call(queries.over_among, list(self._waiting)))

    def _wake(self, job_ids: list[UUID]) -> None:
        for job_id in job_ids:
            for future in self._waiting.get(job_id, ()):
                if not future.done():
                    future.set_result(None)
