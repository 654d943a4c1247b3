"""Faults that strike between two bytes: a trap in a proxy waits for the moment."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from typing import TYPE_CHECKING, ClassVar

from lab.chaos import patterns
from lab.chaos.configuration import LEASE_S
from lab.chaos.faults.fault import HOOK_WITHIN_S, Fault
from lab.chaos.proxy import Trap

if TYPE_CHECKING:
    from lab.chaos.launcher import Launched
    from lab.chaos.proxy import Direction, Link, Proxy, Verdict


class Hook(Fault):
    """At `pattern` on a connection of one of `whose`: kill that process (or not), and `verdict`."""

    proxy: ClassVar[str] = "postgres"
    whose: ClassVar[str] = "worker-"
    way: ClassVar[Direction] = "up"
    pattern: ClassVar[re.Pattern[bytes]]
    after: ClassVar[re.Pattern[bytes] | None] = None
    kills: ClassVar[bool] = True
    verdict: ClassVar[Verdict] = "cut"
    service: ClassVar[str] = "hook"
    times: ClassVar[int] = 1
    trap: Trap | None = None
    victim: Launched | None = None

    async def inject(self) -> None:
        """Set the trap."""
        self.trap = Trap(
            direction=self.way,
            pattern=self.pattern,
            verdict=self.verdict,
            after=self.after,
            times=self.times,
            concerns=self._concerns,
            callback=self._strike,
        )
        self._proxy.traps.append(self.trap)

    async def last(self) -> None:
        """Until the trap has sprung, or the moment does not come."""
        if self.trap is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HOOK_WITHIN_S):
                    await self.trap.sprung.wait()

    async def heal(self) -> None:
        """Take the trap away; met where it sprang (on somebody, where it kills)."""
        if self.trap is not None and self.trap in self._proxy.traps:
            self._proxy.traps.remove(self.trap)
            self.is_met = self.victim is not None if self.kills else self.trap.count > 0

    @property
    def _proxy(self) -> Proxy:
        proxy: Proxy = getattr(self.cluster, f"{self.proxy}_proxy")
        return proxy

    def _concerns(self, link: Link) -> bool:
        owner = self.cluster.launcher.owner_of(link.client_port)
        return owner is not None and owner.name.startswith(self.whose)

    async def _strike(self, link: Link) -> None:
        if not self.kills:
            return
        self.victim = self.cluster.launcher.owner_of(link.client_port)
        if self.victim is not None:
            self.cluster.launcher.kill(self.victim, signal.SIGKILL)


class GatewayKilledBeforeCommit(Hook):
    """COMMIT was sent, and never reaches Postgres."""

    kind = "gateway_killed_before_commit"
    whose, after, pattern = "gateway-", patterns.ACCEPTED, patterns.COMMIT


class GatewayKilledAfterCommit(Hook):
    """The job is durable, and nobody is told."""

    kind = "gateway_killed_after_commit"
    whose, way, after, pattern = "gateway-", "down", patterns.ACCEPTED, patterns.COMMITTED


class GatewayKilledBeforeRing(Hook):
    """The 202 may be out; the doorbell is not."""

    kind = "gateway_killed_before_ring"
    proxy, whose, pattern = "redis", "gateway-", patterns.RING


class AcceptReplyLost(Hook):
    """The gateway never learns that its COMMIT went through."""

    kind = "accept_commit_reply_lost"
    whose, way, after, pattern = "gateway-", "down", patterns.ACCEPTED, patterns.COMMITTED
    kills, times = False, 3


class ClaimReplyLost(Hook):
    """A worker holds jobs that it does not know of."""

    kind = "claim_commit_reply_lost"
    way, after, pattern = "down", patterns.CLAIMED, patterns.COMMITTED
    kills, times = False, 3


class FinishReplyLost(Hook):
    """A worker does not know whether its outcome was written."""

    kind = "finish_commit_reply_lost"
    way, after, pattern = "down", patterns.FINISHED, patterns.COMMITTED
    kills, times = False, 3


class WorkerKilledAtClaim(Hook):
    """Claimed and committed, and dead before it knows."""

    kind = "worker_killed_at_claim"
    way, after, pattern = "down", patterns.CLAIMED, patterns.COMMITTED


class WorkerKilledBeforeFinish(Hook):
    """The work is done, its outcome is not committed."""

    kind = "worker_killed_before_finish"
    after, pattern = patterns.FINISHED, patterns.COMMIT


class FrozenHook(Hook):
    """Stands still with a transaction open, and wakes up long after it lost that and its lease."""

    way: ClassVar[Direction] = "down"
    verdict: ClassVar[Verdict] = "forward"
    lasts_s = (LEASE_S + 2.0, LEASE_S + 4.0)

    async def last(self) -> None:
        """Until the moment has come, and then for longer than a lease."""
        await super().last()
        if self.victim is not None:
            await asyncio.sleep(self.rng.uniform(*self.lasts_s))

    async def heal(self) -> None:
        """Resume."""
        await super().heal()
        if self.victim is not None:
            self.cluster.launcher.send_to_family(self.victim, signal.SIGCONT)

    async def _strike(self, link: Link) -> None:
        self.victim = self.cluster.launcher.owner_of(link.client_port)
        if self.victim is not None:
            self.cluster.launcher.send_to_family(self.victim, signal.SIGSTOP)


class WorkerFrozenAtClaim(FrozenHook):
    """It has claimed and not committed: the jobs are ready, and locked."""

    kind, pattern = "worker_frozen_at_claim", patterns.CLAIMED


class WorkerFrozenBeforeFinish(FrozenHook):
    """Its outcome is written and not committed: the jobs are running, and locked."""

    kind, pattern = "worker_frozen_before_finish", patterns.FINISHED


class LateCommit(Hook):
    """Its COMMIT arrives when the connection is long given up."""

    kills: ClassVar[bool] = False
    pattern = patterns.COMMIT
    verdict: ClassVar[Verdict] = "forward"
    late_s: ClassVar[tuple[float, float]] = (3.0, 5.0)

    async def _strike(self, link: Link) -> None:
        link.abandon()
        await asyncio.sleep(self.rng.uniform(*self.late_s))


class AcceptCommitLate(LateCommit):
    """A gateway's: the job is there after its caller was refused, and has asked again."""

    kind, whose, after = "accept_commit_late", "gateway-", patterns.ACCEPTED


