"""The peer: a bare Celery no-op as people write it, late acknowledgement, no results."""

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


@app.task(name="peer.nothing")  # type: ignore[untyped-decorator]
def nothing(number: int) -> None:
    """Do nothing."""
    del number


def is_drained(client: redis.Redis) -> bool:
    """Whether nothing waits and nothing is unacknowledged."""
    waiting, unacknowledged = client.llen(QUEUE), client.hlen("unacked")
    return waiting == 0 and unacknowledged == 0


def enqueue(count: int) -> float:
    """Send `count` no-ops; seconds taken."""
    started = time.monotonic()
    with app.producer_or_acquire() as producer:
        for number in range(count):
            nothing.apply_async((number,), producer=producer)
    return time.monotonic() - started
