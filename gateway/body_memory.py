"""The memory that request bodies may take, in total and per caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Self

from gateway.connections import ANSWER_WITHIN_S
from gateway.errors import Code, TooLarge

if TYPE_CHECKING:
    from types import TracebackType

    from gateway.callers import Caller

RETRY_AFTER_S = "2"


class BodyMemory:
    """Hands out `total_bytes`; at most half to one caller, so that some is left for others."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._taken = 0
        self._by_caller: Counter[str] = Counter()
        self._freed = asyncio.Condition()

    def room(self, caller: Caller) -> Room:
        """The room of one request of `caller`; empty at first."""
        return Room(self, f"{caller.tenant}/{caller.name}")

    async def take(self, name: str, size: int) -> None:
        """Wait for `size` bytes; 503 if they do not become free in time."""

        def fits() -> bool:
            return (
                self._taken + size <= self._total_bytes
                and self._by_caller[name] + size <= self._total_bytes // 2
            )

        if not fits():
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S), self._freed:
                    await self._freed.wait_for(fits)
            except TimeoutError:
                raise _busy() from None
        self._taken += size
        self._by_caller[name] += size

    async def give_back(self, name: str, size: int) -> None:
        """Release `size` bytes."""
        self._taken -= size
        self._by_caller[name] -= size
        if not self._by_caller[name]:
            del self._by_caller[name]
        async with self._freed:
            self._freed.notify_all()


class Room:
    """The memory of one request's body; released when the block ends."""

    def __init__(self, memory: BodyMemory, name: str) -> None:
        self._memory = memory
        self._name = name
        self._size = 0

    async def take(self, size: int) -> None:
        """Take `size` more bytes."""
        await self._memory.take(self._name, size)
        self._size += size

    async def keep(self, size: int) -> None:
        """Have `size` bytes in total: take what is missing, release the excess."""
        if size > self._size:
            await self.take(size - self._size)
        elif size < self._size:
            freed, self._size = self._size - size, size
            await self._memory.give_back(self._name, freed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._size:
            await self._memory.give_back(self._name, self._size)


def _busy() -> TooLarge:
    return TooLarge(
        Code.GATEWAY_BUSY,
        "Request bodies take all the memory that they may, in total or for this key.",
        remedy="Send it again in a few seconds; send fewer large bodies at once, or NDJSON.",
        headers={"Connection": "close", "Retry-After": RETRY_AFTER_S},
    )
