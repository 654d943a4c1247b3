"""A ledger as it is after a year: large, and of many tenants, lanes and kinds.

Written past the triggers and without indexes, which are built afterwards: what takes a minute so
would take many. One database for the whole run; whoever needs it first writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql as composed

from tests import services

NAME = "relais_filled"
LOCK_KEY = 0x46494C4C

FINISHED = 1_000_000
READY = 100_000
SCHEDULED = 500_000
RUNNING = 8_000
BLOCKED = 20_000
EVENTS = 3_000_000
MESSAGES = 1_000_000
DELTAS = 2_000
SCHEDULES = 5_000

INDEXES = """
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'relais' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
  AND c.relname IN ('jobs', 'job_events', 'messages', 'job_parents')
"""
# Ids are in order of time, as UUIDv7 are: `ms` since the epoch, then a number.
ID = "(lpad(to_hex({ms}), 12, '0') || '7' || lpad(to_hex({number}), 19, '0'))::uuid"
TENANT = "CASE WHEN g % 3 = 0 THEN 'big' ELSE 't' || g % 37 END"
LANE = (
    f"({TENANT}) || CASE g % 8 WHEN 1 THEN '/relay:main' WHEN 2 THEN '/host:h' || g % 3 ELSE '' END"
)
JOBS = f"""
INSERT INTO relais.jobs (
    id, tenant, lane, kind, queue, state, priority, payload_bytes, run_at, ready_at, attempt,
    max_attempts, timeout_s, owner, lease_until, worker, colour, version, created_at, started_at,
    finished_at, waits_for, workflow_id, tags, idempotency_key, request_hash, callback_url, trace_id
)
SELECT {{id}}, {TENANT}, {LANE},
    CASE g % 4 WHEN 0 THEN 'email.send' WHEN 1 THEN 'http.callback' ELSE 'bench.nothing' END,
    CASE WHEN g % 10 = 0 THEN 'critical' ELSE 'bulk' END,
    {{state}}::relais.job_state, CASE g % 16 WHEN 0 THEN 9 WHEN 1 THEN 1 ELSE 5 END, 80,
    {{run_at}}, {{ready_at}}, {{attempt}}, 3, 30, {{owner}},
    CASE WHEN {{owner}} IS NULL THEN NULL ELSE now() + interval '60 s' END,
    'w@host', 'blue', '0.1', to_timestamp({{ms}} / 1000.0), {{started_at}}, {{finished_at}},
    {{waits_for}}, CASE WHEN g % 20 = 0 THEN 'flow-' || g % 997 END,
    CASE WHEN g % 10 = 0 THEN ARRAY['t' || g % 37 || '-' || g % 13] ELSE '{{{{}}}}' END,
    CASE WHEN g % 2 = 0 THEN 'key-' || {{offset}} + g END,
    CASE WHEN g % 2 = 0 THEN '\\x00'::bytea END,
    CASE WHEN g % 50 = 0 THEN 'https://example.org/' END, md5(g::text)
