"""Faults of Redis and of the way to it."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from redis.asyncio import Redis

from ops.chaos.faults.fault import Fault

RESTARTS = 50


class OnRedis(Fault):
    """Any of them."""

    service: ClassVar[str] = "redis"

    async def tell(self, *words: str) -> object:
        """One command to the server itself, past the proxy."""
        client = Redis.from_url(self.stand.valkey.url, socket_timeout=5)
        try:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()

    async def _start(self) -> None:
        if self.stand.valkey.pid is None:
            await asyncio.to_thread(self.stand.valkey.start)


class Killed(OnRedis):
    """SIGKILL; it comes back empty."""

    kind, lasts_s = "redis_killed", (1.0, 6.0)

    async def inject(self) -> None:
        """Kill it."""
        await asyncio.to_thread(self.stand.valkey.stop, "immediate")

    async def heal(self) -> None:
        """Start it."""
        await self._start()


class Flushed(OnRedis):
    """FLUSHALL, several times."""

    kind, lasts_s = "redis_flushed", (0.2, 0.5)

    async def inject(self) -> None:
        """Wipe it."""
        for _ in range(3):
            await self.tell("FLUSHALL")
            await asyncio.sleep(0.5)


class Stalled(OnRedis):
    """DEBUG SLEEP: it is there and answers nobody."""

    kind, lasts_s = "redis_stalled", (0.1, 0.2)

    async def inject(self) -> None:
        """Sleep for a while; returns when it wakes up."""
        seconds = self.rng.uniform(3.0, 6.0)
        client = Redis.from_url(self.stand.valkey.url, socket_timeout=30)
        try:
            await client.execute_command("DEBUG", "SLEEP", f"{seconds:.1f}")  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()


class Full(OnRedis):
    """Out of memory, and nothing may be evicted: every write is refused."""

    kind, lasts_s = "redis_full", (4.0, 7.0)

    async def inject(self) -> None:
        """Leave it no room."""
        await self.tell("CONFIG", "SET", "maxmemory", "1mb")

    async def heal(self) -> None:
        """Give it room."""
        await self.tell("CONFIG", "SET", "maxmemory", "512mb")


class HalfOpen(OnRedis):
    """Connections stay open and nothing comes through."""

    kind, lasts_s = "redis_half_open", (8.0, 14.0)

    async def inject(self) -> None:
        """Swallow."""
        self.stand.redis_proxy.is_swallowing = True

    async def heal(self) -> None:
        """Cut what swallowed."""
        self.stand.redis_proxy.is_swallowing = False
        self.stand.redis_proxy.cut_all()


class Gone(OnRedis):
    """Connections are cut and refused."""

    kind, lasts_s = "redis_unreachable", (3.0, 8.0)

    async def inject(self) -> None:
        """Cut and refuse."""
        self.stand.redis_proxy.refuse()

    async def heal(self) -> None:
        """Let through again."""
        self.stand.redis_proxy.is_refusing = False


class Restarted(OnRedis):
    """Fifty restarts in a row; afterwards nobody may be deaf."""

    kind, lasts_s = "redis_restarted_50_times", (0.1, 0.2)

    async def inject(self) -> None:
        """Kill and start."""
        for _ in range(RESTARTS):
            await asyncio.to_thread(self.stand.valkey.stop, "immediate")
            await asyncio.to_thread(self.stand.valkey.start)

    async def heal(self) -> None:
        """It is there."""
        await self._start()


ALL: tuple[type[Fault], ...] = (Killed, Flushed, Stalled, Full, HalfOpen, Gone, Restarted)
