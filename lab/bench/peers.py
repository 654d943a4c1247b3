"""Other people's queues, measured in the same run and on the same services as ours."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING, Protocol, cast

import redis

from lab.bench.cluster import wait_until

if TYPE_CHECKING:
    from lab.bench.cluster import Cluster

WITHIN_S = 120.0


class Peer(Protocol):
    """What the module of a peer offers."""

    WORDS: tuple[str, ...]  # its worker, as arguments of `python -m`

    def use(self, url: str, /) -> None:
        """Send to the Redis at `url`."""

    def enqueue(self, count: int, /) -> float:
        """Send `count` no-ops; seconds taken."""

    def left(self, client: redis.Redis, /) -> int:
        """How many of them wait or are unacknowledged."""


@dataclass(frozen=True, slots=True)
class Rates:
    """No-ops per second: filled while the worker runs, and a backlog drained."""

    per_s: int
    drain_per_s: int


def find(name: str) -> Peer | None:
    """The peer `name`; None where its library is not installed."""
    if util.find_spec(name) is None:
        return None
    return cast(Peer, importlib.import_module(f"lab.bench.{name}_peer"))


def measure(here: Cluster, peer: Peer, *, jobs: int, options: tuple[str, ...] = ()) -> Rates:
    """Enqueued -> acknowledged, of `jobs` no-ops; `options` go to the peer's worker."""
    client = redis.Redis.from_url(here.peer_redis_url)
    peer.use(here.peer_redis_url)
    name = peer.WORDS[0]

    def is_drained() -> bool:
        return peer.left(client) == 0

    client.flushdb()
    with here.process(*peer.WORDS, *options) as worker:
        peer.enqueue(1)
        wait_until(is_drained, what=name, process=worker)
        started = time.monotonic()
        peer.enqueue(jobs)
        ended = wait_until(is_drained, what=f"{name}'s jobs", process=worker, within_s=WITHIN_S)
    client.flushdb()
    peer.enqueue(jobs)
    with here.process(*peer.WORDS, *options) as worker:
        drain_started = wait_until(
            lambda: peer.left(client) < jobs, what=name, process=worker, every_s=0.005
        )
        drain_ended = wait_until(
            is_drained, what=f"{name}'s jobs", process=worker, within_s=WITHIN_S
        )
    client.close()
    return Rates(
        per_s=round(jobs / (ended - started)),
        drain_per_s=round(jobs / (drain_ended - drain_started)),
    )
