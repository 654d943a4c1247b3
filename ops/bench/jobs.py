"""`bench jobs`: jobs that do nothing, accepted over HTTP -> finished in the ledger.

Beside it, in the same run and on the same services, a bare Celery no-op (prefork, two
processes, late acknowledgement), enqueued -> acknowledged. Both queues are filled while their
workers run; a second figure measures only the draining of a backlog.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import redis
from sqlalchemy import create_engine, text

from ledger import database
from ops.bench import celery_peer
from ops.bench.stand import Stand, stand, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = 30_000
PEERS = 6_000
SLICE = 1_000

FINISHED = text("SELECT count(*) FROM relais.jobs WHERE state = 'succeeded'")
TOOK_S = text("SELECT extract(epoch FROM max(finished_at) - min(created_at)) FROM relais.jobs")
DRAIN_TOOK_S = text(
    "SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM relais.jobs"
)
LOOK_EVERY_S = 0.25  # counting rows costs the database time that the jobs should have
UNHEALTHY = text("SELECT count(*) FROM relais.jobs WHERE state <> 'succeeded' OR attempt <> 1")


def measure() -> dict[str, Any]:
    """Ours and the peer's, each without and with task events."""
    with stand() as here:
        key = here.make_key()
        with here.gateway() as url:
            plain = _ours(here, url, key, events=False)
            evented = _ours(here, url, key, events=True)
        peer = _peer(here, events=False)
        peer_evented = _peer(here, events=True)
    return {
        "name": "jobs",
        "ours_per_s": plain["per_s"],
        "peer": "celery",
        "peer_per_s": peer["per_s"],
        "ratio": round(plain["per_s"] / peer["per_s"], 2),
        "drain": {
            "ours_per_s": plain["drain_per_s"],
            "peer_per_s": peer["drain_per_s"],
            "ratio": round(plain["drain_per_s"] / peer["drain_per_s"], 2),
        },
        "with_events": {
            "ours_per_s": evented["per_s"],
            "peer_per_s": peer_evented["per_s"],
            "ratio": round(evented["per_s"] / peer_evented["per_s"], 2),
        },
        "jobs": OURS,
        "peer_jobs": PEERS,
    }


def _ours(here: Stand, url: str, key: str, *, events: bool) -> dict[str, float]:
    engine = create_engine(database.async_url(here.postgres.url))
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

            def finished(count: int) -> Callable[[], bool]:
                return lambda: connection.execute(FINISHED).scalar_one() >= count

            connection.execute(text("TRUNCATE relais.jobs, relais.job_events CASCADE"))
            with here.process("workers", "bulk", task_events=events) as worker:
                _post(url, key, 1)
                wait_until(finished(1), what="the worker", process=worker)
                connection.execute(text("TRUNCATE relais.jobs, relais.job_events CASCADE"))
                for _ in range(OURS // SLICE):
                    _post(url, key, SLICE)
                wait_until(finished(OURS), what="the jobs", process=worker, every_s=LOOK_EVERY_S)
            took_s = float(connection.execute(TOOK_S).scalar_one())
            connection.execute(text("TRUNCATE relais.jobs, relais.job_events CASCADE"))
            for _ in range(OURS // SLICE):
                _post(url, key, SLICE)
            with here.process("workers", "bulk", task_events=events) as worker:
                wait_until(finished(OURS), what="the jobs", process=worker, every_s=LOOK_EVERY_S)
            drain_took_s = float(connection.execute(DRAIN_TOOK_S).scalar_one())
            assert connection.execute(UNHEALTHY).scalar_one() == 0  # noqa: S101 - else no figure
    finally:
        engine.dispose()
    return {
        "per_s": round(OURS / took_s),
        "drain_per_s": round(OURS / drain_took_s),
    }


def _post(url: str, key: str, count: int) -> None:
    body = json.dumps([{"kind": "bench.nothing", "payload": {}}] * count).encode()
    request = Request(  # noqa: S310 - our own loopback address
        f"{url}/api/v1/jobs/batch",
        data=body,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urlopen(request, timeout=60) as response:  # noqa: S310 - as above
        assert json.load(response)["accepted"] == count  # noqa: S101 - else no figure


def _peer(here: Stand, *, events: bool) -> dict[str, float]:
    client = redis.Redis.from_url(here.peer_redis_url)
    celery_peer.app.conf.broker_url = here.peer_redis_url
    words = ["celery", "-A", "ops.bench.celery_peer", "worker", "-c", "2", "-l", "ERROR"]
    words += ["-E"] if events else []

    def drained() -> bool:
        return celery_peer.is_drained(client)

    client.flushdb()
    with here.process(*words) as worker:
        celery_peer.enqueue(1)
        wait_until(drained, what="Celery", process=worker)
        started = time.monotonic()
        celery_peer.enqueue(PEERS)
        ended = wait_until(drained, what="Celery's tasks", process=worker, within_s=120)
    client.flushdb()
    celery_peer.enqueue(PEERS)
    with here.process(*words) as worker:
        wait_until(
            lambda: client.llen(celery_peer.QUEUE) < PEERS,
            what="Celery",
            process=worker,
            every_s=0.005,
        )
        drain_started = time.monotonic()
        drain_ended = wait_until(drained, what="Celery's tasks", process=worker, within_s=120)
    client.close()
    return {
        "per_s": round(PEERS / (ended - started)),
        "drain_per_s": round(PEERS / (drain_ended - drain_started)),
    }
