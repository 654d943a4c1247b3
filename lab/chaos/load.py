"""A steady load through the HTTP API, for as long as a run lasts."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from lab.chaos.orders import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.chaos.client import Client
    from lab.chaos.orders import Order

UNDER_WAY_MAX = 200


class Load:
    """Places `rate` orders a second until stopped."""

    def __init__(self, client: Client, *, seed: int, rate: float, callback_base: str) -> None:
        self._client = client
        self._rng = random.Random(f"{seed} moments of the load")
        self._orders: Iterator[Order] = iter(Stream(random.Random(f"{seed} load"), callback_base))
        self._rate = rate
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Start orders, evenly spread, until `stop`."""
        due = time.monotonic()
        while not self._is_over:
            due += self._rng.expovariate(self._rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(self._tasks) < UNDER_WAY_MAX:
                task = asyncio.create_task(self._place(next(self._orders)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                due = time.monotonic()

    def stop(self) -> None:
        """Start no more orders."""
        self._is_over = True

    async def finish(self, *, within_s: float) -> int:
        """Wait until everything is acknowledged; how many orders are not."""
        pending: set[asyncio.Task[None]] = set()
        if self._tasks:
            done, pending = await asyncio.wait(self._tasks, timeout=within_s)
            for task in done:
                task.result()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return len(pending)

    async def _place(self, order: Order) -> None:
        if order.shape == "batch":
            await self._client.post_together(order.jobs)
        elif order.shape == "cancel":
            job_id = await self._client.post(order.jobs[0])
            await self._client.cancel(order.jobs[0]["idempotency_key"], job_id)
        else:
            parents: list[str] = []
            for job in order.jobs:
                sent = {**job, "depends_on": parents} if parents else job
                parents = [await self._client.post(sent)]
