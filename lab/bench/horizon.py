"""`bench horizon`: whether somebody's long transaction slows the queue down.

While a transaction is open, Postgres keeps every row version that it might still see; a queue
that reads past its own dead rows gets slower with each job. Jobs come at a fixed rate, one or
several to a POST, a worker runs them, and another connection holds a snapshot open all the time;
the peer is the same without it. The duration of a claim is the worker's own (lab/bench/tap.py).
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from lab.bench import tap
from lab.bench.client import Pace, post_at_rate
from lab.bench.cluster import Cluster, cluster, wait_until
from lab.bench.figures import line, percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.bench import Options
    from lab.bench.progress import Say
    from lab.bench.tap import Claim

CONNECTIONS = 64
MINUTE_S = 60.0
STRETCH_S = 10.0  # of one bar in the plot
WARM_UP = 2_000
BODY = json.dumps({"kind": "bench.nothing", "payload": {}}).encode()

OPEN = "SELECT count(*) FROM relais.jobs WHERE finished_at IS NULL"
DEAD = "SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables WHERE relname = 'jobs'"
WAITS = """
SELECT coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY wait_s), 0)::float8,
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY wait_s), 0)::float8
FROM (SELECT extract(epoch FROM started_at - created_at) AS wait_s FROM relais.jobs
      WHERE started_at IS NOT NULL
        AND created_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)) AS waited
"""


@dataclass(slots=True)
class Half:
    """One run, with or without the snapshot."""

    claims: list[Claim]  # those within the time that counts
    posted: int
    refused: int
    seconds: float
    backlog: int
    dead_rows: int
    waits_ms: dict[str, float]
    began: float  # wall clock

    @property
    def minute_s(self) -> float:
        """What the first and the last minute are; half of it where a run is short."""
        return min(MINUTE_S, self.seconds / 2)

    def claim_ms(self, share: float, *, since_s: float, until_s: float) -> float:
        """A percentile of the claims that ended so long after the beginning."""
        took = [c.seconds for c in self.claims if since_s <= c.at - self.began < until_s]
        return round(1000 * percentile(took, share), 2)

    def figures(self) -> dict[str, Any]:
        """For programs and people."""
        last_s = self.seconds - self.minute_s
        stretches = range(int(self.seconds / STRETCH_S))
        p99s = [
            self.claim_ms(0.99, since_s=n * STRETCH_S, until_s=(n + 1) * STRETCH_S)
            for n in stretches
        ]
        return {
            "claim_p50_ms_start": self.claim_ms(0.50, since_s=0, until_s=self.minute_s),
            "claim_p50_ms_end": self.claim_ms(0.50, since_s=last_s, until_s=self.seconds),
            "claim_p99_ms_start": self.claim_ms(0.99, since_s=0, until_s=self.minute_s),
            "claim_p99_ms_end": self.claim_ms(0.99, since_s=last_s, until_s=self.seconds),
            "backlog_end": self.backlog,
            **self.waits_ms,
            "claims": len(self.claims),
            "posted_per_s": round(self.posted / self.seconds),
            "refused": self.refused,
            "dead_rows_end": self.dead_rows,
            "claim_p99_ms_by_10_s": p99s,
            "plot": line(p99s),
        }


def measure(options: Options, say: Say) -> dict[str, Any]:
    """Claims at the start and at the end, and what is left over, with and without a snapshot."""
    with_it = _half(options, is_held=True, say=say)
    without = _half(options, is_held=False, say=say)
    names = ("claim_p99_ms_start", "claim_p99_ms_end", "backlog_end")
    return {
        "name": "horizon",
        **{name: with_it[name] for name in names},
        "minutes": options.minutes,
        "rate_per_s": options.rate,
        "jobs_per_post": options.batch,
        "with_snapshot": with_it,
        "without_snapshot": without,
    }


def _half(options: Options, *, is_held: bool, say: Say) -> dict[str, Any]:
    words = "under a held snapshot" if is_held else "without a held snapshot"
    say(f"starting services, {words}")
    with cluster() as here:
        key = here.make_key()
        file = here.folder / "claims"
        worker = here.process(
            "workers",
            "bulk",
            kinds="lab.bench.kinds,lab.bench.tap",
            bench_claims=file,
        )
        with here.gateway(), worker as process:
            _post(here, key, Pace(rate=options.rate, seconds=WARM_UP / options.rate))
            with psycopg.connect(here.postgres.superuser_url, autocommit=True) as connection:
                wait_until(lambda: _one(connection, OPEN) == 0, what="the warm-up", process=process)
                with _held_snapshot(here) if is_held else nullcontext():
                    half = _run(here, key, options, connection=connection, say=say, words=words)
                    half.claims = [c for c in tap.read(file) if c.at >= half.began]
    return half.figures()


def _run(
    here: Cluster,
    key: str,
    options: Options,
    *,
    connection: psycopg.Connection[Any],
    say: Say,
    words: str,
) -> Half:
    began, started = time.time(), time.monotonic()
    pace = Pace(rate=options.rate, seconds=60 * options.minutes, batch=options.batch)

    def tell(posted: int) -> None:
        passed_s = time.monotonic() - started
        say(f"{posted:,} jobs posted {words}, {passed_s:.0f} of {pace.seconds:.0f} s")

    posted, refused = _post(here, key, pace, tell=tell)
    backlog = _one(connection, OPEN)
    seconds = time.monotonic() - started
    minute_s = min(MINUTE_S, seconds / 2)
    start = connection.execute(WAITS, (began, began + minute_s)).fetchone()
    end = connection.execute(WAITS, (began + seconds - minute_s, began + seconds)).fetchone()
    waits = {
        f"wait_{name}_ms_{when}": round(1000 * row[place], 1)
        for when, row in (("start", start), ("end", end))
        if row is not None
        for place, name in enumerate(("p50", "p99"))
    }
    dead = _one(connection, DEAD)
    return Half(
        claims=[],
        posted=posted,
        refused=refused,
        seconds=seconds,
        backlog=backlog,
        dead_rows=dead,
        waits_ms=waits,
        began=began,
    )


def _post(
    here: Cluster, key: str, pace: Pace, tell: Callable[[int], None] | None = None
) -> tuple[int, int]:
    return asyncio.run(
        post_at_rate(
            port=here.gateway_port,
            key=key,
            body=BODY,
            pace=pace,
            connections=CONNECTIONS,
            tell=tell,
        )
    )


@contextmanager
def _held_snapshot(here: Cluster) -> Iterator[None]:
    """A transaction that has looked once and stays open."""
    with psycopg.connect(here.postgres.superuser_url, autocommit=True) as connection:
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT 1")
        yield
        connection.execute("ROLLBACK")


def _one(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
