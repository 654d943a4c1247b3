"""`bench upgrade`: a ledger of the release before, upgraded while that release works on it.

A million jobs in every state, a gateway and a worker of the old release going on (old_release.py),
the phase `pre` beside them, then this release instead of them, then the phase `post`. Every job
is looked for afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from alembic import command
from sqlalchemy import text

from lab.bench.claim import SIGN_ON
from lab.bench.cluster import cluster
from lab.bench.old_release import OldRelease
from ledger import counts, database, ids, lanes, migrate, transitions
from ledger.models.jobs import State
from ledger.shapes import Finish, Wish
from runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from lab.bench import Options
    from lab.bench.progress import Say

OLD_HEADS = ("pre_0001", "post_0001")
FLOWS_AFTER = 500  # jobs that the old release finishes before, and again after, the phase `pre`
BATCH = 256
SLICE = 50_000
WITHIN_S = 600.0

# Of twenty: fifteen succeeded, one failed, two ready, one put off for a moment, and one that waits
# for the ready one before it.
FILL = """
WITH made AS (
    INSERT INTO relais.jobs (id, kind, queue, state, payload, result, run_at, max_attempts,
                             timeout_s, created_at, finished_at, has_children)
    SELECT md5('old-' || g)::uuid, 'bench.nothing', 'bulk',
           (CASE WHEN g %% 20 < 15 THEN 'succeeded' WHEN g %% 20 = 15 THEN 'failed'
                 WHEN g %% 20 < 18 THEN 'ready' WHEN g %% 20 = 18 THEN 'blocked'
                 ELSE 'scheduled' END)::relais.job_state,
           jsonb_build_object('number', g, 'text', repeat('Dear Anna, ', 8)),
           CASE WHEN g %% 20 < 15 THEN jsonb_build_object('number', g) END,
           now() + CASE WHEN g %% 20 = 19 THEN interval '2 s' ELSE interval '0 s' END, 3, 30,
           now() - interval '1 day',
           CASE WHEN g %% 20 < 16 THEN now() - interval '1 hour' END, g %% 20 = 17
    FROM generate_series(%(first)s::int, %(last)s::int) AS g
)
INSERT INTO relais.job_parents (child_id, parent_id)
SELECT md5('old-' || g)::uuid, md5('old-' || g - 1)::uuid
FROM generate_series(%(first)s::int, %(last)s::int) AS g WHERE g %% 20 = 18
"""
LOST = """
SELECT count(*) FROM unnest(%(ids)s::uuid[]) AS wanted (id)
WHERE NOT EXISTS (SELECT FROM relais.jobs AS j WHERE j.id = wanted.id)
"""
OPEN = "SELECT count(*) FROM relais.jobs WHERE finished_at IS NULL"
MOVED = """
SELECT count(*) FROM relais.jobs AS j LEFT JOIN relais.job_bodies AS b ON b.job_id = j.id
WHERE b.payload IS NULL OR (b.result IS NULL AND j.state = 'succeeded')
   OR b.result ->> 'number' <> b.payload ->> 'number'
