"""The first peer: a bare Celery no-op as people write it, late acknowledgement, no results."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

app = Celery("peer", broker=os.environ.get("RELAIS_BENCH_REDIS_URL", "redis://127.0.0.1:1/1"))
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
)
QUEUE = "celery"
WORDS = ("celery", "-A", "lab.bench.celery_peer", "worker", "-c", "2", "-l", "ERROR")


@app.task(name="peer.nothing")  # type: ignore[untyped-decorator]
def nothing(number: int) -> None:
    """Do nothing."""
    del number


def use(url: str) -> None:
    """Send to the Redis at `url`."""
    app.conf.broker_url = url


def left(client: redis.Redis) -> int:
    """How many tasks wait or are unacknowledged."""
    waiting, unacknowledged = client.llen(QUEUE), client.hlen("unacked")
    return int(waiting) + int(unacknowledged)


def enqueue(count: int) -> float:
    """Send `count` no-ops; seconds taken."""
    started = time.monotonic()
    with app.producer_or_acquire() as producer:
        for number in range(count):
            nothing.apply_async((number,), producer=producer)
    return time.monotonic() - started
