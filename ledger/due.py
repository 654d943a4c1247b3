"""Which users' schedules are enabled, and turning their ticks into jobs, many per transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic_core import to_json

from ledger import cron, ids, statements, ticks
from ledger.errors import InvalidSchedule
from ledger.schedules import JOB_OPTIONAL, JOB_REQUIRED, check_job
from ledger.shapes import NewJob

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

LaneOf = Callable[[str, str, dict[str, Any]], str]

PART_MAX_BYTES = 4_194_304  # of schedules' jobs held in memory at once

SQL = statements.load(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class Times:
    """When a schedule fires; `changed_at` distinguishes its versions."""

    id: UUID
    cron: str
    timezone: str
    changed_at: datetime
    fired_until: datetime  # nominal times up to here have been handled

    def next_after(self, moment: datetime) -> datetime | None:
        """The first nominal time later than `moment`."""
        return cron.parse(self.cron, self.timezone).next_after(moment)

    def latest_due(self, *, after: datetime, now: datetime) -> datetime | None:
        """The newest nominal time that is later than `after` and not later than `now`."""
        return cron.parse(self.cron, self.timezone).latest(after=after, until=now)


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule, the nominal time at which it is to be fired, and the trace of its job."""

    times: Times
    nominal_at: datetime
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Fired:
    """The result for one due tick.

    `repeated`: it was already fired, switched off or changed meanwhile. `busy`: another transaction
    has it locked, or it was deleted. `refused`: it can never become a job as it is. `failed`: not
    now, for a reason of its own. `reason` says why.
    """

    result: Literal["fired", "repeated", "busy", "refused", "failed"]
    job: NewJob | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Two that are equal (except for `now`) mean that the enabled schedules are the same."""

    now: datetime
    schedules: int
    changes: Decimal

    def is_like(self, other: Fingerprint | None) -> bool:
        """Whether nothing changed between the two."""
        return other is not None and (self.schedules, self.changes) == (
            other.schedules,
            other.changes,
        )


async def fingerprint(connection: AsyncConnection) -> Fingerprint:
    """The database's clock, and whether `enabled` has to be read again."""
    row = (await connection.execute(SQL["fingerprint"])).one()
    return Fingerprint(row.now, row.schedules, Decimal(row.changes))


async def enabled(connection: AsyncConnection) -> list[Times]:
    """Every enabled schedule of every tenant."""
    return [Times(*row) for row in await connection.execute(SQL["enabled"])]


async def fire(
    connection: AsyncConnection, due: Sequence[Due], *, lane_of: LaneOf | None = None
) -> list[Fired]:
    """Turn each of `due` into a job, once; results in the same order.

    `lane_of` names the lane of a job by kind, tenant and payload; without it, it is the tenant's.
    Nothing waits for another beat. If the ledger refuses one, this raises, for all of them.
    """
    await connection.execute(SQL["not_for_long"])
    locked = await connection.execute(SQL["lock"], {"ids": [tick.times.id for tick in due]})
    known = {row.id: row for row in locked}
    live = [tick for tick in due if tick.times.id in known and _is_live(tick, known[tick.times.id])]
    answers: dict[UUID, Fired] = {}
    for part in _parts([(tick, known[tick.times.id].bytes) for tick in live]):
        answers |= await _fire_part(connection, part, lane_of)
    done = [tick for tick in live if answers[tick.times.id].result != "refused"]
    if done:
        values = {
            "ids": [tick.times.id for tick in done],
            "nominal": [tick.nominal_at for tick in done],
        }
        await connection.execute(SQL["deal_with"], values)
    return [
        answers.get(tick.times.id, Fired("repeated" if tick.times.id in known else "busy"))
        for tick in due
    ]


async def _fire_part(
    connection: AsyncConnection, part: Sequence[Due], lane_of: LaneOf | None
) -> dict[UUID, Fired]:
    """Write the ticks and jobs of schedules that are locked."""
    answers: dict[UUID, Fired] = {}
    rows = {
        row.id: row
        for row in await connection.execute(SQL["jobs"], {"ids": [t.times.id for t in part]})
    }
    made: dict[UUID, ticks.Tick] = {}
    for tick in part:
        row = rows[tick.times.id]
        try:
            job = _as_new_job(row, traceparent=tick.traceparent, lane_of=lane_of)
        except InvalidSchedule as error:
            answers[row.id] = Fired("refused", reason=error.sentence)
        else:
            made[row.id] = ticks.Tick(str(row.id), tick.nominal_at, job)
    taken = await ticks.take(connection, list(made.values()))
    for schedule_id, written in made.items():
        is_taken = written.job.id in taken
        answers[schedule_id] = Fired("fired", written.job) if is_taken else Fired("repeated")
    return answers


def _is_live(tick: Due, row: Any) -> bool:  # noqa: ANN401 - a row
    """Whether the schedule is still what it was when the tick was found to be due."""
    return (
        row.enabled
        and (row.cron, row.timezone) == (tick.times.cron, tick.times.timezone)
        and row.fired_until < tick.nominal_at
    )


def _parts(sized: Sequence[tuple[Due, int]]) -> Iterator[list[Due]]:
    """Split so that the jobs of each part have at most PART_MAX_BYTES, or it has only one."""
    part: list[Due] = []
    part_bytes = 0
    for tick, size in sized:
        if part and part_bytes + size > PART_MAX_BYTES:
            yield part
            part, part_bytes = [], 0
        part.append(tick)
        part_bytes += size
    if part:
        yield part


def _as_new_job(
    row: Any,  # noqa: ANN401 - a row
    *,
    traceparent: str | None,
    lane_of: LaneOf | None,
) -> NewJob:
    job = row.job
    check_job(job)
    optional = {key: job[key] for key in JOB_OPTIONAL if job.get(key) is not None}
    if "tags" in optional:
        optional["tags"] = tuple(optional["tags"])
    return NewJob(
        id=ids.new(),
        tenant=row.tenant,
        lane=lane_of(job["kind"], row.tenant, job["payload"]) if lane_of else None,
        payload_bytes=len(to_json(job["payload"])),
        accepted_by=f"schedule:{row.name}",
        traceparent=traceparent,
        trace_id=traceparent[3:35] if traceparent else None,
        **{key: job[key] for key in JOB_REQUIRED},
        **optional,
    )
