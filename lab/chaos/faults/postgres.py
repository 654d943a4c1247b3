"""Faults of Postgres and of the way to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING, ClassVar

import psycopg

from lab.chaos import patterns
from lab.chaos.configuration import LEASE_S
from lab.chaos.faults.fault import Evidence, Fault, HalfOpen, OnProxy, Unreachable
from lab.chaos.proxy import Trap
from ops.stack import processes

if TYPE_CHECKING:
    from pathlib import Path

VICTIMS = """
SELECT pg_terminate_backend(pid) AS is_ended FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND application_name LIKE 'relais%'
ORDER BY random() LIMIT 12
"""
NO_ROOM = "No space left on device"


class OnPostgres(Fault):
    """Any of them."""

    service: ClassVar[str] = "postgres"
    stops: ClassVar[bool] = True  # while it lasts, nothing can be written


class Crashed(OnPostgres):
    """Immediate stop: no checkpoint, every connection dropped; started again after a while."""

    kind, lasts_s = "postgres_crashed", (1.0, 4.0)

    async def inject(self) -> None:
        """Stop."""
        evidence = Evidence(self.cluster.postgres_proxy)
        await asyncio.to_thread(self.cluster.postgres.stop, "immediate")
        await asyncio.sleep(0.1)  # until the proxy has heard of it
        self.is_met = evidence.has_lost_links

    async def heal(self) -> None:
        """Start."""
        await asyncio.to_thread(self.cluster.postgres.start)


class BackendsKilled(OnPostgres):
    """A dozen connections are ended by the server, whatever they are doing."""

    kind, lasts_s, stops = "postgres_backends_killed", (1.0, 2.0), False

    async def inject(self) -> None:
        """End them, twice."""
        for _ in range(2):
            ended = await self.cluster.query(VICTIMS)
            self.is_met = self.is_met or any(row["is_ended"] for row in ended)
            await asyncio.sleep(0.3)


class Frozen(OnPostgres):
    """The server and all its processes stand still; connections stay open."""

    kind, lasts_s = "postgres_frozen", (5.0, LEASE_S + 4.0)  # past every lease, now and then
    pids: tuple[int, ...] = ()
    evidence: Evidence | None = None

    async def inject(self) -> None:
        """Stop every process."""
        self.evidence = Evidence(self.cluster.postgres_proxy)
        self.pids = tuple(processes.family(self.cluster.postgres.pid or 0))
        self._send(signal.SIGSTOP)

    async def heal(self) -> None:
        """Let them go on; met where somebody asked meanwhile."""
        self.is_met = self.evidence is not None and self.evidence.of("up")
        self._send(signal.SIGCONT)

    def _send(self, how: signal.Signals) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)


class DiskFull(OnPostgres):
    """Not a byte is left where Postgres writes."""

    kind, lasts_s = "postgres_disk_full", (4.0, 7.0)
    _complaints = 0

    def missing(self) -> str:
        """A disk that may be filled."""
        return (
            "" if self.cluster.has_small_disk else "a small disk of its own (only root may mount)"
        )

    async def inject(self) -> None:
        """Fill it."""
        self._complaints = self._read_complaints()
        await asyncio.to_thread(_fill, self._ballast)

    async def last(self) -> None:
        """Keep it full: what the server gives back on the way is taken again."""
        for _ in range(round(self.rng.uniform(*self.lasts_s) * 2)):
            await asyncio.sleep(0.5)
            await asyncio.to_thread(_fill, self._ballast)

    async def heal(self) -> None:
        """Make room, and start the server again where it gave up."""
        self.is_met = self._read_complaints() > self._complaints
        self._ballast.unlink(missing_ok=True)
        await asyncio.sleep(1.0)
        if self.cluster.postgres.pid is None:
            await asyncio.to_thread(self.cluster.postgres.start)

    def _read_complaints(self) -> int:
        return self.cluster.postgres.log.read_text(errors="replace").count(NO_ROOM)

    @property
    def _ballast(self) -> Path:
        return self.cluster.disk / "ballast"


class TransactionOpen(OnPostgres):
    """Somebody forgot a transaction: nothing can be cleaned up behind it."""

    kind, lasts_s, stops = "postgres_transaction_open", (15.0, 20.0), False
    connection: psycopg.AsyncConnection | None = None

    async def inject(self) -> None:
        """Take a snapshot and keep it."""
        self.connection = await psycopg.AsyncConnection.connect(
            self.cluster.postgres.superuser_url, options="-c idle_in_transaction_session_timeout=0"
        )
        await self.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await self.connection.execute("SELECT count(*) FROM relais.jobs")

    async def heal(self) -> None:
        """Let go; met where it was held until now."""
        if self.connection is not None:
            with contextlib.suppress(psycopg.Error):
                await self.connection.execute("SELECT 1")
                self.is_met = True
                await self.connection.close()


class ReadOnly(OnPostgres):
    """It takes no writes for a while, as a server does that is being failed over."""

    kind, lasts_s = "postgres_read_only", (4.0, 7.0)
    trap: Trap | None = None

    async def inject(self) -> None:
        """Have every session refuse writes from its next transaction on."""
        self.trap = Trap("down", patterns.READ_ONLY, times=1_000_000)
        self.cluster.postgres_proxy.traps.append(self.trap)
        await self._tell("ALTER SYSTEM SET default_transaction_read_only = on")

    async def heal(self) -> None:
        """Take writes again; met where one was refused."""
        await self._tell("ALTER SYSTEM RESET default_transaction_read_only")
        if self.trap is not None:
            self.is_met = self.trap.count > 0
            self.cluster.postgres_proxy.traps.remove(self.trap)

    async def _tell(self, statement: str) -> None:
        await self.cluster.query(statement)
        await self.cluster.query("SELECT pg_reload_conf()")


class Gone(Unreachable, OnPostgres):
    """Connections are cut and refused."""

    kind, lasts_s, proxy = "postgres_unreachable", (3.0, 6.0), "postgres"


class Silent(HalfOpen, OnPostgres):
    """Connections stay open and nothing comes through."""

    kind, lasts_s, proxy = "postgres_half_open", (5.0, 8.0), "postgres"


class Slow(OnProxy, OnPostgres):
    """Every message takes a while, both ways."""

    kind, lasts_s, stops = "postgres_slow", (4.0, 8.0), False
    proxy, deeds = "postgres", ("delayed",)

    def disturb(self) -> None:
        """Delay."""
        self.way.delay_s = self.rng.uniform(0.02, 0.1)

    def relieve(self) -> None:
        """No more."""
        self.way.delay_s = 0.0


class CutAfterBytes(OnProxy, OnPostgres):
    """The wire gives way under some byte or other, several times."""

    kind, lasts_s, stops = "postgres_cut_after_bytes", (4.0, 6.0), False
    proxy, deeds = "postgres", ("gave way",)

    def disturb(self) -> None:
        """The first."""
        self.way.cut_after_bytes = self.rng.randint(1, 60_000)

    async def last(self) -> None:
        """And the others."""
        for _ in range(10):
            await asyncio.sleep(0.4)
            if self.way.cut_after_bytes is None:
                self.way.cut_after_bytes = self.rng.randint(1, 60_000)

    def relieve(self) -> None:
        """No more."""
        self.way.cut_after_bytes = None


def _fill(ballast: Path) -> None:
    """Take all the room there is, to the last block."""
    size = 1 << 20
    with ballast.open("ab", buffering=0) as file:
        while size >= 4096:
            if shutil.disk_usage(ballast.parent).free < size:
                size //= 2
                continue
            try:
                if file.write(bytes(size)) < size:
                    size //= 2
            except OSError:
                size //= 2


ALL: tuple[type[Fault], ...] = (
    Crashed,
    BackendsKilled,
    Frozen,
    DiskFull,
    TransactionOpen,
    ReadOnly,
    Gone,
    Silent,
    Slow,
    CutAfterBytes,
)
