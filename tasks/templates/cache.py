"""A cache of one event loop: bounded, values expire, and who asks for the same waits together."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """Values by key for `ttl_s`, those used last within `weight_max`; errors are not kept."""

    def __init__(
        self,
        *,
        ttl_s: float,
        weight_max: int,
        weigh: Callable[[Value], int] = lambda _: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._weight_max = weight_max
        self._weigh = weigh
        self._clock = clock
        self._kept: OrderedDict[Key, tuple[Value, float, int]] = OrderedDict()
        self._weight = 0
        self._loading: dict[Key, asyncio.Task[Value]] = {}

    async def get(self, key: Key, load: Callable[[], Awaitable[Value]]) -> Value:
        """The value of `key`, loaded where there is none or it is too old; raises what `load` does.

        One load serves all who ask meanwhile, and goes on when one of them is cancelled.
        """
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept[1]:
            self._kept.move_to_end(key)
            return kept[0]
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(key, load))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _load(self, key: Key, load: Callable[[], Awaitable[Value]]) -> Value:
        began = self._clock()  # what it was then; it may change while it is on its way
        try:
            value = await load()
        finally:
            del self._loading[key]
        self._keep(key, value, until=began + self._ttl_s)
        return value

    def _keep(self, key: Key, value: Value, *, until: float) -> None:
        if key in self._kept:
            self._weight -= self._kept.pop(key)[2]
        weight = self._weigh(value)
        self._kept[key] = (value, until, weight)
        self._weight += weight
        while self._weight > self._weight_max:
            _, (_, _, dropped) = self._kept.popitem(last=False)
            self._weight -= dropped
