"""Faults of the one connection by which a worker proves that it is alive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lab.chaos import patterns
from lab.chaos.configuration import LEASE_S
from lab.chaos.faults.asking import Asking
from lab.chaos.faults.fault import HOOK_WITHIN_S, Fault
from lab.chaos.proxy import Trap
from lab.chaos.waiting import comes

if TYPE_CHECKING:
    from lab.chaos.launcher import Launched
    from lab.chaos.proxy import Link

BACK_WITHIN_S = 20.0
SEEN = """
SELECT count(*) AS n FROM relais.workers
WHERE pid = %s AND seen_at > to_timestamp(%s) + interval '1 second'
"""
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8 AS at"
CLAIMS = """
SELECT count(*) AS n FROM relais.job_events
WHERE to_state = 'running' AND worker LIKE %s AND at > to_timestamp(%s)
"""


class PresenceHalfOpen(Fault):
    """It stays open and nothing comes through; the server still holds what it holds."""

    kind, service, is_alone = "presence_half_open", "neighbour", True
    link: Link | None = None

    async def inject(self) -> None:
        """Swallow that one connection, and see how long the worker is without one that works."""
        found = [
            (link, owner)
            for link in self.cluster.postgres_proxy.links
            if patterns.PRESENCE.search(link.hello)
            and (owner := self.cluster.launcher.owner_of(link.client_port)) is not None
        ]
        if not found:
            return
        self.link, owner = self.rng.choice(found)
        began = await _now(self)
        self.link.is_silent = True
        is_back = await comes(lambda: _seen(self, owner.pid, began), within_s=BACK_WITHIN_S)
        self.is_met = True
        self.client.probe(
            self.kind,
            f"until {owner.name} was seen again",
            seconds=await _now(self) - began if is_back else None,
            bound_s=BACK_WITHIN_S,
        )

    async def last(self) -> None:
        """No longer than it takes."""

    async def heal(self) -> None:
        """Cut it at last."""
        if self.link is not None:
            self.link.cut()


class PresenceNeverGained(Asking):
    """A worker starts, and that connection never works: it may claim nothing."""

    kind, service = "presence_never_gained", "process"
    trap: Trap | None = None
    launched: Launched | None = None

    async def inject(self) -> None:
        """Start one anew without it, hand over long jobs, and see that it leaves them alone."""
        proxy, launcher = self.cluster.postgres_proxy, self.cluster.launcher
        self.launched = launched = self.rng.choice(launcher.named("worker-template"))
        self.trap = Trap(
            "up",
            patterns.PRESENCE,
            verdict="silence",
            times=1_000_000,
            concerns=lambda link: launcher.owner_of(link.client_port) is launched,
        )
        proxy.traps.append(self.trap)
        began = await _now(self)
        launcher.kill(launched)
        held = {"holds_s": LEASE_S / 2}
        await self.client.post_together([self.task(payload=held) for _ in range(8)])
        if not await comes(self.trap.sprung.is_set, within_s=2 * HOOK_WITHIN_S):
            return
        pid = launched.pid
        self.is_met = bool(pid)
        await asyncio.sleep(LEASE_S + 4.0)
        claims = await self.cluster.query(CLAIMS, f"%:{pid}", began)
        if claims[0]["n"]:
            self.client.find(
                f"{launched.name} claimed {claims[0]['n']} jobs, and was never seen alive"
            )

    async def last(self) -> None:
        """No longer than it takes."""

    async def heal(self) -> None:
        """Let it connect."""
        if self.trap is not None:
            self.cluster.postgres_proxy.traps.remove(self.trap)
        for link in list(self.cluster.postgres_proxy.links):
            if link.is_silent:
                link.cut()


async def _now(fault: Fault) -> float:
    return float((await fault.cluster.query(NOW))[0]["at"])


async def _seen(fault: Fault, pid: int, since: float) -> bool:
    return bool((await fault.cluster.query(SEEN, pid, since))[0]["n"])


ALL: tuple[type[Fault], ...] = (PresenceHalfOpen, PresenceNeverGained)
