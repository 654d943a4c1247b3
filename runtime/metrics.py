"""What Relais counts, by plain names: `metrics.accepted(queue=..., kind=..., count=...)`.

Each process adds to a tally in memory and leaves a copy in the folder of its colour twice a
second; `total()` adds up the copies of all processes, living and dead, for the gateway's
/metrics. No label ever takes a value from outside a bounded set: the rest becomes "other".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.tally import SECONDS, LiveTally, Metric, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runtime.settings import Settings
    from runtime.tally_folder import TallyFolder

ACCEPTED = Metric("relais_jobs_accepted", "Jobs accepted.", ("queue", "kind"))
FINISHED = Metric(
    "relais_jobs_finished", "Attempts and jobs ended.", ("queue", "kind", "outcome", "colour")
)
CLAIMED = Metric("relais_jobs_claimed", "Jobs taken by claims.")
CLAIM_SECONDS = Metric("relais_claim_seconds", "How long one claim took.", (), SECONDS)
RUN_SECONDS = Metric("relais_run_seconds", "How long one attempt took.", ("queue", "kind"), SECONDS)
WAIT_SECONDS = Metric("relais_queue_wait_seconds", "From ready to running.", ("queue",), SECONDS)
HTTP_REQUESTS = Metric("relais_http_requests", "Requests answered.", ("route", "status"))
HTTP_SECONDS = Metric(
    "relais_http_request_seconds", "How long answering took.", ("route",), SECONDS
)
EMAILS = Metric("relais_emails", "Messages given to relays.", ("relay", "outcome"))
DOORBELLS = Metric("relais_doorbells", "Doorbells rung.", ("queue", "result"))
TICKS = Metric("relais_schedule_ticks", "Ticks of schedules.", ("scope", "result"))
HOUSEKEEPING = Metric("relais_housekeeping", "Tasks of housekeeping run.", ("task", "result"))

METRICS = (
    ACCEPTED,
    FINISHED,
    CLAIMED,
    CLAIM_SECONDS,
    RUN_SECONDS,
    WAIT_SECONDS,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    EMAILS,
    DOORBELLS,
    TICKS,
    HOUSEKEEPING,
)
OTHER = "other"
VALUES_MAX = 64  # distinct values of one label in one process; then "other"


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that is read on request: queue depth, canary age."""

    name: str
    help: str
    labels: Mapping[str, str]
    value: float


@dataclass(slots=True)
class _Process:
    tally: LiveTally = field(default_factory=LiveTally)
    folder: TallyFolder | None = None
    colour: str = ""
    kinds: frozenset[str] | None = None
    values: dict[str, set[str]] = field(default_factory=dict)


_process = _Process()


def configure(settings: Settings, *, service: str, kinds: Iterable[str] | None = None) -> None:
    """Share this process's metrics with its colour; call it after any fork, once per process.

    `kinds`, where given, are the only kinds that become a label.
    """
    from runtime.tally_folder import TallyFolder  # noqa: PLC0415 - wants fcntl, most tests do not

    shutdown()
    _process.tally = LiveTally()
    _process.colour = settings.colour
    _process.kinds = None if kinds is None else frozenset(kinds)
    _process.values.clear()
    _process.folder = TallyFolder(
        settings.data_dir / "metrics" / settings.colour, service=service, tally=_process.tally
    )
    _process.folder.start()


def shutdown() -> None:
    """Write the last metrics and stop sharing."""
    if _process.folder is not None:
        _process.folder.stop()
        _process.folder = None


def accepted(*, queue: str, kind: str, count: int = 1) -> None:
    """`count` jobs were committed to the ledger."""
    _process.tally.add(ACCEPTED, (_one("queue", queue), _kind(kind)), count)


def finished(
    *, queue: str, kind: str, outcome: str, colour: str | None = None, count: int = 1
) -> None:
    """`count` attempts ended with `outcome` (a state of the job, or retry, snooze, lost ...)."""
    labels = (
        _one("queue", queue),
        _kind(kind),
        _one("outcome", outcome),
        _one("colour", colour or _process.colour),
    )
    _process.tally.add(FINISHED, labels, count)


def claimed(*, seconds: float, jobs: int) -> None:
    """One claim took `seconds` and brought `jobs` jobs."""
    _process.tally.observe(CLAIM_SECONDS, (), seconds)
    if jobs:
        _process.tally.add(CLAIMED, (), jobs)


def ran(*, queue: str, kind: str, seconds: float, count: int = 1) -> None:
    """`count` attempts took `seconds` each."""
    _process.tally.observe(RUN_SECONDS, (_one("queue", queue), _kind(kind)), seconds, count)


def waited(*, queue: str, seconds: float, count: int = 1) -> None:
    """`count` jobs were ready for `seconds` before they were claimed."""
    _process.tally.observe(WAIT_SECONDS, (_one("queue", queue),), seconds, count)


def requested(*, route: str, status: int, seconds: float) -> None:
    """One HTTP request was answered; `route` is the template, never the path."""
    route = _one("route", route)
    _process.tally.add(HTTP_REQUESTS, (route, _one("status", str(status))))
    _process.tally.observe(HTTP_SECONDS, (route,), seconds)


def mailed(*, relay: str, outcome: str, count: int = 1) -> None:
    """`count` messages ended as `outcome` (a state of a message) at `relay` (its name)."""
    _process.tally.add(EMAILS, (_one("relay", relay), _one("outcome", outcome)), count)


def rung(*, queue: str, result: str, count: int = 1) -> None:
    """`count` doorbells were rung: `result` is sent, dropped or failed."""
    _process.tally.add(DOORBELLS, (_one("queue", queue), _one("result", result)), count)


def ticked(*, scope: str, result: str, count: int = 1) -> None:
    """`count` ticks, by `scope` (system, user) and `result` (fired, repeated, refused ...)."""
    _process.tally.add(TICKS, (_one("scope", scope), _one("result", result)), count)


def ran_housekeeping(*, task: str, result: str) -> None:
    """One task of housekeeping was run: `result` is done or failed."""
    _process.tally.add(HOUSEKEEPING, (_one("task", task), _one("result", result)), 1)


def own() -> Tally:
    """What this process alone has counted."""
    return _process.tally.copy()


def total() -> Tally:
    """What every process of this colour has counted, living and dead."""
    total = own()
    if _process.folder is not None:
        total.merge(_process.folder.others())
    return total


def _kind(kind: str) -> str:
    if _process.kinds is not None and kind not in _process.kinds:
        return OTHER
    return _one("kind", kind)


def _one(label: str, value: str) -> str:
    """`value`, unless this label has too many values already."""
    known = _process.values.get(label)
    if known is None:
        known = _process.values[label] = set()
    if value in known:
        return value
    if len(known) >= VALUES_MAX:
        return OTHER
    known.add(value)
    return value
