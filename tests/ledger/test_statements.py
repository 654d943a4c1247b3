"""No statement of the ledger reads more than it needs, however large the ledger is.

Each is run once as Postgres plans it for its values and once as it plans it for any values (what
a prepared statement may come to), in a transaction that is rolled back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

from ledger import queries
from ledger.filters import JobFilter
from ledger.models.jobs import State
from ledger.statements import for_psycopg
from tests.ledger import plans, statements
from tests.ledger.filled import Filled, filled

pytestmark = pytest.mark.timeout(900)

STATEMENTS = statements.every()
ROWS_MAX = 2_000  # of large tables, where a statement does not say below that it needs more
BUFFERS_MAX = 20_000
# What runs many times a second: pages for a batch of 256, or for one probe of every lane.
HOT = {
    "lanes.look": 4_000,
    "transitions.accept": 12_000,
    "transitions.claim": 12_000,
    "transitions.succeed": 8_000,
    "transitions.promote": 4_000,
    "transitions.extend_leases": 4_000,
    "transitions.asked_to_stop": 2_000,
    "liveness.quiet_workers": 200,
    "liveness.orphans": 300,
    "counts.read": 300,
    "queue_health.look": 6_000,
    "queries.OLDEST_READY": 6_000,
}
# Those that move thousands of rows at a time because they are asked to.
MANY_ROWS = {
    "retention.prune_jobs": 12_000,
    "retention.prune_system_jobs": 12_000,
    "retention.prune_messages": 12_000,
    "consequences.parents_left_behind": 6_000,
    "consequences.last_blocked": 6_000,
    "transitions.reclaim": 12_000,
    # A page of 100 lanes, up to 51 ready jobs of each kind and priority.
    "lanes.list": 12_000,
}


def _rows(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, default=str)


def _common(at: Filled) -> dict[str, Any]:
    """Values by the names that many statements share."""
    now = datetime.now(UTC)
    held = at.running
    groups = at.groups
    fences = [{"id": job, "attempt": attempt} for job, attempt in held]
    return {
        "ids": [job for job, _ in held],
        "attempts": [attempt for _, attempt in held],
        "rows": _rows(fences),
        "id": at.finished[0],
        "p1": at.owner,
        "owner": at.owner,
        "tenant": "big",
        "tenants": ["big"] * 100,
        "queue": "bulk",
        "queues": ["critical", "template", "bulk", "vector", "callback"],
        "lane": "big/relay:main",
        "lanes": [lane for lane, _, _ in groups],
        "kinds": [kind for _, kind, _ in groups],
        "priorities": [priority for _, _, priority in groups],
        "floors": [now - timedelta(hours=2)] * len(groups),
        "quotas": [max(1, 256 // len(groups))] * len(groups),
        "of_kinds": ["email.send", "http.callback", "bench.nothing"],
        "limit": 256,
        "per_lane": 200,
        "since": now - timedelta(seconds=10),
        "since_s": 300.0,
        "bytes_max": 64 * 1024 * 1024,
        "colour": "blue",
        "version": "0.1",
        "worker": "w",
        "lease_s": 60.0,
        "snooze_max_s": 86_400.0,
        "reason": "a reason",
        "by": "somebody",
        "until_s": 60.0,
        "until": None,
        "after_lane": "",
        "after_queue": "",
        "ready_seen": 50,
        "running_seen": 1_000,
        "running_max": 4,
        "weight": 1.0,
        "older_than_s": 86_400.0,
        "parents": list(at.parents),
        "children": list(at.children),
        "after": UUID(int=0),
        "name": "main",
        "names": ["main"] * 100,
        "login": "fingerprint",
        "base_s": 5.0,
        "cap_s": 600.0,
        "address": "u1@example.org",
        "depth_max": 100_000,
        "schedule": "system:beat",
        "system": "system",
        "kept_s": 86_400.0,
        "finished_s": 29.5 * 86_400,
        "shelf_s": 90.0 * 86_400,
        "events_s": 90.0 * 86_400,
        "before": UUID(int=int((now - timedelta(days=29)).timestamp() * 1000) << 80),
        "is_system": False,
        "keys": [f"key-{number}" for number in range(2, 202, 2)],
        "cron": "* * * * *",
        "timezone": "UTC",
        "enabled": True,
        "job": "{}",
        "died": [],
        "died_attempts": [],
        "dead": [at.owner],
        "overdue": [],
        "is_counted": False,
        "state": "failed",
        "links": [1] * len(at.children),
        "states": ["failed"] * len(at.children),
        "nominal": [now] * len(held),
        "schedules": [str(job) for job, _ in held],
        "job_ids": [job for job, _ in held],
        "sha256": b"0" * 32,
        "prefix": "rls_abc",
        "role": "viewer",
        "rate_per_s": 1.0,
        "expires_in_s": None,
        "host": "h",
        "pid": 1,
        "lock_key": 1,
        "stuck_s": 900.0,
        "template": "main",
        "variable": "name",
        "value": '"Ada"',
        "after_id": 0,
        "archived": True,
        "subject": "Hello {{ name }}",
        "html": "<p>Hello {{ name }}</p>",
        "mjml": None,
        "compiled": None,
        "text": "Hello {{ name }}",
        "is_text_derived": True,
        "inlines_css": False,
        "mentions": ["name"],
    }


def _new_job(number: int) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "tenant": "big",
        "lane": "big",
        "kind": "email.send",
        "queue": "bulk",
        "waits_for": 0,
        "priority": 5,
        "payload": {"number": number},
        "payload_bytes": 12,
        "max_attempts": 3,
        "timeout_s": 30,
        "idempotency_key": f"new-{uuid4()}",
        "request_hash": "00",
        "on_parent_failure": "fail",
    }


Own = Callable[[Filled], dict[str, Any]]


def _messages(at: Filled, **more: Any) -> str:
    attempts = dict(at.running)
    return _rows(
        [
            {"id": message, "job_id": job, "attempt": attempts.get(job, 1), **more}
            for message, job in at.messages
        ]
    )


def _recipients(at: Filled) -> str:
    common = {"tenant": "big", "role": "to", "relay": "main", "attempt": 2, "position": 0}
    return _rows(
        [
            {
                "id": uuid4(),
                "job_id": job,
                "recipient": f"u{number}@example.org",
                "address": f"u{number}@example.org",
                "message_id": f"<{number}@example.org>",
                **common,
            }
            for number, (job, _) in enumerate(at.running)
        ]
    )


# Where a statement's values are not those that its names usually have.
OWN: dict[str, Own] = {
    **dict.fromkeys(
        [f"templates.{n}" for n in ("latest_sha256", "point_to", "find_version", "mark_used")],
        lambda _: {"version": 1},
    ),
    "transitions.accept": lambda _: {"jobs": _rows([_new_job(n) for n in range(256)])},
    "consequences.lock_parents": lambda at: {"ids": list(at.parents)},
    "consequences.link_parents": lambda at: {
        "children": list(at.finished[:100]),
        "parents": list(at.failed[:100]),
        "are_open": [True] * len(at.finished[:100]),
    },
    "transitions.finish": lambda at: {
        "rows": _rows([{"id": j, "attempt": a, "state": "failed"} for j, a in at.running])
    },
    "transitions.keep_results": lambda at: {
        "rows": _rows([{"id": j, "result": {"code": 250}} for j, _ in at.running])
    },
    "transitions.defer": lambda at: {
        "rows": _rows(
            [{"id": j, "attempt": a, "delay_s": 5.0, "uncounted": 1} for j, a in at.running]
        )
    },
    "transitions.quarantine": lambda at: {
        "died": [at.running[0][0]],
        "died_attempts": [at.running[0][1]],
    },
    "consequences.lock_waiting": lambda at: {"ids": list(at.children)},
    "consequences.fail_children": lambda at: {"ids": list(at.children)},
    "consequences.free_children": lambda at: {"ids": list(at.children)},
    "transitions.cancel": lambda at: {"id": at.waiting[0]},
    "transitions.request_cancel": lambda at: {"id": at.running[0][0]},
    "consequences.parents_of": lambda at: {"ids": list(at.children)},
    "transitions.retry": lambda at: {"ids": list(at.failed)},
    "consequences.callbacks_of": lambda at: {"ids": list(at.finished)},
    "messages.insert": lambda at: {"rows": _recipients(at)},
    "messages.take_over": lambda at: {"rows": _recipients(at)},
    "messages.rows": lambda at: {"job_ids": [job for _, job in at.messages]},
    "messages.mark_dots": lambda at: {"rows": _messages(at)},
    "messages.mark": lambda at: {"rows": _messages(at, state="sent", reply_code=250)},
    "messages.settle_abandoned": lambda _: {
        "after": datetime.now(UTC) - timedelta(days=1),
        "after_id": UUID(int=0),
        "since_s": 60.0,
    },
    "suppressions.suppress": lambda _: {
        "rows": _rows([{"tenant": "big", "address": "a@example.org", "reason": "550"}])
    },
    "lanes.look": lambda at: {
        "floors": json.dumps(
            {
                "\x1f".join(map(str, group)): (datetime.now(UTC) - timedelta(hours=2)).isoformat()
                for group in at.groups
            }
        )
    },
    "lanes.list": lambda _: {"queue": None, "tenant": None, "prefix": "", "limit": 100},
    "lanes.waiting": lambda _: {"queue": "*"},
    "suppressions.list": lambda _: {"after": ""},
    "schedules.list_all": lambda _: {"after": ""},
    "queries.CALLBACKS": lambda at: {"tag": queries.about(at.finished[0])},
    "queries.EVENTS": lambda _: {"after": 0},
    # Children whose parents are open are read and left alone: a slice of the sweep reads its slice.
    "consequences.parents_left_behind": lambda _: {"limit": 100},
    "messages.AGO": lambda _: {"ago_s": 60.0},
    "liveness.bury": lambda at: {"ids": [at.owner]},
    "api_keys.find_keys": lambda _: {"fingerprints": [bytes(32)] * 500},
    "api_keys.insert_key": lambda _: {"id": uuid4(), "tenant": "default"},
    "lanes.register": lambda _: {
        "queues": ["bulk"] * 2,
        "lanes": ["big", "big/relay:new"],
        "kinds": ["email.send"] * 2,
        "priorities": [5] * 2,
    },
    "migrate.HOLDER": lambda _: {"key": 1},
    "presence.register": lambda _: {"id": uuid4(), "kinds": ["email.send"]},
    "retention.prune_jobs": lambda _: {"after": None, "after_id": UUID(int=0), "limit": 1_000},
    "retention.prune_messages": lambda _: {"after_id": UUID(int=0), "limit": 1_000},
    "lanes.forget_idle": lambda _: {
        "after_queue": "",
        "after_lane": "",
        "after_kind": "",
        "after_priority": -1,
        "kept": 0,
        "limit": 1_000,
    },
    "counts.roll_up": lambda _: {"limit": 2_000},
    "ticks.take": lambda at: {"tenants": ["default"] * len(at.running)},
    "relay_states.look": lambda _: {"lanes": ["big/relay:main"] * 100},
    "schedules.create": lambda _: {"id": uuid4()},
    "templates.list": lambda _: {"after": ""},
    "templates.list_versions": lambda _: {"before": 2**31 - 1},
    # Version 1 of a template that is there: what refers to it is checked as well.
    "templates.add_version": lambda _: (
        {"tenant": "default", "name": "filled"} | {"variables": "{}", "version": 1}
    ),
    "templates.noted": lambda at: {"id": at.finished[0]},
    "templates.note": lambda at: {
        "rows": _rows(
            [{"job_id": j, "template": {"name": "main", "version": 1}} for j, _ in at.running]
        )
    },
    "defaults.list": lambda _: {"after": "", "template": None},
    "defaults.look_up": lambda _: {"variables": ["name", "footer"]},
    "defaults.count_uses": lambda _: {"rows": _rows([{"id": n, "uses": 3} for n in range(100)])},
}


@pytest.fixture(scope="module")
def ledger() -> Filled:
    return filled()


@pytest.fixture(scope="module")
def connection(ledger: Filled) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(ledger.url) as connection:
        yield connection


@pytest.fixture(scope="module")
def large(connection: psycopg.Connection[Any]) -> frozenset[str]:
    found = plans.large_tables(connection)
    assert {"jobs", "job_bodies", "messages"} <= found
    assert any(name.startswith("job_events") for name in found)
    return found


@pytest.mark.parametrize("mode", plans.MODES)
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_reads_no_more_than_it_needs(
    name: str,
    mode: str,
    ledger: Filled,
    connection: psycopg.Connection[Any],
    large: frozenset[str],
) -> None:
    sql = STATEMENTS[name]
    values = _common(ledger) | (OWN[name](ledger) if name in OWN else {})
    missing = set(statements.parameters(sql)) - set(values)
    assert not missing, f"{name} needs example values for {sorted(missing)} in this file"
    _hold_to_its_bounds(name, plans.explain(connection, sql, values, mode=mode, large=large))


def _hold_to_its_bounds(name: str, plan: plans.Plan) -> None:
    faults = list(plan.faults)
    if plan.rows_read > MANY_ROWS.get(name, ROWS_MAX):
        faults.append(f"reads {plan.rows_read:,} rows of large tables")
    if plan.buffers > HOT.get(name, BUFFERS_MAX):
        faults.append(f"touches {plan.buffers:,} pages")
    if faults:
        pytest.fail(f"{name} {'; '.join(faults)} ({plan.took_ms:.1f} ms):\n{plan.text}")


# What is put together when it is asked for; the conditions of lists are the caller's.
FILTERS = {
    "everything": JobFilter(),
    "failed": JobFilter(states=(State.FAILED,)),
    "failed and unknown": JobFilter(states=(State.FAILED, State.UNKNOWN)),
    "workflow": JobFilter(workflow_id="flow-40"),
    "tag": JobFilter(tag="t5-3"),
    "last hour": JobFilter(created_from=datetime.now(UTC) - timedelta(hours=1)),
}


@pytest.mark.parametrize("tenant", ["big", "t5"])
@pytest.mark.parametrize("wanted", FILTERS)
def test_a_list_reads_no_more_than_its_page(
    wanted: str,
    tenant: str,
    ledger: Filled,
    connection: psycopg.Connection[Any],
    large: frozenset[str],
) -> None:
    # A listing asks for one state at a time.
    where, values = FILTERS[wanted].by_state()[0].conditions(tenant=tenant)
    sql = (
        f"SELECT {queries._BRIEF} FROM relais.jobs AS j WHERE {where}"
        " ORDER BY j.id DESC LIMIT :limit"
    )
    sent = for_psycopg(text(sql))
    values |= {"limit": 100}
    plan = plans.explain(connection, sent, values, mode=plans.MODES[0], large=large)
    _hold_to_its_bounds(f"a list of {wanted}", plan)