class ClaimCommitLate(LateCommit):
    """A worker's: it has given back what it cannot know, and then owns it after all."""

    kind, after = "claim_commit_late", patterns.CLAIMED


class FinishCommitLate(LateCommit):
    """A worker's: the outcome is written again meanwhile."""

    kind, after = "finish_commit_late", patterns.FINISHED


class WorkerKilledBeforeDot(Hook):
    """The final dot was sent, and never reaches the relay."""

    kind = "worker_killed_before_dot"
    proxy, pattern = "smtp", patterns.DOT


class WorkerKilledInWindow(Hook):
    """The relay has the message; its 250 is held back for ever."""

    kind = "worker_killed_in_window"
    proxy, way, pattern = "smtp", "down", patterns.QUEUED


class WorkerKilledAtCallback(Hook):
    """The callback never leaves."""

    kind = "worker_killed_at_callback"
    proxy, pattern = "callback", patterns.POST


class WorkerKilledAfterCallback(Hook):
    """The receiver has it; its answer is held back for ever."""

    kind = "worker_killed_after_callback"
    proxy, way, pattern = "callback", "down", patterns.ANSWERED


class SmtpReplyLost(Hook):
    """The relay's 250 is lost with the connection; the worker lives."""

    kind = "smtp_reply_lost"
    proxy, way, pattern, kills, times = "smtp", "down", patterns.QUEUED, False, 2


class BrpopReplySwallowed(Hook):
    """A doorbell was popped, and no worker hears it."""

    kind = "brpop_reply_swallowed"
    proxy, way, pattern, kills, times = "redis", "down", patterns.POPPED, False, 5


ALL: tuple[type[Fault], ...] = (
    GatewayKilledBeforeCommit,
    GatewayKilledAfterCommit,
    GatewayKilledBeforeRing,
    AcceptReplyLost,
    ClaimReplyLost,
    FinishReplyLost,
    WorkerKilledAtClaim,
    WorkerKilledBeforeFinish,
    WorkerFrozenAtClaim,
    WorkerFrozenBeforeFinish,
    AcceptCommitLate,
    ClaimCommitLate,
    FinishCommitLate,
    WorkerKilledBeforeDot,
    WorkerKilledInWindow,
    WorkerKilledAtCallback,
    WorkerKilledAfterCallback,
    SmtpReplyLost,
    BrpopReplySwallowed,
)
