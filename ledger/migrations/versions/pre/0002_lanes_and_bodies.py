"""Lanes, bodies apart, history by day, counts; beside running code of the release before.

Revision ID: pre_0002

Every step may run again: a migration that is interrupted goes on where it stopped. Nothing holds
a lock for longer than a moment; what has to look at every row goes in slices.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import op

from ledger.migrations.steps import briefly, build_indexes, in_slices

if TYPE_CHECKING:
    from psycopg import Connection

revision = "pre_0002"
down_revision = "pre_0001"
branch_labels = None
depends_on = None

SLICE = 5_000
DAYS_AHEAD = 8

# Bodies of jobs up to :after ... by id; those of new jobs are written by a trigger meanwhile.
MOVE_BODIES = """
WITH slice AS (
    SELECT id, payload, result FROM relais.jobs WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
), moved AS (
    INSERT INTO relais.job_bodies (job_id, payload, result)
    SELECT id, payload, result FROM slice WHERE payload IS NOT NULL
    ON CONFLICT (job_id) DO UPDATE SET result = coalesce(job_bodies.result, excluded.result)
)
SELECT id FROM slice ORDER BY id DESC LIMIT 1
"""
# Results of jobs that ended while the slice with their body was being written: their trigger found
# no body yet. By now every body is there. No transaction of ours lives for longer than two minutes.
BEGAN = "SELECT clock_timestamp() - interval '2 minutes'"
KEEP_RESULTS = """
UPDATE relais.job_bodies AS b SET result = j.result FROM relais.jobs AS j
WHERE j.finished_at >= %s AND j.result IS NOT NULL AND b.job_id = j.id AND b.result IS NULL
"""
LOCK_READY = """
SELECT id FROM relais.jobs WHERE state = 'ready' AND ready_at IS NULL AND id > %(after)s
ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE
"""
MAKE_READY = """
WITH slice AS (
    SELECT id FROM relais.jobs WHERE state = 'ready' AND ready_at IS NULL AND id > %(after)s
    ORDER BY id LIMIT %(limit)s
), moved AS (
    UPDATE relais.jobs SET ready_at = run_at
    WHERE id = ANY(ARRAY(SELECT id FROM slice)) AND state = 'ready'
)
SELECT id FROM slice ORDER BY id DESC LIMIT 1
"""
LOCK_CHILDREN = """
SELECT id FROM relais.jobs WHERE id = ANY(ARRAY(
    SELECT DISTINCT child_id FROM relais.job_parents WHERE child_id > %(after)s
    ORDER BY child_id LIMIT %(limit)s
)) ORDER BY id FOR NO KEY UPDATE
"""
OPEN_LINKS = """
WITH slice AS (
    SELECT DISTINCT child_id FROM relais.job_parents WHERE child_id > %(after)s
    ORDER BY child_id LIMIT %(limit)s
), opened AS (
    UPDATE relais.job_parents AS link
    SET is_open = EXISTS (SELECT FROM relais.jobs AS parent WHERE parent.id = link.parent_id
                          AND (parent.finished_at IS NULL OR parent.state = 'unknown'))
    FROM slice WHERE link.child_id = slice.child_id AND link.is_open IS NULL
    RETURNING link.child_id, link.is_open
), counted AS (
    UPDATE relais.jobs AS j SET waits_for = j.waits_for + open.parents
    FROM (SELECT child_id, count(*) AS parents FROM opened WHERE is_open GROUP BY child_id) AS open
    WHERE j.id = open.child_id
)
SELECT child_id AS id FROM slice ORDER BY child_id DESC LIMIT 1
"""
KNOW_LANES = """
INSERT INTO relais.lanes (queue, lane, kind, priority)
SELECT DISTINCT queue, lane, kind, priority FROM relais.jobs WHERE state IN ('ready', 'scheduled')
ON CONFLICT DO NOTHING
"""
# One statement sees rows and deltas at one moment, so that both agree whoever writes meanwhile.
COUNT = """
INSERT INTO relais.job_counts (tenant, queue, state, jobs)
SELECT tenant, queue, state, sum(jobs) FROM (
    SELECT tenant, queue, state, count(*) AS jobs FROM relais.jobs GROUP BY tenant, queue, state
    UNION ALL
    SELECT tenant, queue, state, -sum(jobs) FROM relais.job_count_deltas
    GROUP BY tenant, queue, state
) AS moment GROUP BY tenant, queue, state
ON CONFLICT (tenant, queue, state) DO NOTHING
"""


def upgrade() -> None:
    """Columns, triggers, indexes, then what every row needs, then the partitions."""
    with op.get_context().autocommit_block():
        driver: Any = op.get_bind().connection.driver_connection
        is_by_day = _is_by_day(driver)
        briefly(driver, _sql("columns"))
        if not is_by_day:
            briefly(
                driver,
                "ALTER TABLE relais.job_events"
                " ADD COLUMN IF NOT EXISTS repeats INTEGER DEFAULT 1 NOT NULL,"
                " ADD COLUMN IF NOT EXISTS last_at TIMESTAMP WITH TIME ZONE",
            )
        briefly(driver, _sql("triggers"))
        driver.execute(COUNT)
        build_indexes(driver, _sql("indexes"))
        began = driver.execute(BEGAN).fetchone()
        in_slices(driver, "bodies", MOVE_BODIES, limit=SLICE)
        driver.execute(KEEP_RESULTS, began)
        in_slices(driver, "ready jobs", MAKE_READY, limit=SLICE, lock=LOCK_READY)
        in_slices(driver, "dependencies", OPEN_LINKS, limit=SLICE, lock=LOCK_CHILDREN)
        driver.execute(KNOW_LANES)
        if not is_by_day:
            _partition_events(driver)
        briefly(
            driver,
            "ALTER TABLE relais.jobs DROP CONSTRAINT IF EXISTS ck_jobs_ready_at;"
            "ALTER TABLE relais.jobs ADD CONSTRAINT ck_jobs_ready_at"
            " CHECK ((state = 'ready') = (ready_at IS NOT NULL)) NOT VALID",
        )
        driver.execute("ALTER TABLE relais.jobs VALIDATE CONSTRAINT ck_jobs_ready_at")


def _partition_events(driver: Connection[Any]) -> None:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if driver.execute("SELECT FROM relais.job_events LIMIT 1").fetchone() is None:
        until = midnight - timedelta(
            days=1
        )  # whatever clocks say: days of their own from the start
        _take_in(driver, until)
        return
    until = midnight + timedelta(days=1)
    if until - datetime.now(UTC) < timedelta(minutes=10):
        until += timedelta(days=1)
    # Proven first, so that taking the table in has nothing to read.
    briefly(
        driver,
        "ALTER TABLE relais.job_events DROP CONSTRAINT IF EXISTS ck_job_events_before;"
        "ALTER TABLE relais.job_events ADD CONSTRAINT ck_job_events_before"
        f" CHECK (at < '{until.isoformat()}') NOT VALID",
    )
    driver.execute("ALTER TABLE relais.job_events VALIDATE CONSTRAINT ck_job_events_before")
    _take_in(driver, until)


def _take_in(driver: Connection[Any], until: datetime) -> None:
    before = f"FOR VALUES FROM (MINVALUE) TO ('{until.isoformat()}')"
    days = [
        f"CREATE TABLE relais.job_events_{day:%Y%m%d} PARTITION OF relais.job_events"
        f" FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + timedelta(days=1)).isoformat()}')"
        for day in (until + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 2))
    ]
    briefly(
        driver,
        ";".join(
            [
                _sql("events"),
                f"ALTER TABLE relais.job_events ATTACH PARTITION relais.job_events_before {before}",
                "CREATE TABLE relais.job_events_default PARTITION OF relais.job_events DEFAULT",
                *days,
                "ALTER TABLE relais.job_events_before DROP CONSTRAINT IF EXISTS ck_job_events_before",
            ]
        ),
    )


def _is_by_day(driver: Connection[Any]) -> bool:
    kind = driver.execute("SELECT relkind FROM pg_class WHERE oid = 'relais.job_events'::regclass")
    row = kind.fetchone()
    return row is not None and row[0] in {"p", b"p"}


def _sql(part: str) -> str:
    return Path(__file__).with_name(f"0002_{part}.sql").read_text(encoding="utf-8")
