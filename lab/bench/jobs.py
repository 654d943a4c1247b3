"""`bench jobs`: jobs that do nothing, accepted over HTTP -> finished in the ledger.

Beside it, in the same run and on the same services, bare no-ops of Celery (prefork, two
processes) and Dramatiq (two processes), enqueued -> acknowledged, both with late
acknowledgement. All queues are filled while their workers run; a second figure measures only
the draining of a backlog.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from sqlalchemy import create_engine, text

from lab.bench import peers
from lab.bench.cluster import Cluster, cluster, wait_until
from ledger import database

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.bench import Options
    from lab.bench.peers import Rates
    from lab.bench.progress import Say

OURS = 30_000
PEERS = {"celery": 6_000, "dramatiq": 20_000}  # each runs for some seconds
EVENTS = {"celery": ("-E",)}  # Dramatiq has none
SLICE = 1_000

FINISHED = text("SELECT count(*) FROM relais.jobs WHERE state = 'succeeded'")
TOOK_S = text("SELECT extract(epoch FROM max(finished_at) - min(created_at)) FROM relais.jobs")
DRAIN_TOOK_S = text(
    "SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM relais.jobs"
)
LOOK_EVERY_S = 0.25  # counting rows costs the database time that the jobs should have
UNHEALTHY = text("SELECT count(*) FROM relais.jobs WHERE state <> 'succeeded' OR attempt <> 1")


def measure(options: Options, say: Say) -> dict[str, Any]:
    """Ours and the peers', each without and with task events."""
    del options
    with cluster() as here:
        key = here.make_key()
        with here.gateway() as url:
            say(f"Relais: {OURS:,} jobs, and as many again to drain")
            plain = _ours(here, url, key, events=False)
            say("Relais, with task events")
            evented = _ours(here, url, key, events=True)
        theirs: dict[str, Rates] = {}
        theirs_evented: dict[str, Rates] = {}
        for name, jobs in PEERS.items():
            peer = peers.find(name)
            if peer is None:
                print(
                    f"{name} is not installed; `./relais test --version` does it.", file=sys.stderr
                )
                continue
            say(f"{name}: {jobs:,} jobs, and as many again to drain")
            theirs[name] = peers.measure(here, peer, jobs=jobs)
            if name in EVENTS:
                say(f"{name}, with task events")
                events = EVENTS[name]
                theirs_evented[name] = peers.measure(here, peer, jobs=jobs, options=events)
    return _page(plain, evented, theirs, theirs_evented)


def _page(
    plain: Rates, evented: Rates, theirs: dict[str, Rates], theirs_evented: dict[str, Rates]
) -> dict[str, Any]:
    celery, celery_evented = theirs["celery"], theirs_evented["celery"]
    return {
        "name": "jobs",
        "ours_per_s": plain.per_s,
        "peers": {name: theirs[name].per_s if name in theirs else None for name in PEERS},
        "peer": "celery",
        "peer_per_s": celery.per_s,
        "ratio": round(plain.per_s / celery.per_s, 2),
        "drain": {
            "ours_per_s": plain.drain_per_s,
            "peers": {name: rates.drain_per_s for name, rates in theirs.items()},
            "peer_per_s": celery.drain_per_s,
            "ratio": round(plain.drain_per_s / celery.drain_per_s, 2),
        },
        "with_events": {
            "ours_per_s": evented.per_s,
            "peers": {name: rates.per_s for name, rates in theirs_evented.items()},
            "peer_per_s": celery_evented.per_s,
            "ratio": round(evented.per_s / celery_evented.per_s, 2),
        },
        "jobs": OURS,
        "peer_jobs": PEERS["celery"],
    }


def _ours(here: Cluster, url: str, key: str, *, events: bool) -> Rates:
    engine = create_engine(database.async_url(here.postgres.superuser_url))
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

            def finished(count: int) -> Callable[[], bool]:
                return lambda: connection.execute(FINISHED).scalar_one() >= count

            here.empty_ledger()
            with here.process("workers", "bulk", task_events=events) as worker:
                post(url, key, count=1)
                wait_until(finished(1), what="the worker", process=worker)
                here.empty_ledger()
                for _ in range(OURS // SLICE):
                    post(url, key, count=SLICE)
                wait_until(finished(OURS), what="the jobs", process=worker, every_s=LOOK_EVERY_S)
            took_s = float(connection.execute(TOOK_S).scalar_one())
            here.empty_ledger()
            for _ in range(OURS // SLICE):
                post(url, key, count=SLICE)
            with here.process("workers", "bulk", task_events=events) as worker:
                wait_until(finished(OURS), what="the jobs", process=worker, every_s=LOOK_EVERY_S)
            drain_took_s = float(connection.execute(DRAIN_TOOK_S).scalar_one())
            assert connection.execute(UNHEALTHY).scalar_one() == 0  # noqa: S101 - else no figure
    finally:
        engine.dispose()
    return peers.Rates(per_s=round(OURS / took_s), drain_per_s=round(OURS / drain_took_s))


def post(url: str, key: str, *, count: int) -> None:
    """Hand `count` no-ops over in one request."""
    body = json.dumps([{"kind": "bench.nothing", "payload": {}}] * count).encode()
    request = Request(  # noqa: S310 - our own loopback address
        f"{url}/api/v1/jobs/batch",
        data=body,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urlopen(request, timeout=60) as response:  # noqa: S310 - as above
        assert json.load(response)["accepted"] == count  # noqa: S101 - else no figure
