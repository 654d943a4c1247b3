"""Many callers, one commit: strict durability at the price of one fsync for all that wait.

While one batch is being committed the next one collects, so a lone caller never waits for
others, and many callers share the cost.

A batch that is refused is split up, so that no item suffers for another:

| the error | several items | one item |
|---|---|---|
| its own fault (`outage.is_own_fault`), or not Postgres' error | split up | reported |
| it waited for a lock (55P03), it took too long (57014) | split up | retried, or reported |
| Postgres is down, read-only, out of resources | retried, or reported | retried, or reported |
| a deadlock, a serialization failure (class 40), and the rest | retried, then split up | the same |
| a `RelaisError`: `commit` has already retried | reported | reported |

"Retried, or reported": a patient group retries until Postgres accepts it; any other retries what a
retry may fix (class 40) `TRIES` times, and reports everything else to its callers at once. Parts
are written alongside new batches and delay none of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ledger import outage
from ledger.patience import Announcements, Patience
from runtime.errors import RelaisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

TRIES = 4  # for a batch that may succeed the next time, before it is split up
PARTS = 8  # fewer rounds than halving; a round may cost a whole timeout
MENDERS = 4  # parts that are written at the same time
LONE_WAIT_MAX_S = 5.0  # between two attempts for an item that only its own trouble delays
_WAITED = frozenset({"55P03", "57014"})
_LOST_RACE_CLASS = "40"


class _Action(Enum):
    TELL = auto()  # the callers
    AGAIN = auto()  # the batch as it is
    APART = auto()  # each part by itself


@dataclass(eq=False, slots=True)
class _Entry(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    size_bytes: int


class _Batch(Generic[Item, Result]):
    """Entries that are written together, and how often that has failed."""

    def __init__(self, entries: list[_Entry[Item, Result]], announcements: Announcements) -> None:
        self.entries = entries
        self.patience = Patience(announcements)

    def drop_the_gone(self) -> int:
        """Drop items whose callers gave up: they were told so. Returns the bytes dropped."""
        gone_bytes = 0
        if any(entry.future.done() for entry in self.entries):
            gone_bytes = sum(entry.size_bytes for entry in self.entries if entry.future.done())
            self.entries = [entry for entry in self.entries if not entry.future.done()]
        return gone_bytes

    def settle(self, results: Sequence[Result]) -> int:
        """Give the callers their results; returns the bytes settled."""
        for entry, result in zip(self.entries, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(result)
        return self._size_bytes()

    def refuse(self, error: Exception) -> int:
        """Raise the error in the callers; returns the bytes settled."""
        for entry in self.entries:
            if not entry.future.done():
                entry.future.set_exception(error)
        return self._size_bytes()

    def _size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.entries)


class GroupCommit(Generic[Item, Result]):
    """Collects items of one event loop and hands them to `commit` in batches.

    `commit` returns one result per item, in order, after its transaction is durable. `writers`
    batches may be in progress at once. A batch has at most `batch_max` items and, if `weigh`
    gives the size of one, about `batch_max_bytes`. `is_patient` and the errors: see above.
    `on_wait` is called with the error that keeps a write waiting, and how often it has occurred.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        batch_max: int = 500,
        batch_max_bytes: int = 0,
        weigh: Callable[[Item], int] | None = None,
        writers: int = 1,
        is_patient: bool = False,
        on_wait: Callable[[BaseException, int], None] | None = None,
    ) -> None:
        self._commit = commit
        self._batch_max = batch_max
        self._batch_max_bytes = batch_max_bytes
        self._weigh = weigh
        self._is_patient = is_patient
        self._announcements = Announcements(on_wait)
        self.unsettled_bytes = 0  # of items whose callers have no result yet
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._parts: deque[_Batch[Item, Result]] = deque()
        self._idle_writers = writers
        self._idle_menders = MENDERS
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Wait until the batch with `item` is committed; raises what its commit raised."""
        return await self.enqueue(item)

    def enqueue(self, item: Item) -> asyncio.Future[Result]:
        """Put `item` into the next batch without waiting."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        size_bytes = self._weigh(item) if self._weigh is not None else 0
        self.unsettled_bytes += size_bytes
        self._waiting.append(_Entry(item, future, size_bytes))
        if self._idle_writers:
            self._idle_writers -= 1
            self._start(self._drain())
        return future

    async def flush(self) -> None:
        """Wait until everything submitted so far has been tried."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        """Write fresh batches until none waits."""
        try:
            while self._waiting:
                batch = self._next()
                wait_s = await self._try(batch)
                while wait_s is not None:
                    await asyncio.sleep(wait_s)
                    wait_s = await self._try(batch)
        finally:
            self._idle_writers += 1

    def _next(self) -> _Batch[Item, Result]:
        entries: list[_Entry[Item, Result]] = []
        size_bytes = 0
        while self._waiting and len(entries) < self._batch_max:
            size_bytes += self._waiting[0].size_bytes
            if entries and self._batch_max_bytes and size_bytes > self._batch_max_bytes:
                break
            entries.append(self._waiting.popleft())
        return _Batch(entries, self._announcements)

    async def _try(self, batch: _Batch[Item, Result]) -> float | None:
        """Write `batch`; seconds until it is retried as it is, None if it is settled."""
        self.unsettled_bytes -= batch.drop_the_gone()
        if not batch.entries:
            return None
        try:
            results = await self._commit([entry.item for entry in batch.entries])
        except Exception as error:  # noqa: BLE001 - each is dealt with, as the table above says
            return self._deal_with(error, batch)
        except BaseException:
            self.unsettled_bytes -= batch.refuse(ConnectionAbortedError("shutting down"))
            raise
        self.unsettled_bytes -= batch.settle(results)
        return None

    def _deal_with(self, error: Exception, batch: _Batch[Item, Result]) -> float | None:
        size, patience = len(batch.entries), batch.patience
        match self._action_after(error, size=size, failures=patience.failures):
            case _Action.TELL:
                self.unsettled_bytes -= batch.refuse(error)
            case _Action.AGAIN:
                return patience.after(error)
            case _Action.APART if size == 1:
                wait_s = patience.after(error, wait_max_s=LONE_WAIT_MAX_S)
                self._start(self._mend_later(batch, wait_s))
            case _Action.APART:
                patience.after(error)
                length = -(-size // PARTS)
                for start in range(0, size, length):
                    entries = batch.entries[start : start + length]
                    self._mend_soon(_Batch(entries, self._announcements))
        return None

    def _action_after(self, error: Exception, *, size: int, failures: int) -> _Action:
        if isinstance(error, RelaisError):
            return _Action.TELL
        if outage.is_own_fault(error) or not outage.is_passing(error):
            return _Action.APART if size > 1 else _Action.TELL
        state = outage.sqlstate(error)
        if state in _WAITED:
            return _Action.APART if size > 1 or self._is_patient else _Action.TELL
        if outage.is_away(error):
            return _Action.AGAIN if self._is_patient else _Action.TELL
        if not self._is_patient and state[:2] != _LOST_RACE_CLASS:
            return _Action.TELL
        if failures < TRIES:
            return _Action.AGAIN
        return _Action.APART if size > 1 or self._is_patient else _Action.TELL

    def _mend_soon(self, part: _Batch[Item, Result]) -> None:
        if len(part.entries) > 1:
            self._parts.appendleft(part)  # most of them are fine: ahead of those that are not
        else:
            self._parts.append(part)
        if self._idle_menders:
            self._idle_menders -= 1
            self._start(self._mend())

    async def _mend_later(self, part: _Batch[Item, Result], wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._mend_soon(part)

    async def _mend(self) -> None:
        """Write parts until none waits; a part that has to wait makes room for the others."""
        try:
            while self._parts:
                part = self._parts.popleft()
                wait_s = await self._try(part)
                if wait_s is not None:
                    self._start(self._mend_later(part, wait_s))
        finally:
            self._idle_menders += 1
