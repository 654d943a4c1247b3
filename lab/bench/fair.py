"""`bench fair`: how long a tenant waits behind another one's flood.

1,000 no-ops of tenant B, from B's first POST to the end of its last job: alone, and behind
1,000,000 ready jobs of tenant A. Then behind a hundred tenants who flood together, where B's
fair share is one of 101. The peer is B without neighbours.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import psycopg

from lab.bench.client import post_many
from lab.bench.cluster import Cluster, cluster, wait_until
from lab.bench.figures import median
from ledger import database, ids, transitions
from ledger.shapes import NewJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.bench import Options
    from lab.bench.progress import Say

JOBS = 1_000
ROUNDS = 5  # of each; the median counts
CONNECTIONS = 16
SLICE = 2_000
WRITERS = 2
TENANTS = 100
OF_EACH = 2_000
WITHIN_S = 900.0
BODY = json.dumps({"kind": "bench.nothing", "payload": {}}).encode()

FINISHED = """
SELECT count(*), extract(epoch FROM max(finished_at))::float8 FROM relais.jobs
WHERE tenant = 'b' AND id > %s AND finished_at IS NOT NULL
"""
OTHERS = """
SELECT count(*) FROM relais.jobs
WHERE tenant <> 'b' AND finished_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)
"""
FLOODED = "SELECT FROM relais.jobs WHERE tenant <> 'b' AND state = 'ready' LIMIT 1"
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


def measure(options: Options, say: Say) -> dict[str, Any]:
    """Seconds alone, seconds behind the flood, and how many times as long that is."""
    with cluster() as here:
        key = here.make_key(tenant="b")
        with here.gateway(), here.process("workers", "bulk"):
            say(f"{JOBS:,} jobs of B alone, {ROUNDS} times")
            _post(here, key)  # everything is warm after this
            alone = [_post(here, key).took_s for _ in range(ROUNDS)]
        floods = ["a"] * options.flood
        behind = _behind(here, key, floods, say=say, words=f"{options.flood:,} of A")
        here.empty_ledger()
        crowd = [f"t{n % TENANTS}" for n in range(TENANTS * OF_EACH)]
        words = f"{OF_EACH:,} of each of {TENANTS} tenants"
        crowded = _behind(here, key, crowd, say=say, words=words, rounds=1)
    return {
        "name": "fair",
        "alone_s": round(median(alone), 3),
        "behind_s": round(median([run.took_s for run in behind]), 3),
        "ratio": round(median([run.took_s for run in behind]) / median(alone), 2),
        "jobs": JOBS,
        "flood": options.flood,
        "rounds": {
            "alone_s": [round(seconds, 3) for seconds in alone],
            "behind_s": [round(run.took_s, 3) for run in behind],
        },
        "behind_many": {
            "tenants": TENANTS,
            "behind_s": round(crowded[0].took_s, 3),
            # 1.0: while B got its jobs done, each of the others got as many.
            "others_share": round(crowded[0].others / TENANTS / JOBS, 2),
        },
    }


class Run:
    """One time that B handed its jobs over."""

    def __init__(self, *, took_s: float, others: int) -> None:
        self.took_s = took_s
        self.others = others  # jobs of others that ended meanwhile


def _behind(
    here: Cluster, key: str, tenants: Sequence[str], *, say: Say, words: str, rounds: int = ROUNDS
) -> list[Run]:
    """B's jobs behind a job of each of `tenants`, all ready before B posts."""
    asyncio.run(_fill(here, tenants, say=say, words=words))
    with here.gateway(), here.process("workers", "bulk") as worker:
        with psycopg.connect(here.postgres.superuser_url, autocommit=True) as connection:
            began = _now(connection)

            def has_begun() -> bool:
                values = (began, began + WITHIN_S)
                return _one(connection, OTHERS, values) > SLICE

            wait_until(has_begun, what="the flood", process=worker, within_s=WITHIN_S, every_s=0.1)
        found: list[Run] = []
        # Where B's jobs had to wait until the flood was over, there is nothing left to be behind.
        while len(found) < rounds and (not found or _is_flooded(here)):
            say(f"{JOBS:,} jobs of B behind {words}, {len(found) + 1} of {rounds}")
            found.append(_post(here, key))
    return found


def _is_flooded(here: Cluster) -> bool:
    with psycopg.connect(here.postgres.superuser_url, autocommit=True) as connection:
        return connection.execute(FLOODED).fetchone() is not None


def _post(here: Cluster, key: str) -> Run:
    first = ids.new()
    with psycopg.connect(here.postgres.superuser_url, autocommit=True) as connection:
        began = _now(connection)
        load = asyncio.run(
            post_many(
                port=here.gateway_port,
                key=key,
                body=BODY,
                requests=JOBS,
                connections=CONNECTIONS,
            )
        )
        assert load.refused == 0  # noqa: S101 - else no figure
        deadline = time.monotonic() + WITHIN_S
        while True:
            row = connection.execute(FINISHED, (first,)).fetchone()
            if row is not None and row[0] == JOBS:
                break
            assert time.monotonic() < deadline, "B's jobs are not done"  # noqa: S101
            time.sleep(0.05)
        ended = float(row[1])
        return Run(took_s=ended - began, others=_one(connection, OTHERS, (began, ended)))


async def _fill(here: Cluster, tenants: Sequence[str], *, say: Say, words: str) -> None:
    """A ready job for each of `tenants`, past the gateway but through the same transition."""
    engine = database.engine(here.settings)
    slices = iter([tenants[at : at + SLICE] for at in range(0, len(tenants), SLICE)])
    written = 0

    async def write(slices: Iterator[Sequence[str]]) -> None:
        nonlocal written
        for of_slice in slices:
            async with engine.begin() as connection:
                await transitions.accept(connection, [_job(tenant) for tenant in of_slice])
            written += len(of_slice)
            say(f"filling the queue with {words}: {written:,}")

    await asyncio.gather(*(write(slices) for _ in range(WRITERS)))
    await engine.dispose()
    with psycopg.connect(here.postgres.superuser_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _job(tenant: str) -> NewJob:
    return NewJob(
        id=ids.new(),
        tenant=tenant,
        kind="bench.nothing",
        queue="bulk",
        payload={},
        max_attempts=3,
        timeout_s=30.0,
    )


def _now(connection: psycopg.Connection[Any]) -> float:
    row = connection.execute(NOW).fetchone()
    return float(row[0]) if row else 0.0


def _one(connection: psycopg.Connection[Any], query: str, values: tuple[float, float]) -> int:
    row = connection.execute(query, values).fetchone()
    return int(row[0]) if row else 0
