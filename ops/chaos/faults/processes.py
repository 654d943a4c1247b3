"""Faults of the processes under test themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, ClassVar

from ops.chaos.faults.fault import Fault
from ops.chaos.keeper import FAKETIME
from ops.chaos.stand import LEASE_S
from ops.stack import processes

if TYPE_CHECKING:
    from ops.chaos.keeper import Charge

SKEWS = ("+2h", "-2h")


class OneProcess(Fault):
    """Something happens to one process whose name begins with `whose`."""

    whose: ClassVar[str] = "worker-"
    service: ClassVar[str] = "process"
    charge: Charge | None = None

    def choose(self) -> Charge | None:
        """One that runs; None where none does, and then the fault is not met."""
        running = self.stand.keeper.named(self.whose)
        self.charge = self.rng.choice(running) if running else None
        self.is_met = self.charge is not None
        return self.charge


class Killed(OneProcess):
    """SIGKILL at any moment."""

    lasts_s = (2.0, 4.0)

    async def inject(self) -> None:
        """Kill it."""
        if charge := self.choose():
            self.stand.keeper.kill(charge)


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
        if charge := self.choose():
            family = processes.family(charge.pid)[1:]
            self.is_met = bool(family)
            if family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(family[-1], signal.SIGKILL)


class WorkerFrozen(OneProcess):
    """Stopped for longer than its lease, then resumed: it wakes up as somebody who was robbed."""

    kind = "worker_frozen"
    lasts_s = (LEASE_S + 2.0, LEASE_S + 4.0)

    async def inject(self) -> None:
        """Stop it, and all that descends from it."""
        if charge := self.choose():
            self.stand.keeper.send_to_family(charge, signal.SIGSTOP)

    async def heal(self) -> None:
        """Resume."""
        if self.charge is not None and self.charge.pid:
            self.stand.keeper.send_to_family(self.charge, signal.SIGCONT)
            await asyncio.sleep(1.0)


class BeatFrozen(WorkerFrozen):
    """One of two beats stops and resumes with an old idea of what it has fired."""

    kind, whose = "beat_frozen", "beat-"
    lasts_s = (4.0, 8.0)


class Asked(OneProcess):
    """A signal that asks it to end."""

    signals: ClassVar[tuple[signal.Signals, ...]] = ()
    lasts_s = (3.0, 5.0)

    async def inject(self) -> None:
        """Ask, in this order, half a second apart."""
        if charge := self.choose():
            for number in self.signals:
                self.stand.keeper.kill(charge, number)
                await asyncio.sleep(0.5)


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
        if charge := self.choose():
            charge.skew = self.rng.choice(SKEWS)
            self.stand.keeper.kill(charge, signal.SIGTERM)

    async def heal(self) -> None:
        """And again with the right one."""
        if self.charge is not None:
            self.charge.skew = ""
            self.stand.keeper.kill(self.charge, signal.SIGTERM)


class Poison(Fault):
    """A job that ends every process that runs it."""

    kind, service = "poison_job", "poison"
    lasts_s = (1.0, 2.0)

    async def inject(self) -> None:
        """Hand it over like any other."""
        key = f"poison{self.rng.getrandbits(40):010x}"
        job = {"kind": "chaos.poison", "payload": {}, "queue": "template", "idempotency_key": key}
        await self.load.post(job)


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
    Poison,
)
