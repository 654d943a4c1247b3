"""The second peer: a bare Dramatiq no-op as people write it, on Redis, with its usual middleware.

Dramatiq acknowledges late by itself and has no task events.
"""

from __future__ import annotations

import os
import time

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

QUEUE = "default"
WORDS = ("dramatiq", "lab.bench.dramatiq_peer", "--processes", "2", "--threads", "8")

broker = RedisBroker(  # type: ignore[no-untyped-call]
    url=os.environ.get("RELAIS_BENCH_REDIS_URL", "redis://127.0.0.1:1/1")
)
dramatiq.set_broker(broker)


@dramatiq.actor
def nothing(number: int) -> None:
    """Do nothing."""
    del number


def use(url: str) -> None:
    """Send to the Redis at `url`."""
    elsewhere = RedisBroker(url=url)  # type: ignore[no-untyped-call]
    nothing.broker = elsewhere
    elsewhere.declare_actor(nothing)


def left(client: redis.Redis) -> int:
    """How many messages wait or are unacknowledged: each is kept until its acknowledgement."""
    return int(client.hlen(f"dramatiq:{QUEUE}.msgs"))


def enqueue(count: int) -> float:
    """Send `count` no-ops; seconds taken."""
    started = time.monotonic()
    for number in range(count):
        nothing.send(number)
    return time.monotonic() - started
