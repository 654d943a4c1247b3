"""The cache that lookups of templates share."""

from __future__ import annotations

import asyncio

import pytest

from tasks.templates.cache import Cache


class Source:
    """What is loaded, and how often."""

    def __init__(self) -> None:
        self.loads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self) -> int:
        self.loads += 1
        loads = self.loads
        await self.gate.wait()
        return loads


async def test_a_value_is_kept_until_it_is_too_old() -> None:
    now = 0.0
    source = Source()
    cache: Cache[str, int] = Cache(ttl_s=30.0, weight_max=9, clock=lambda: now)
    assert [await cache.get("a", source.load) for _ in range(3)] == [1, 1, 1]
    now = 29.9
    assert await cache.get("a", source.load) == 1
    now = 30.0
    assert await cache.get("a", source.load) == 2


async def test_who_asks_for_the_same_waits_together() -> None:
    source = Source()
    source.gate.clear()
    cache: Cache[str, int] = Cache(ttl_s=30.0, weight_max=9)
    first, *others = [asyncio.create_task(cache.get("a", source.load)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*others) == [1, 1, 1, 1]
    assert source.loads == 1


async def test_what_was_used_last_stays() -> None:
    source = Source()
    cache: Cache[str, int] = Cache(ttl_s=30.0, weight_max=20, weigh=lambda _: 10)
    for key in ("a", "b", "a", "c"):
        await cache.get(key, source.load)
    assert source.loads == 3
    await cache.get("a", source.load)
    assert source.loads == 3
    await cache.get("b", source.load)
    assert source.loads == 4


async def test_an_error_is_not_kept() -> None:
    async def broken() -> int:
        raise OSError

    source = Source()
    cache: Cache[str, int] = Cache(ttl_s=30.0, weight_max=9)
    with pytest.raises(OSError):
        await cache.get("a", broken)
    assert await cache.get("a", source.load) == 1
