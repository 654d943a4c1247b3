"""Reads the histories of a run into one `History`."""

from __future__ import annotations

import math
import signal
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from lab.chaos import journal
from lab.chaos.history import (
    Attempted,
    Call,
    Death,
    Delivery,
    Event,
    History,
    Job,
    Mark,
    Message,
    Probe,
    Run,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lab.chaos import launcher
    from lab.chaos.cluster import Cluster
    from lab.chaos.history import Struck

JOBS = """
SELECT j.id::text, j.idempotency_key AS key, j.kind, j.state::text, j.attempt, j.reason,
       j.accepted_by, j.callback_url IS NOT NULL AS has_callback,
       body.result ->> 'output' AS rendered,
       extract(epoch FROM j.created_at)::float8 AS created_at,
       extract(epoch FROM j.finished_at)::float8 AS finished_at
FROM relais.jobs AS j LEFT JOIN relais.job_bodies AS body ON body.job_id = j.id
WHERE j.tenant IN ('default', 'flood')
"""
EVENTS = """
SELECT seq, job_id::text, from_state::text, to_state::text, attempt, worker, reason,
       extract(epoch FROM at)::float8 AS at, repeats,
       extract(epoch FROM last_at)::float8 AS last_at
FROM relais.job_events WHERE tenant IN ('default', 'flood') ORDER BY seq
"""
MESSAGES = """
SELECT id::text, job_id::text, recipient, state::text, attempt FROM relais.messages
"""
MARKS = """
SELECT message::text, recipient, attempt, state, tries, extract(epoch FROM at)::float8 AS at
FROM chaos.marks ORDER BY seq
"""
STRAY_TICKS = """
SELECT count(*) AS n FROM relais.jobs AS j
WHERE j.tenant NOT IN ('default', 'flood')
  AND 1 <> (SELECT count(*) FROM relais.schedule_ticks AS t WHERE t.job_id = j.id)
"""
FAILED_ELSEWHERE = """
SELECT id || ' (' || kind || '): ' || coalesce(reason, 'no reason') AS sentence
FROM relais.jobs WHERE tenant NOT IN ('default', 'flood') AND state = 'failed'
"""
OPEN = """
SELECT count(*) AS n FROM relais.jobs
WHERE tenant IN ('default', 'flood') AND state IN ('scheduled', 'ready', 'running')
"""
# In the queues that a worker of the run reads: a canary of another one waits for ever.
WAITING = """
SELECT count(*) AS n FROM relais.jobs
WHERE state = 'ready' AND run_at < clock_timestamp() - interval '2 seconds' AND queue = ANY(%s)
"""
UNKNOWN = """
SELECT j.id::text, array_agg(m.recipient) FILTER (WHERE m.state = 'unknown') AS doubtful
FROM relais.jobs AS j LEFT JOIN relais.messages AS m ON m.job_id = j.id
WHERE j.tenant = 'default' AND j.state = 'unknown' GROUP BY j.id
"""


async def gather(cluster: Cluster, faults: Iterable[Struck]) -> History:
    """Everything, from the files of the run and from the ledger itself."""
    history = clients_and_recorders(cluster.history)
    history.faults = list(faults)
    history.deaths = [Death(d.name, d.pid, d.at) for d in cluster.launcher.deaths]
    history.failed_elsewhere = [r["sentence"] for r in await cluster.query(FAILED_ELSEWHERE)]
    history.findings += ended_by_themselves(
        cluster.launcher.deaths, is_poisoned=bool(history.poison)
    )
    history.stray_ticks = (await cluster.query(STRAY_TICKS))[0]["n"]
    events: dict[str, list[Event]] = {}
    for row in await cluster.query(EVENTS):
        events.setdefault(row.pop("job_id"), []).append(Event(**row))
    for row in await cluster.query(JOBS):
        history.jobs[row["id"]] = Job(**row, events=tuple(events.get(row["id"], ())))
    marks: dict[str, list[Mark]] = {}
    for row in await cluster.query(MARKS):
        marks.setdefault(row.pop("message"), []).append(Mark(**row))
    for row in await cluster.query(MESSAGES):
        message_id = row.pop("id")
        history.messages.append(Message(**row, marks=tuple(marks.get(message_id, ()))))
    _keep(history, cluster.history / "ledger.jsonl")
    return history


def ended_by_themselves(deaths: Iterable[launcher.Death], *, is_poisoned: bool) -> list[str]:
    """Workers that nobody had asked to end, a job that kills aside."""
    return [
        f"{death.name} ended by itself with exit code {death.exit_code}"
        for death in deaths
        if death.name.startswith("worker-")
        and not death.was_asked
        and not (is_poisoned and death.exit_code == -signal.SIGKILL)
    ]


def clients_and_recorders(folder: Path) -> History:
    """What the clients and the recorders wrote down."""
    history = History()
    for entry in journal.read(folder / "clients.jsonl"):
        _client(history, entry)
        _watcher(history, entry)
    for entry in journal.read(folder / "effects.jsonl"):
        history.runs.append(Run(entry["key"], entry["what"], entry["attempt"], entry["at"]))
    for entry in journal.read(folder / "smtp.jsonl"):
        if entry["what"] == "delivered":
            history.deliveries.append(Delivery(entry["rcpt"], entry["at"]))
        elif entry["what"] == "refused":
            history.refused_addresses.add(entry["rcpt"])
    for entry in journal.read(folder / "callbacks.jsonl"):
        if entry["what"] == "called":
            fields = ("name", "webhook_id", "status", "at", "is_signed")
            history.calls.append(Call(**{name: entry[name] for name in fields}))
        elif entry["what"] == "inward":
            history.inward += 1
    return history


def _keep(history: History, path: Path) -> None:
    """Write down what the ledger said, for whoever wants to look at a run again."""
    with path.open("wb") as file:
        kept: list[Job | Message | Death | Struck] = [
            *history.jobs.values(),
            *history.messages,
            *history.deaths,
            *history.faults,
        ]
        for found in kept:
            file.write(to_json({"type": type(found).__name__, **asdict(found)}) + b"\n")


def _client(history: History, entry: dict[str, Any]) -> None:
    match entry["what"]:
        case "attempted":
            history.attempted[entry["key"]] = Attempted(
                key=entry["key"],
                kind=entry["kind"],
                at=entry["at"],
                recipients=tuple(entry["recipients"]),
                relay=entry["relay"],
                has_callback=entry["has_callback"],
                delay_s=entry["delay_s"],
                parents=tuple(entry["parents"]),
                ends=entry["ends"],
                queue=entry["queue"],
                tenant=entry["tenant"],
            )
            if entry["kind"] == "chaos.poison":
                history.poison.add(entry["key"])
        case "acknowledged":
            first = history.acknowledged.setdefault(entry["key"], entry["id"])
            if first != entry["id"]:
                history.acknowledged_twice.append(entry["key"])
        case "cancelling":
            history.cancel_asked.add(entry["key"])
        case "cancelled" if entry["state"] is not None:
            history.cancel_taken[entry["key"]] = entry["at"]
            if entry["state"] == "cancelled":
                history.cancelled.add(entry["key"])
        case "refused":
            history.refused_requests.append(f"{entry['path']} {entry['status']} {entry['text']}")


def _watcher(history: History, entry: dict[str, Any]) -> None:
    """What faults saw themselves."""
    if entry["what"] == "probe":
        seconds = math.inf if entry["seconds"] is None else entry["seconds"]
        history.probes.append(Probe(entry["fault"], entry["about"], seconds, entry["bound_s"]))
    elif entry["what"] == "finding":
        history.findings.append(entry["text"])
