"""One run from start to verdict."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lab.chaos import checker, collect_history, report
from lab.chaos.client import Client
from lab.chaos.cluster import QUEUES, cluster
from lab.chaos.conductor import Conductor
from lab.chaos.faults.fault import Scene
from lab.chaos.journal import Journal
from lab.chaos.load import Load
from lab.chaos.waiting import comes
from ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lab.chaos.cluster import Cluster
    from lab.chaos.faults.fault import Fault

WARM_UP_S = 3.0
LOOK_EVERY_S = 0.25
ACKNOWLEDGED_WITHIN_S = 90.0
DRAINED_WITHIN_S = 240.0
EXTRA_S = 240.0  # a run may last so much longer than twice its time, for every fault's turn
SETTLED_WITHIN_S = 30.0
HEALED_WITHIN_S = 120.0  # the last faults of a run, after its time is over


@dataclass(slots=True)
class Plan:
    """What to do."""

    seed: int
    minutes: float
    faults: Sequence[type[Fault]]
    history: Path
    rate: float = 12.0  # orders a second
    gateways: int = 2
    workers: int = 2
    beats: int = 2


@dataclass(slots=True)
class Progress:
    """How far a run is, for whoever watches."""

    phase: str = "starting"
    ends_at: float = 0.0  # monotonic
    lasts_s: float = 0.0
    attempted: int = 0
    acknowledged: int = 0
    repeats: int = 0
    open_jobs: int | None = None
    under_way: tuple[str, ...] = ()
    struck: int = 0
    kinds: int = 0
    lag_max_s: float = 0.0  # longest that this process kept the proxies waiting
    skipped: dict[str, str] = field(default_factory=dict)


async def play(plan: Plan, *, tell: Callable[[Progress], None]) -> dict[str, Any]:
    """Run `plan`; the report."""
    progress = Progress()
    tell(progress)
    async with cluster(
        plan.history, gateways=plan.gateways, workers=plan.workers, beats=plan.beats
    ) as made:
        client = Client(
            made.gateways,
            keys=made.keys,
            journal=Journal(plan.history / "clients.jsonl"),
            rng=random.Random(f"{plan.seed} clients"),
        )
        load = Load(client, seed=plan.seed, rate=plan.rate, callback_base=made.callback_base)
        conductor = Conductor(
            Scene(made, client, random.Random(f"{plan.seed} faults")),
            plan.faults,
            journal=Journal(plan.history / "faults.jsonl"),
            rng=random.Random(f"{plan.seed} moments"),
            settle=partial(_settle, made),
        )
        watching = asyncio.create_task(_watch(progress, tell, client=client, conductor=conductor))
        try:
            await _strain(plan, load, conductor, progress)
            progress.phase = "draining"
            for proxy in made.proxies:
                proxy.heal()
            await load.finish(within_s=ACKNOWLEDGED_WITHIN_S)
            await _drain(made, client, progress)
            progress.phase = "judging"
            history = await collect_history.gather(made, conductor.struck)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    verdict = checker.judge(history)
    return report.document(
        verdict,
        history,
        report.About(
            seed=plan.seed,
            minutes=plan.minutes,
            lag_max_s=progress.lag_max_s,
            skipped=conductor.skipped,
            not_met=conductor.not_met,
        ),
    )


async def _strain(plan: Plan, load: Load, conductor: Conductor, progress: Progress) -> None:
    lasts_s = WARM_UP_S + 60 * plan.minutes
    at_most_s = 2 * lasts_s + EXTRA_S
    progress.ends_at, progress.lasts_s = time.monotonic() + lasts_s, lasts_s
    progress.phase = "under load"
    try:
        async with asyncio.timeout(at_most_s + HEALED_WITHIN_S), asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await asyncio.sleep(WARM_UP_S)
            last = progress.ends_at - lasts_s + at_most_s
            await conductor.run(until=progress.ends_at, at_most=last)
            await asyncio.sleep(max(0.0, progress.ends_at - time.monotonic()))
            load.stop()
    except TimeoutError:
        kinds = ", ".join(fault.kind for fault in conductor.under_way.values()) or "no fault"
        sentence = f"The run did not finish; still active: {kinds}."
        raise OpsError(sentence, remedy=f"See {plan.history}.") from None


async def _settle(made: Cluster) -> None:
    """Until every process runs and no job has been waiting for long, or has had time enough."""

    async def is_calm() -> bool:
        if not all(launched.pid for launched in made.launcher.processes.values()):
            return False
        return not (await made.query(collect_history.WAITING, list(QUEUES)))[0]["n"]

    await comes(is_calm, within_s=SETTLED_WITHIN_S)


async def _drain(made: Cluster, client: Client, progress: Progress) -> None:
    """Wait until no job is open any more; what is then open is lost."""

    async def is_drained() -> bool:
        progress.open_jobs = (await made.query(collect_history.OPEN))[0]["n"]
        return progress.open_jobs == 0

    deadline = time.monotonic() + DRAINED_WITHIN_S
    while time.monotonic() < deadline:
        if not await is_drained():
            await asyncio.sleep(0.5)
        elif not await _decide(made, client):
            break
    await client.close()


async def _decide(made: Cluster, client: Client) -> int:
    """What a person does with unknown jobs: look into the mailboxes and say; how many there were.

    Children that waited for the answer go on, or end with their parent.
    """
    known = collect_history.clients_and_recorders(made.history)
    arrived = {delivery.recipient for delivery in known.deliveries}
    rows = await made.query(collect_history.UNKNOWN)
    for row in rows:
        doubtful = row["doubtful"] or []
        came = [recipient in arrived for recipient in doubtful]
        state = "succeeded" if all(came) else "failed" if any(came) else "ready"
        if state == "ready" and any(r in known.refused_addresses for r in doubtful):
            state = "failed"
        await client.operate(f"/api/v1/jobs/{row['id']}/resolve", {"state": state})
    return len(rows)


async def _watch(
    progress: Progress, tell: Callable[[Progress], None], *, client: Client, conductor: Conductor
) -> None:
    while True:
        progress.attempted, progress.acknowledged = client.attempted, client.acknowledged
        progress.repeats = client.repeats
        progress.under_way = tuple(fault.kind for fault in conductor.under_way.values())
        met = [fault for fault in conductor.struck if fault.is_met]
        progress.struck, progress.kinds = len(met), len({fault.kind for fault in met})
        progress.skipped = conductor.skipped
        tell(progress)
        before = time.monotonic()
        await asyncio.sleep(LOOK_EVERY_S)
        progress.lag_max_s = max(progress.lag_max_s, time.monotonic() - before - LOOK_EVERY_S)