"""
FILLED = """
SELECT count(*) FROM relais.jobs AS j JOIN relais.job_bodies AS b ON b.job_id = j.id
WHERE j.id = md5('old-' || (b.payload ->> 'number'))::uuid
"""
COUNTED = "SELECT queue, state::text, count(*) FROM relais.jobs GROUP BY queue, state"
HISTORY = "SELECT count(*) FROM relais.job_events"


@dataclass(slots=True)
class Upgrade:
    """What one upgrade did."""

    jobs: int
    pre_s: float = 0.0
    post_s: float = 0.0
    accepted: int = 0  # by the old release, before, during and after the phase `pre`
    accepted_during: int = 0
    finished_during: int = 0
    waits: int = 0
    slowest_ms: dict[str, float] = field(default_factory=dict)  # of the old release, meanwhile
    lost: int = 0
    left_open: int = 0
    faults: list[str] = field(default_factory=list)  # sentences; none where all is well


def measure(options: Options, say: Say) -> dict[str, Any]:
    """How long it took, what the old release felt of it, and that nothing is missing."""
    with cluster(is_migrated=False) as here:
        done = asyncio.run(run(here.postgres.superuser_url, jobs=options.jobs, say=say))
    return {
        "name": "upgrade",
        "jobs": done.jobs,
        "pre_s": round(done.pre_s, 1),
        "post_s": round(done.post_s, 1),
        "lost": done.lost,
        "left_open": done.left_open,
        "faults": done.faults,
        "accepted_meanwhile": done.accepted_during,
        "finished_meanwhile": done.finished_during,
        "waits_meanwhile": done.waits,
        "slowest_ms_meanwhile": {k: round(v, 1) for k, v in done.slowest_ms.items()},
    }


async def run(url: str, *, jobs: int, say: Say = lambda _: None) -> Upgrade:
    """Upgrade the empty database at `url`, which gets `jobs` jobs of the old release first."""
    done = Upgrade(jobs)
    say("making a ledger of the release before")
    migrate_to_old(url)
    await asyncio.to_thread(_fill, url, jobs, say)
    settings = Settings.model_validate({"database_url": url, "redis_url": "redis://127.0.0.1:1/0"})
    engine = database.engine(settings)
    old = OldRelease(engine)
    old.start()
    await _until(lambda: len(old.finished) >= FLOWS_AFTER)
    old.forget_times()
    accepted, finished, waits = len(old.accepted), len(old.finished), old.waits
    began = time.monotonic()
    migrating = asyncio.create_task(asyncio.to_thread(migrate.migrate, url, "pre"))
    while not migrating.done():
        say(f"phase pre, beside the release before: it has done {len(old.finished):,} jobs")
        await asyncio.wait({migrating}, timeout=1.0)
    await migrating
    done.pre_s = time.monotonic() - began
    done.accepted_during = len(old.accepted) - accepted
    done.finished_during = len(old.finished) - finished
    done.waits = old.waits - waits
    done.slowest_ms = {name: 1000 * seconds for name, seconds in old.slowest_s.items()}
    say("the release before goes on with the new schema")
    finished = len(old.finished)
    await _until(lambda: len(old.finished) >= finished + FLOWS_AFTER)
    await old.stop()
    done.accepted = len(old.accepted)
    done.faults += old.wrong
    done.faults += await _drain(engine, old, say)
    began = time.monotonic()
    say("phase post")
    await asyncio.to_thread(migrate.migrate, url, "post")
    done.post_s = time.monotonic() - began
    say("looking for every job")
    done.faults += await _compare_counts(engine, url)
    await engine.dispose()
    await asyncio.to_thread(_look_for_all, url, old, done)
    return done


def migrate_to_old(url: str) -> None:
    """The schema of the release before in an empty database."""
    with migrate.engine(url).connect() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS relais"))
        connection.commit()
        for head in OLD_HEADS:
            command.upgrade(migrate.configuration(connection), head)
            connection.commit()


def id_of(number: int) -> UUID:
    """The id of the filled job with `number`."""
    return UUID(hashlib.md5(f"old-{number}".encode(), usedforsecurity=False).hexdigest())


def _fill(url: str, jobs: int, say: Say) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for first in range(1, jobs + 1, SLICE):
            say(f"filling it: {first - 1:,} of {jobs:,} jobs")
            last = min(jobs, first + SLICE - 1)
            connection.execute(FILL, {"first": first, "last": last})
        connection.execute("VACUUM ANALYZE")


async def _drain(engine: AsyncEngine, old: OldRelease, say: Say) -> list[str]:
    """This release does the rest; what was wrong with what it was given."""
    owner = ids.new()
    faults: list[str] = []
    async with engine.begin() as connection:
        await connection.execute(SIGN_ON, {"id": owner})
    deadline = time.monotonic() + WITHIN_S
    finished = 0
    while time.monotonic() < deadline:
        async with engine.begin() as connection:
            await transitions.promote(connection, queue="bulk", limit=BATCH)
            jobs = await _claim(connection, owner)
        if not jobs:
            async with engine.begin() as connection:
                await transitions.settle_blocked(connection, after=UUID(int=0), limit=1_000_000)
                if (await connection.execute(text(OPEN))).scalar_one() == 0:
                    break
            await asyncio.sleep(0.1)
            continue
        for job in jobs:
            number = job.payload.get("number")
            if (
                number is None
                or old.accepted.get(job.id, number) != number
                or (job.id not in old.accepted and job.id != id_of(number))
            ):
                faults.append(f"{job.id} came with {job.payload}")
        async with engine.begin() as connection:
            outcomes = [
                Finish(
                    job.id, job.attempt, State.SUCCEEDED, result={"number": job.payload["number"]}
                )
                for job in jobs
            ]
            written = (await transitions.finish(connection, outcomes)).written
        faults += [
            f"{job.id} was fenced"
            for job, is_ours in zip(jobs, written, strict=True)
            if not is_ours
        ]
        finished += len(jobs)
        say(f"this release does the rest: {finished:,}")
    return faults


def _succeeded(job: transitions.ClaimedJob) -> Finish:
    return Finish(
        job.id, job.attempt, State.SUCCEEDED, result={"number": job.payload.get("number")}
    )


async def _claim(connection: AsyncConnection, owner: UUID) -> list[transitions.ClaimedJob]:
    heads = await lanes.look(connection, queue="bulk", kinds=None)
    return await transitions.claim(
        connection,
        queue="bulk",
        wishes=[Wish(h.lane, h.kind, h.priority, quota=BATCH) for h in heads],
        owner=owner,
        worker="new",
        colour="green",
        version="new",
        lease_s=3600,
        limit=BATCH,
    )


async def _compare_counts(engine: AsyncEngine, url: str) -> list[str]:
    async with engine.begin() as connection:
        known = await counts.read(connection)
    with psycopg.connect(url) as plain:
        counted = {(q, State(s)): n for q, s, n in plain.execute(COUNTED)}
    return [] if known == counted else [f"the counts say {known}, the rows {counted}"]


def _look_for_all(url: str, old: OldRelease, done: Upgrade) -> None:
    with psycopg.connect(url) as connection:

        def one(query: str, **values: Any) -> int:  # noqa: ANN401
            row = connection.execute(query, values or None).fetchone()
            return int(row[0]) if row else 0

        done.lost = one(LOST, ids=list(old.accepted)) + done.jobs - one(FILLED)
        done.left_open = one(OPEN)
        misplaced = one(MOVED)
        if misplaced:
            done.faults.append(f"{misplaced} jobs without their payload or result")
        if one(HISTORY) < done.jobs + done.accepted:
            done.faults.append("history is missing")


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "the release before stands still"  # noqa: S101
        await asyncio.sleep(0.05)
