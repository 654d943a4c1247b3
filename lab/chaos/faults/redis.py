"""Faults of Redis and of the way to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from redis.asyncio import Redis

from lab.chaos import patterns
from lab.chaos.faults.fault import Evidence, Fault, HalfOpen, Unreachable
from lab.chaos.proxy import Trap
from ops.stack import ports

if TYPE_CHECKING:
    import re

    from lab.chaos.proxy import Link

RESTARTS = 50
DEAF_S = (8.0, 14.0)

FLUSHES = 300
FLUSH = "local keys = redis.call('DBSIZE') redis.call('FLUSHALL') return keys"


class OnRedis(Fault):
    """Any of them."""

    service: ClassVar[str] = "redis"

    async def tell(self, *words: str, within_s: float = 5.0) -> object:
        """One command to the server itself, past the proxy."""
        client = Redis.from_url(self.cluster.valkey.url, socket_timeout=within_s)
        try:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()

    async def _start(self) -> None:
        if self.cluster.valkey.pid is None:
            await asyncio.to_thread(self.cluster.valkey.start)


class Killed(OnRedis):
    """SIGKILL; it comes back empty."""

    kind, lasts_s = "redis_killed", (1.0, 6.0)

    async def inject(self) -> None:
        """Kill it."""
        evidence = Evidence(self.cluster.redis_proxy)
        await asyncio.to_thread(self.cluster.valkey.stop, "immediate")
        await asyncio.sleep(0.1)  # until the proxy has heard of it
        self.is_met = evidence.has_lost_links

    async def heal(self) -> None:
        """Start it."""
        await self._start()


class Flushed(OnRedis):
    """FLUSHALL, several times."""

    kind, lasts_s = "redis_flushed", (0.2, 0.5)

    async def inject(self) -> None:
        """Wipe it; met where there was something: doorbells that nobody had heard yet."""
        for _ in range(FLUSHES):
            self.is_met = bool(await self.tell("EVAL", FLUSH, "0")) or self.is_met
            await asyncio.sleep(0.01)


class Stalled(OnRedis):
    """DEBUG SLEEP: it is there and answers nobody."""

    kind, lasts_s = "redis_stalled", (0.1, 0.2)

    async def inject(self) -> None:
        """Sleep for a while; returns when it wakes up. Met where somebody asked meanwhile."""
        evidence = Evidence(self.cluster.redis_proxy)
        seconds = self.rng.uniform(3.0, 6.0)
        await self.tell("DEBUG", "SLEEP", f"{seconds:.1f}", within_s=30)
        self.is_met = evidence.of("up")


class Refusing(OnRedis):
    """It refuses what it is asked; met where somebody was told so."""

    refusal: ClassVar[re.Pattern[bytes]]
    trap: Trap | None = None

    async def inject(self) -> None:
        """From now on."""
        self.trap = Trap("down", self.refusal, times=1_000_000)
        self.cluster.redis_proxy.traps.append(self.trap)
        await self.refuse()

    async def heal(self) -> None:
        """No more."""
        await self.agree()
        if self.trap is not None:
            self.is_met = self.trap.count > 0
            self.cluster.redis_proxy.traps.remove(self.trap)

    async def refuse(self) -> None:
        """Have it refuse."""
        raise NotImplementedError

    async def agree(self) -> None:
        """Have it agree again."""
        raise NotImplementedError


class Full(Refusing):
    """Out of memory, and nothing may be evicted: every write is refused."""

    kind, lasts_s, refusal = "redis_full", (4.0, 7.0), patterns.OUT_OF_MEMORY

    async def refuse(self) -> None:
        """Leave it no room."""
        await self.tell("CONFIG", "SET", "maxmemory", "1mb")

    async def agree(self) -> None:
        """Give it room."""
        await self.tell("CONFIG", "SET", "maxmemory", "512mb")


class Replica(Refusing):
    """It follows another server for a while: whoever waits is thrown out, writes are refused."""

    kind, lasts_s, refusal = "redis_replica", (4.0, 7.0), patterns.REPLICA

    async def refuse(self) -> None:
        """Follow somebody who is not there."""
        await self.tell("REPLICAOF", "127.0.0.1", str(ports.free()))

    async def agree(self) -> None:
        """Follow nobody."""
        await self.tell("REPLICAOF", "NO", "ONE")


class Silent(HalfOpen, OnRedis):
    """Connections stay open and nothing comes through."""

    kind, lasts_s, proxy = "redis_half_open", DEAF_S, "redis"


class OneSilent(OnRedis):
    """The connections of one worker stay open and nothing comes through; its next ones are fine."""

    kind, lasts_s = "redis_half_open_for_one", DEAF_S
    links: tuple[Link, ...] = ()
    evidence: Evidence | None = None

    async def inject(self) -> None:
        """Swallow what belongs to one of them."""
        launcher, proxy = self.cluster.launcher, self.cluster.redis_proxy
        owners = {link: launcher.owner_of(link.client_port) for link in proxy.links}
        names = sorted({o.name for o in owners.values() if o and o.name.startswith("worker-")})
        if not names:
            return
        name = self.rng.choice(names)
        self.links = tuple(link for link, owner in owners.items() if owner and owner.name == name)
        self.evidence = Evidence(proxy)
        for link in self.links:
            link.is_silent = True

    async def heal(self) -> None:
        """Cut them; met where something was swallowed."""
        self.is_met = self.evidence is not None and self.evidence.of("swallowed")
        for link in self.links:
            link.cut()


class Gone(Unreachable, OnRedis):
    """Connections are cut and refused."""

    kind, lasts_s, proxy = "redis_unreachable", (3.0, 8.0), "redis"


class Restarted(OnRedis):
    """Fifty restarts in a row; afterwards nobody may be deaf."""

    kind, lasts_s = "redis_restarted_50_times", (0.1, 0.2)

    async def inject(self) -> None:
        """Kill and start; met where somebody was cut off or came in vain."""
        evidence = Evidence(self.cluster.redis_proxy)
        for _ in range(RESTARTS):
            await asyncio.to_thread(self.cluster.valkey.stop, "immediate")
            await asyncio.to_thread(self.cluster.valkey.start)
        self.is_met = evidence.has_lost_links or evidence.of("unreached")

    async def heal(self) -> None:
        """It is there."""
        await self._start()


ALL: tuple[type[Fault], ...] = (
    Killed,
    Flushed,
    Stalled,
    Full,
    Replica,
    Silent,
    OneSilent,
    Gone,
    Restarted,
)
