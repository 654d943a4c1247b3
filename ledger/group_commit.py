"""Many callers, one commit: strict durability at the price of one fsync for all who wait.

While one batch is being committed the next one collects, so a lone caller never waits for
company and a crowd shares the cost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy.exc import DataError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """Collects items of one event loop and hands them to `commit` in batches.

    `commit` returns one result per item, in order, after its transaction is durable. `writers`
    batches may be under way at once.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        batch_max: int = 500,
        writers: int = 1,
    ) -> None:
        self._commit = commit
        self._batch_max = batch_max
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._idle_writers = writers
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Wait until the batch with `item` is committed; raises what its commit raised."""
        return await self.enqueue(item)

    def enqueue(self, item: Item) -> asyncio.Future[Result]:
        """Put `item` into the next batch without waiting."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._idle_writers:
            self._idle_writers -= 1
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def flush(self) -> None:
        """Wait until everything submitted so far has been tried."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch: list[tuple[Item, asyncio.Future[Result]]] = []
                while self._waiting and len(batch) < self._batch_max:
                    entry = self._waiting.popleft()
                    if not entry[1].cancelled():  # whoever gave up by now is told "not written"
                        batch.append(entry)
                if batch:
                    await self._settle(batch)
        finally:
            self._idle_writers += 1

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._commit([item for item, _ in batch])
        except (IntegrityError, DataError) as error:
            if len(batch) > 1:  # one bad item must not refuse its neighbours
                for entry in batch:
                    await self._settle([entry])
                return
            _refuse(batch, error)
        except BaseException as error:
            _refuse(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _refuse(batch: list[tuple[Item, asyncio.Future[Result]]], error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(
                error if isinstance(error, Exception) else ConnectionAbortedError("shutting down")
            )