FROM generate_series(1::bigint, {{count}}) AS g
"""
NOW_MS = "(extract(epoch FROM now()) * 1000)::bigint"


@dataclass(frozen=True, slots=True)
class Filled:
    """The database, and ids to ask for."""

    url: str
    owner: UUID
    running: tuple[tuple[UUID, int], ...]
    finished: tuple[UUID, ...]
    failed: tuple[UUID, ...]
    waiting: tuple[UUID, ...]
    parents: tuple[UUID, ...]
    children: tuple[UUID, ...]
    messages: tuple[tuple[UUID, UUID], ...]  # (message, job)
    groups: tuple[tuple[str, str, int], ...]  # (lane, kind, priority) with ready jobs


def filled() -> Filled:
    """The filled ledger of this run."""
    server = services.postgres_url()
    url = f"{server.rsplit('/', 1)[0]}/{NAME}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        is_there = connection.execute("SELECT FROM pg_database WHERE datname = %s", (NAME,))
        if is_there.fetchone() is None:
            draft = f"{NAME}_draft"
            connection.execute(f"DROP DATABASE IF EXISTS {draft} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {draft} TEMPLATE {services.TEMPLATE}")
            with psycopg.connect(f"{server.rsplit('/', 1)[0]}/{draft}", autocommit=True) as filling:
                fill(filling)
            connection.execute(f"ALTER DATABASE {draft} RENAME TO {NAME}")
    with psycopg.connect(url) as connection:
        return _samples(connection, url)


def fill(connection: psycopg.Connection[Any]) -> None:
    """Write everything, then build the indexes and gather statistics."""
    run = connection.execute
    for setting in (
        "session_replication_role = replica",
        "synchronous_commit = off",
        "maintenance_work_mem = '512MB'",
        "work_mem = '64MB'",
    ):
        run(f"SET {setting}")
    indexes = run(INDEXES).fetchall()
    for name, _ in indexes:
        run(f"DROP INDEX {name}")
    _jobs(connection)
    run(
        "INSERT INTO relais.job_bodies (job_id, payload)"
        """ SELECT id, '{"to": ["anna@example.org"], "text": "Dear Anna"}' FROM relais.jobs"""
    )
    _around_jobs(connection)
    for _, definition in indexes:
        run(definition.replace(" ON ONLY ", " ON "))  # of every partition too
    run("VACUUM (ANALYZE) relais.jobs, relais.job_events, relais.messages, relais.job_bodies")
    run("ANALYZE")


def _jobs(connection: psycopg.Connection[Any]) -> None:
    blank = {
        "run_at": "to_timestamp({ms} / 1000.0)",
        "ready_at": "NULL::timestamptz",
        "attempt": "1",
        "owner": "NULL::uuid",
        "started_at": "NULL::timestamptz",
        "finished_at": "NULL::timestamptz",
        "waits_for": "0",
        "offset": "0",
    }
    finished_state = (
        "CASE WHEN g % 100 < 5 THEN 'failed' WHEN g % 100 < 8 THEN 'cancelled'"
        " WHEN g % 1000 = 99 THEN 'unknown' ELSE 'succeeded' END"
    )
    past_ms = f"({NOW_MS} - 30 * 86400000::bigint + g * (29 * 86400000::bigint / {{count}}))"
    recent_ms = f"({NOW_MS} - 3600000 + g * 3600000 / {{count}})"
    parts: list[tuple[int, str, dict[str, str]]] = [
        (
            FINISHED,
            past_ms,
            {
                "state": finished_state,
                "started_at": "to_timestamp({ms} / 1000.0) + interval '1 s'",
                "finished_at": "to_timestamp({ms} / 1000.0) + interval '2 s'",
            },
        ),
        (
            READY,
            recent_ms,
            {"state": "'ready'", "ready_at": "to_timestamp({ms} / 1000.0)", "attempt": "0"},
        ),
        (
            SCHEDULED,
            recent_ms,
            {
                "state": "'scheduled'",
                "run_at": "now() + interval '1 day' * random() + interval '1 hour'",
                "attempt": "0",
            },
        ),
        (
            RUNNING,
            recent_ms,
            {
                "state": "'running'",
                "owner": "(lpad(to_hex(g % 20), 32, 'a'))::uuid",
                "started_at": "now()",
            },
        ),
        (BLOCKED, recent_ms, {"state": "'blocked'", "waits_for": "1", "attempt": "0"}),
    ]
    offset = 0
    for count, ms, fields in parts:
        at = ms.format(count=count)
        values = {**blank, **fields, "offset": str(offset)}
        values["id"] = ID.format(ms=at, number=f"{offset} + g")
        values = {name: value.replace("{ms}", at) for name, value in values.items()}
        connection.execute(JOBS.format(ms=at, count=count, **values))
        offset += count


def _around_jobs(connection: psycopg.Connection[Any]) -> None:
    run = connection.execute
    run(
        "INSERT INTO relais.job_parents (child_id, parent_id, is_open)"
        " SELECT c.id, p.id, true FROM"
        " (SELECT id, row_number() OVER (ORDER BY id) AS n FROM relais.jobs"
        "  WHERE state = 'blocked') AS c"
        " JOIN (SELECT id, row_number() OVER (ORDER BY id) AS n FROM relais.jobs"
        "  WHERE state = 'ready') AS p ON p.n = c.n"
    )
    # Yesterday, today and tomorrow: each a partition.
    run(
        "INSERT INTO relais.job_events (job_id, tenant, from_state, to_state, attempt, at)"
        " SELECT j.id, j.tenant, NULL, 'ready', 0, now() + (e - 1) * interval '1 day'"
        " FROM (SELECT id, tenant, row_number() OVER () AS n FROM relais.jobs) AS j"
        " CROSS JOIN generate_series(0, 2) AS e WHERE j.n <= %s",
        (EVENTS // 3,),
    )
    run(
        "INSERT INTO relais.messages (id, tenant, job_id, position, recipient, role, message_id,"
        " relay, state, attempt, sent_at, created_at, changed_at)"
        " SELECT j.id, j.tenant, j.id, 0, 'u' || j.n || '@example.org', 'to',"
        " '<' || j.n || '@example.org>', 'main',"
        " (CASE WHEN j.state = 'running' THEN 'sending' WHEN j.n %% 20 = 0 THEN 'failed'"
        "  ELSE 'sent' END)::relais.message_state, 1,"
        " CASE WHEN j.state <> 'running' AND j.n %% 20 <> 0 THEN j.finished_at END, j.created_at,"
        " j.created_at"
        " FROM (SELECT *, row_number() OVER (ORDER BY (state = 'running') DESC, id) AS n"
        "       FROM relais.jobs WHERE state IN ('running', 'succeeded', 'failed')) AS j"
        " WHERE j.n <= %s AND (j.state <> 'succeeded' OR j.finished_at IS NOT NULL)",
        (MESSAGES,),
    )
    run(
        "INSERT INTO relais.lanes (queue, lane, kind, priority)"
        " SELECT DISTINCT queue, lane, kind, priority FROM relais.jobs"
        " WHERE state IN ('ready', 'scheduled')"
    )
    run(
        "INSERT INTO relais.templates (tenant, name, latest, created_by)"
        " VALUES ('default', 'filled', 0, 'somebody')"
    )
    run(
        "INSERT INTO relais.job_counts (tenant, queue, state, jobs)"
        " SELECT tenant, queue, state, count(*) FROM relais.jobs GROUP BY 1, 2, 3"
    )
    run(
        "INSERT INTO relais.job_count_deltas (tenant, queue, state, jobs)"
        " SELECT 't' || g %% 40, 'bulk', 'ready', 1 FROM generate_series(1, %s) AS g",
        (DELTAS,),
    )
    run(
        "INSERT INTO relais.workers (id, name, queue, colour, version, host, pid, lock_key, kinds,"
        " lease_until) SELECT (lpad(to_hex(g), 32, 'a'))::uuid, 'w' || g, 'bulk', 'blue', '0.1',"
        " 'host', g, g, ARRAY['email.send', 'http.callback', 'bench.nothing'],"
        " now() + interval '1 hour' FROM generate_series(0, 19) AS g"
    )
    run(
        "INSERT INTO relais.schedules (id, tenant, name, cron, timezone, job, fired_until)"
        " SELECT gen_random_uuid(), 't' || g %% 40, 's' || g, '* * * * *', 'UTC', '{}', now()"
        " FROM generate_series(1, %s) AS g",
        (SCHEDULES,),
    )


def _samples(connection: psycopg.Connection[Any], url: str) -> Filled:
    def ids(where: str, count: int) -> tuple[UUID, ...]:
        query = composed.SQL("SELECT id FROM relais.jobs WHERE {} LIMIT {}")
        rows = connection.execute(query.format(composed.SQL(where), count))
        return tuple(row[0] for row in rows)

    def rows(query: str) -> tuple[tuple[Any, ...], ...]:
        return tuple(connection.execute(query).fetchall())

    running = rows(
        "SELECT id, attempt, owner FROM relais.jobs WHERE state = 'running' AND owner ="
        " (SELECT owner FROM relais.jobs WHERE state = 'running' LIMIT 1) LIMIT 256"
    )
    links = rows("SELECT parent_id, child_id FROM relais.job_parents WHERE is_open LIMIT 50")
    return Filled(
        url=url,
        owner=running[0][2],
        running=tuple((job, attempt) for job, attempt, _ in running),
        finished=ids("state = 'succeeded'", 256),
        failed=ids("state = 'failed' AND tenant = 'big'", 100),
        waiting=ids("state = 'ready' AND tenant = 'big'", 100),
        parents=tuple(parent for parent, _ in links),
        children=tuple(child for _, child in links),
        messages=rows("SELECT id, job_id FROM relais.messages WHERE state = 'sending' LIMIT 100"),
        groups=rows(
            "SELECT DISTINCT lane, kind, priority FROM relais.jobs"
            " WHERE state = 'ready' AND queue = 'bulk'"
        ),
    )
