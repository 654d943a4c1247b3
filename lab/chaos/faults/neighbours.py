"""Trouble of one that may not become everybody's: each bounds how long the others wait.

All but the first are played while nothing else goes wrong, so that a bound means something.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from psycopg.pq import TransactionStatus

from lab.chaos import journal, patterns
from lab.chaos.faults.asking import Asking
from lab.chaos.faults.fault import HOOK_WITHIN_S, Evidence
from lab.chaos.proxy import Trap
from lab.chaos.waiting import comes

if TYPE_CHECKING:
    from lab.chaos.faults.fault import Fault, Scene
    from lab.chaos.launcher import Launched
    from lab.chaos.proxy import Link, Proxy

FLOOD, FLOOD_BATCH = 3000, 500
FLOOD_HOLDS_S = 0.05
TROUBLED = 80  # jobs that meet the trouble: more than there are slots
PROBES = 20
PROBE_EVERY_S = 0.25
FLOWS_WITHIN_S = 8.0  # a job that has nothing to do with the trouble, from accepted to finished
ANSWERED_WITHIN_S = 3.0  # a request that has nothing to do with it
DRAINED_WITHIN_S = 90.0
STEADY_S = 1.5  # nobody new came for so long: nobody will
LOCKED_S = 6.0
BLOCKED_S = 5.0
CALLBACKS = """
SELECT extract(epoch FROM c.finished_at - j.finished_at)::float8 AS took_s
FROM relais.jobs AS j LEFT JOIN relais.jobs AS c ON c.accepted_by = 'job:' || j.id
WHERE j.idempotency_key = ANY(%s)
"""


class LoopBlocked(Asking):
    """A handler holds up the event loop of its worker; what runs beside it only waits."""

    kind, service = "event_loop_blocked", "load"

    async def inject(self) -> None:
        """One for each worker of the queue, among others."""
        held = [self.task(payload={"blocks_s": BLOCKED_S}) for _ in range(2)]
        others = [self.task() for _ in range(PROBES)]
        await self.client.post_together([*held, *others])
        keys = {job["idempotency_key"] for job in held}

        def have_run() -> bool:
            entries = journal.read(self.cluster.history / "effects.jsonl")
            return keys <= {entry["key"] for entry in entries if entry["what"] == "ended"}

        self.is_met = await comes(have_run, within_s=2 * HOOK_WITHIN_S)


class Neighbour(Asking):
    """Any of the others."""

    service: ClassVar[str] = "neighbour"
    is_alone: ClassVar[bool] = True

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.asked: list[asyncio.Task[str]] = []  # requests that may take longer than the trouble

    async def last(self) -> None:
        """No longer than it takes."""

    async def place_probes(self, **fields: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON
        """Jobs that the trouble does not concern, one after the other."""
        placed: list[dict[str, Any]] = []
        for _ in range(PROBES):
            job = self.task(**fields)
            await self.client.post(job)
            placed.append(job)
            await asyncio.sleep(PROBE_EVERY_S)
        return placed

    async def knock(self, *, for_s: float, gateway: int | None = None) -> None:
        """Hand over jobs for a while, and note how long each takes to be acknowledged."""
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            began = time.monotonic()
            asked = asyncio.create_task(self.client.post(self.task(), gateway=gateway))
            self.asked.append(asked)
            done, _ = await asyncio.wait({asked}, timeout=ANSWERED_WITHIN_S)
            seconds = time.monotonic() - began if done else None
            self.client.probe(
                self.kind, "an unrelated request", seconds=seconds, bound_s=ANSWERED_WITHIN_S
            )
            await asyncio.sleep(PROBE_EVERY_S)


class TenantFloods(Neighbour):
    """One tenant hands over thousands of jobs; another one's find their way all the same."""

    kind = "tenant_floods"

    async def inject(self) -> None:
        """Flood, and hand over some beside it; met where there was a flood until the last."""
        work = {"holds_s": FLOOD_HOLDS_S}
        for _ in range(FLOOD // FLOOD_BATCH):
            jobs = [self.task(payload=work, is_noted=False) for _ in range(FLOOD_BATCH)]
            await self.client.post_together(jobs, tenant="flood")
        probes = await self.place_probes()
        self.is_met = await self.states("ready") > PROBES
        await self.time(probes, about="a job beside the flood", bound_s=FLOWS_WITHIN_S)

    async def last(self) -> None:
        """Until the flood is over: what comes next shall not meet it."""

        async def is_over() -> bool:
            return not await self.states("ready", "running")

        await comes(is_over, within_s=DRAINED_WITHIN_S)


class RelaySilent(Neighbour):
    """A relay takes connections and says nothing; mail for another one is sent."""

    kind = "relay_silent"
    evidence: Evidence | None = None

    async def inject(self) -> None:
        """More mail than there are slots for the silent one, then some for a good one."""
        proxy = self.cluster.second_smtp_proxy
        self.evidence = Evidence(proxy)
        proxy.is_swallowing = True
        await self.client.post_together([self._mail("second") for _ in range(TROUBLED)])
        await _fills(proxy)
        good: list[dict[str, Any]] = []
        for _ in range(PROBES):
            good.append(self._mail("default"))
            await self.client.post(good[-1])
            await asyncio.sleep(PROBE_EVERY_S)
        await self.time(good, about="a mail for a good relay", bound_s=FLOWS_WITHIN_S)

    async def heal(self) -> None:
        """Hang up; the relay answers again."""
        self.is_met = self.evidence is not None and self.evidence.of("swallowed")
        self.cluster.second_smtp_proxy.stop_swallowing()

    def _mail(self, relay: str) -> dict[str, Any]:
        job = self.job("email.send", {}, queue="bulk", max_attempts=60)
        job["payload"] = {
            "from": "Relais <relais@example.org>",
            "to": [f"m.{job['idempotency_key']}@example.org"],
            "subject": "Order",
            "text": "It is on its way.",
        }
        if relay != "default":
            job["payload"]["relay"] = relay
        return job


class ReceiverSilent(Neighbour):
    """A callback's host takes connections and says nothing; another host is called."""

    kind = "receiver_silent"
    evidence: Evidence | None = None

    async def inject(self) -> None:
        """More callbacks than there are slots to the silent one, then some to a good one."""
        proxy = self.cluster.second_callback_proxy
        self.evidence = Evidence(proxy)
        proxy.is_swallowing = True
        silent = self.cluster.second_callback_base
        await self.client.post_together([self._job(silent) for _ in range(TROUBLED)])
        await _fills(proxy)
        good = [self._job(self.cluster.callback_base) for _ in range(PROBES)]
        await self.client.post_together(good)
        keys = [job["idempotency_key"] for job in good]

        async def are_called() -> bool:
            return all(row["took_s"] for row in await self.cluster.query(CALLBACKS, keys))

        await comes(are_called, within_s=FLOWS_WITHIN_S)
        for row in await self.cluster.query(CALLBACKS, keys):
            self.client.probe(
                self.kind,
                "a callback to a good host",
                seconds=row["took_s"],
                bound_s=FLOWS_WITHIN_S,
            )

    async def heal(self) -> None:
        """Hang up; the host answers again."""
        self.is_met = self.evidence is not None and self.evidence.of("swallowed")
        self.cluster.second_callback_proxy.stop_swallowing()

    def _job(self, base: str) -> dict[str, Any]:
        job = self.task()
        return {**job, "callback_url": f"{base}/{job['idempotency_key']}"}


class ParentLocked(Neighbour):
    """Somebody has locked the row of a job that others shall wait for."""

    kind = "parent_locked"
    connection: psycopg.AsyncConnection | None = None

    async def inject(self) -> None:
        """Lock it, have both gateways asked for a child of it, and ask for other things."""
        parent = await self.client.post(self.task(delay_s=LOCKED_S))
        self.connection = await psycopg.AsyncConnection.connect(
            self.cluster.postgres.superuser_url, options="-c idle_in_transaction_session_timeout=0"
        )
        lock = "SELECT FROM relais.jobs WHERE id = %s FOR UPDATE"
        await self.connection.execute(lock, (parent,))
        for number in range(len(self.cluster.gateways)):
            child = self.client.post(self.task(depends_on=[parent]), gateway=number)
            self.asked.append(asyncio.create_task(child))
        await self.knock(for_s=LOCKED_S)
        self.is_met = self.connection.info.transaction_status is TransactionStatus.INTRANS
        await self.heal()
        await asyncio.gather(*self.asked)

    async def heal(self) -> None:
        """Let go."""
        if self.connection is not None:
            await self.connection.close()


class GatewayFrozenWithKey(Neighbour):
    """A gateway stops after it has inserted a job; the same job is handed to another gateway."""

    kind = "gateway_frozen_with_key"
    trap: Trap | None = None
    victim: Launched | None = None

    async def inject(self) -> None:
        """Stop the first one there, and ask the second for the same and for other things."""
        first = self.cluster.launcher.processes["gateway-0"]
        self.trap = Trap(
            "down",
            patterns.ACCEPTED,
            concerns=lambda link: self.cluster.launcher.owner_of(link.client_port) is first,
            callback=self._stop,
        )
        self._proxy.traps.append(self.trap)
        job = self.task()
        self.asked.append(asyncio.create_task(self.client.post(job, gateway=0)))
        if await comes(self.trap.sprung.is_set, within_s=HOOK_WITHIN_S):
            self.asked.append(asyncio.create_task(self.client.post(job, gateway=1)))
            await self.knock(for_s=LOCKED_S, gateway=1)
        await self.heal()
        await asyncio.gather(*self.asked)

    async def heal(self) -> None:
        """Resume."""
        if self.trap is not None and self.trap in self._proxy.traps:
            self._proxy.traps.remove(self.trap)
        if self.victim is not None:
            self.is_met = True
            self.cluster.launcher.send_to_family(self.victim, signal.SIGCONT)

    @property
    def _proxy(self) -> Proxy:
        return self.cluster.postgres_proxy

    async def _stop(self, link: Link) -> None:
        self.victim = self.cluster.launcher.owner_of(link.client_port)
        if self.victim is not None:
            self.cluster.launcher.send_to_family(self.victim, signal.SIGSTOP)


async def _fills(proxy: Proxy) -> None:
    """Until nobody comes any more to the silent one: whoever could is waiting for it."""
    seen, since = 0, time.monotonic()

    def is_full() -> bool:
        nonlocal seen, since
        if len(proxy.links) != seen:
            seen, since = len(proxy.links), time.monotonic()
        return seen > 0 and time.monotonic() - since > STEADY_S

    await comes(is_full, within_s=HOOK_WITHIN_S)


ALL: tuple[type[Fault], ...] = (
    LoopBlocked,
    TenantFloods,
    RelaySilent,
    ReceiverSilent,
    ParentLocked,
    GatewayFrozenWithKey,
)
