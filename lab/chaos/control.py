"""The control run: the same load shape and faults on a plain Celery app; it loses and repeats.

Faults of what it does not have (Postgres, gateways, beats) are left out. Its client sends to the
broker and tries again until that takes it, as an HTTP endpoint in front of Celery would.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.exceptions import CeleryError
from kombu.exceptions import KombuError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from lab.chaos import collect_history, journal
from lab.chaos.cluster import cluster
from lab.chaos.conductor import Conductor
from lab.chaos.control_app import app
from lab.chaos.faults.fault import Scene
from lab.chaos.faults.hooks import Hook
from lab.chaos.journal import Journal
from lab.chaos.launcher import Launched
from lab.chaos.orders import Stream
from lab.chaos.play import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.chaos.cluster import Cluster
    from lab.chaos.play import Plan

WORKERS = 4
SETTLED_S = 25.0  # nothing arrived for so long: nothing more will, this hour
DRAINED_WITHIN_S = 150.0
APPLICABLE = frozenset({"redis", "smtp", "callback", "process", "hook"})
ELSEWHERE = ("gateway", "beat", "child")


class Client:
    """Hands mails to the broker; stands in for `load.Load` and `client.Client`."""

    def __init__(self, made: Cluster, *, journal: Journal, plan: Plan) -> None:
        self.attempted = self.acknowledged = self.repeats = 0
        self._journal = journal
        self._rng = random.Random(f"{plan.seed} moments of the control")
        self._orders = iter(Stream(random.Random(f"{plan.seed} load"), made.callback_base))
        self._rate = plan.rate
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send until stopped."""
        while not self._is_over:
            await asyncio.sleep(self._rng.expovariate(self._rate))
            for job in next(self._orders).jobs:
                if job["kind"] == "email.send" and job.get("delay_s", 0.0) < 10:
                    task = asyncio.create_task(self._send(job))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """No more; wait for what is on its way to the broker."""
        self._is_over = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=30)
        for task in self._tasks:
            task.cancel()

    async def operate(self, _path: str, _body: object = None) -> None:
        """There is nothing to operate."""

    async def _send(self, job: dict[str, Any]) -> None:
        recipients, key = job["payload"]["to"], job["idempotency_key"]
        self.attempted += 1
        self._journal.note("attempted", key=key, recipients=recipients)
        options = {"countdown": job["delay_s"]} if "delay_s" in job else {}
        arguments = (recipients, job.get("callback_url"))
        while True:
            try:
                await asyncio.to_thread(
                    app.send_task, "control.send", args=arguments, retry=False, **options
                )
                break
            except (KombuError, CeleryError, RedisError, OSError):
                self.repeats += 1
                await asyncio.sleep(self._rng.uniform(0.1, 0.6))
        self.acknowledged += 1
        self._journal.note("acknowledged", key=key)


async def play(plan: Plan, *, tell: Callable[[Progress], None]) -> dict[str, Any]:
    """Run `plan` against the control; its figures."""
    progress = Progress()
    tell(progress)
    async with cluster(plan.history, gateways=0, workers=0, beats=0) as made:
        _start_workers(made)
        clients = Journal(plan.history / "control.jsonl")
        client = Client(made, journal=clients, plan=plan)
        faults = [
            fault
            for fault in plan.faults
            if fault.service in APPLICABLE
            and not fault.kind.startswith(ELSEWHERE)
            and not fault.has_jobs
            and not (issubclass(fault, Hook) and fault.proxy == "postgres")
        ]
        conductor = Conductor(
            Scene(made, client, random.Random(f"{plan.seed} faults")),  # type: ignore[arg-type]
            faults,
            journal=Journal(plan.history / "faults.jsonl"),
            rng=random.Random(f"{plan.seed} moments"),
            settle=partial(asyncio.sleep, 0),
        )
        watching = asyncio.create_task(_watch(progress, tell, client, conductor))
        try:
            progress.phase = "control under load"
            progress.lasts_s = 60 * plan.minutes
            progress.ends_at = time.monotonic() + progress.lasts_s
            async with asyncio.TaskGroup() as group:
                group.create_task(client.run())
                await asyncio.sleep(3.0)
                await conductor.run(until=progress.ends_at, at_most=progress.ends_at)
                await asyncio.sleep(max(0.0, progress.ends_at - time.monotonic()))
                await client.finish()
            progress.phase = "draining"
            for proxy in made.proxies:
                proxy.heal()
            await _settle(made)
            left = await _left_in_redis(made)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return _figures(plan, client, conductor, left)


def _start_workers(made: Cluster) -> None:
    redis = made.valkey.url.replace(f":{made.valkey.port}/", f":{made.redis_proxy.port}/")
    app.conf.broker_url = redis
    env = made.environment() | {
        "CONTROL_REDIS_URL": redis,
        "CONTROL_SMTP": f"127.0.0.1:{made.smtp_proxy.port}",
    }
    for number in range(WORKERS):
        words = (sys.executable, "-m", "celery", "-A", "lab.chaos.control_app", "worker")
        options = ("--pool=prefork", "--concurrency=4", f"--hostname=control-{number}@%h")
        launched = Launched(
            f"worker-{number}", (*words, *options), env, made.history / f"worker-{number}.log"
        )
        made.launcher.add(launched)
    made.launcher.watch()


async def _settle(made: Cluster) -> None:
    """Until nothing has arrived for a while."""
    deadline = time.monotonic() + DRAINED_WITHIN_S
    seen, since = -1, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < SETTLED_S:
        size = (made.history / "smtp.jsonl").stat().st_size
        if size != seen:
            seen, since = size, time.monotonic()
        await asyncio.sleep(0.5)


async def _left_in_redis(made: Cluster) -> int:
    """Tasks that Redis holds as unacknowledged: they would run after the visibility time-out."""
    client = Redis.from_url(made.valkey.url)
    try:
        return int(await client.hlen("unacked"))
    finally:
        await client.aclose()


def _figures(plan: Plan, client: Client, conductor: Conductor, left: int) -> dict[str, Any]:
    asked: dict[str, list[str]] = {}
    acknowledged: set[str] = set()
    for entry in journal.read(plan.history / "control.jsonl"):
        if entry["what"] == "attempted":
            asked[entry["key"]] = entry["recipients"]
        else:
            acknowledged.add(entry["key"])
    known = collect_history.clients_and_recorders(plan.history)
    arrived = Counter(delivery.recipient for delivery in known.deliveries)
    lost = [
        key
        for key in acknowledged
        if any(not arrived[r] and r not in known.refused_addresses for r in asked[key])
    ]
    met = Counter(fault.kind for fault in conductor.struck if fault.is_met)
    return {
        "control": "celery",
        "seed": plan.seed,
        "minutes": plan.minutes,
        "attempted": client.attempted,
        "acknowledged": len(acknowledged),
        "lost": len(lost),
        "of_these_still_in_redis": min(left, len(lost)),
        "duplicates": sum(count - 1 for count in arrived.values()),
        "deliveries": sum(arrived.values()),
        "faults_injected": sum(met.values()),
        "fault_kinds": len(met),
        "faults": dict(sorted(met.items())),
    }


async def _watch(
    progress: Progress, tell: Callable[[Progress], None], client: Client, conductor: Conductor
) -> None:
    while True:
        progress.attempted, progress.acknowledged = client.attempted, client.acknowledged
        progress.under_way = tuple(fault.kind for fault in conductor.under_way.values())
        met = [fault for fault in conductor.struck if fault.is_met]
        progress.struck, progress.kinds = len(met), len({fault.kind for fault in met})
        tell(progress)
        await asyncio.sleep(0.5)
