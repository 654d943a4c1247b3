"""Faults of the processes under test themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from lab.chaos.configuration import LEASE_S
from lab.chaos.faults.asking import Asking
from lab.chaos.faults.fault import Fault
from lab.chaos.launcher import FAKETIME
from lab.chaos.waiting import comes
from ops.stack import processes

if TYPE_CHECKING:
    from lab.chaos.launcher import Launched

SKEWS = ("+2h", "-2h")
BURSTS = 4
HELD_S = 4.0
ENDS_WITHIN_S = 15.0
RUNS_AGAIN_WITHIN_S = 40.0


class OneProcess(Fault):
    """Something happens to one process whose name begins with `whose`."""

    whose: ClassVar[str] = "worker-"
    service: ClassVar[str] = "process"
    launched: Launched | None = None
    pid = 0  # of the process that it happened to

    def choose(self) -> Launched | None:
        """One that runs; None where none does."""
        running = self.cluster.launcher.named(self.whose)
        self.launched = self.rng.choice(running) if running else None
        self.pid = self.launched.pid if self.launched is not None else 0
        return self.launched

    def has_ended(self) -> bool:
        """Whether the process that was chosen has."""
        return bool(self.pid) and any(dead.pid == self.pid for dead in self.cluster.launcher.deaths)


class Killed(OneProcess):
    """SIGKILL at any moment."""

    lasts_s = (2.0, 4.0)

    async def inject(self) -> None:
        """Kill it."""
        if launched := self.choose():
            self.cluster.launcher.kill(launched)
            self.is_met = self.has_ended()


class WorkerKilled(Killed):
    """A worker."""

    kind = "worker_killed"


class GatewayKilled(Killed):
    """A gateway."""

    kind, whose = "gateway_killed", "gateway-"


class BeatKilled(Killed):
    """One of two beats."""

    kind, whose = "beat_killed", "beat-"


class ChildKilled(OneProcess):
    """A process that a worker runs handlers in."""

    kind, whose = "child_killed", "worker-template"
    lasts_s = (1.0, 2.0)

    async def inject(self) -> None:
        """Kill the youngest descendant."""
        if launched := self.choose():
            family = processes.family(launched.pid)[1:]
            if family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(family[-1], signal.SIGKILL)
                    self.is_met = True


class WorkerFrozen(OneProcess):
    """Stopped for longer than its lease, then resumed: it wakes up as somebody who was robbed."""

    kind = "worker_frozen"
    lasts_s = (LEASE_S + 2.0, LEASE_S + 4.0)

    async def inject(self) -> None:
        """Stop it, and all that descends from it."""
        if launched := self.choose():
            self.cluster.launcher.send_to_family(launched, signal.SIGSTOP)

    async def heal(self) -> None:
        """Resume; met where it stood still until now."""
        if self.launched is not None and self.launched.pid:
            self.is_met = self.launched.pid == self.pid
            self.cluster.launcher.send_to_family(self.launched, signal.SIGCONT)
            await asyncio.sleep(1.0)


class BeatFrozen(WorkerFrozen):
    """One of two beats stops and resumes with an old idea of what it has fired."""

    kind, whose = "beat_frozen", "beat-"
    lasts_s = (4.0, 8.0)


class Asked(OneProcess):
    """A signal that asks it to end."""

    signals: ClassVar[tuple[signal.Signals, ...]] = ()

    async def inject(self) -> None:
        """Ask, in this order, half a second apart."""
        if launched := self.choose():
            for number in self.signals:
                self.cluster.launcher.kill(launched, number)
                await asyncio.sleep(0.5)

    async def last(self) -> None:
        """Until it has ended, at most for as long as it may take."""
        self.is_met = await comes(self.has_ended, within_s=ENDS_WITHIN_S)


class WorkerTerminated(Asked):
    """SIGTERM while busy."""

    kind, signals = "worker_term", (signal.SIGTERM,)


class WorkerQuit(Asked):
    """SIGQUIT while busy."""

    kind, signals = "worker_quit", (signal.SIGQUIT,)


class WorkerTerminatedThenKilled(Asked):
    """SIGTERM, and no patience."""

    kind, signals = "worker_term_then_kill", (signal.SIGTERM, signal.SIGKILL)


class GatewayTerminated(Asked):
    """SIGTERM to a gateway that has requests under way."""

    kind, whose, signals = "gateway_term", "gateway-", (signal.SIGTERM,)


class ClockSkewed(OneProcess):
    """A worker, restarted, believes that it is two hours later, or earlier."""

    kind = "clock_skew"
    service: ClassVar[str] = "clock"
    lasts_s = (8.0, 12.0)

    def missing(self) -> str:
        """The library that lies about the time."""
        return "" if FAKETIME.exists() else "libfaketime (Debian: apt-get install faketime)"

    async def inject(self) -> None:
        """Restart it with a wrong clock."""
        if launched := self.choose():
            launched.skew = self.rng.choice(SKEWS)
            self.cluster.launcher.kill(launched, signal.SIGTERM)

    async def heal(self) -> None:
        """And again with the right one; met where it ran with the wrong one."""
        if self.launched is not None:
            self.is_met = self.has_ended() and bool(self.launched.pid)
            self.launched.skew = ""
            self.cluster.launcher.kill(self.launched, signal.SIGTERM)


class KilledTogether(Asking):
    """All workers are killed at once, four times over, each time under the same jobs."""

    kind, service, lasts_s = "workers_killed_together", "process", (1.0, 2.0)

    async def inject(self) -> None:
        """Hand over jobs that take a while; kill everybody whenever most of them run."""
        held = {"holds_s": HELD_S}
        jobs = [self.task(queue=queue, payload=held) for queue in ("template", "bulk") * 3]
        await self.client.post_together(jobs)
        for burst in range(BURSTS):
            await comes(partial(self._run_again, burst), within_s=RUNS_AGAIN_WITHIN_S)
            for launched in self.cluster.launcher.named("worker-"):
                self.cluster.launcher.kill(launched)
        self.is_met = any(row["attempt"] >= BURSTS for row in await self.rows())

    async def _run_again(self, burst: int) -> bool:
        rows = [row for row in await self.rows() if row["took_s"] is None]
        running: int = sum(row["state"] == "running" and row["attempt"] > burst for row in rows)
        return 2 * running > len(rows)


class Poison(Asking):
    """A job that ends every process that runs it."""

    kind, service = "poison_job", "poison"
    lasts_s = (1.0, 2.0)

    async def inject(self) -> None:
        """Hand it over like any other; met where a process has died of it."""
        job = self.job("chaos.poison", {}, queue="template")
        await self.client.post(job)
        self.is_met = await comes(self._has_killed, within_s=2 * ENDS_WITHIN_S)

    async def _has_killed(self) -> bool:
        return any(row["attempt"] > 1 for row in await self.rows())


ALL: tuple[type[Fault], ...] = (
    WorkerKilled,
    GatewayKilled,
    BeatKilled,
    ChildKilled,
    WorkerFrozen,
    BeatFrozen,
    WorkerTerminated,
    WorkerQuit,
    WorkerTerminatedThenKilled,
    GatewayTerminated,
    ClockSkewed,
    KilledTogether,
    Poison,
)
