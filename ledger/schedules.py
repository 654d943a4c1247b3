"""Users' own schedules: a cron expression in a time zone, and the job that each tick becomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic_core import to_json

from ledger import ids, statements, ticks
from ledger.cron import validate
from ledger.errors import InvalidSchedule, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = [
    "Schedule",
    "create",
    "delete",
    "enable",
    "find",
    "get",
    "list_all",
    "update",
    "validate",
]

NAME_MAX_CHARACTERS = 100
JOB_REQUIRED = ("kind", "payload", "queue", "max_attempts", "timeout_s")
JOB_OPTIONAL = ("priority", "backoff", "callback_url", "workflow_id", "tags")
COLUMNS = "id, tenant, name, cron, timezone, job, enabled, created_at, changed_at, fired_until"

SQL = statements.load(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class Schedule:
    """One user's schedule; `job` has the keys of JOB_REQUIRED and some of JOB_OPTIONAL."""

    id: UUID
    tenant: str
    name: str
    cron: str
    timezone: str
    job: dict[str, Any]
    enabled: bool
    created_at: datetime
    changed_at: datetime
    fired_until: datetime  # nominal times up to here have been handled

    def next_times(self, *, now: datetime) -> list[datetime]:
        """The next five nominal times."""
        return validate(self.cron, self.timezone, now=now)


async def create(
    connection: AsyncConnection,
    *,
    tenant: str,
    name: str,
    cron: str,
    timezone: str,
    job: Mapping[str, Any],
    enabled: bool = True,
) -> Schedule:
    """A new schedule, or InvalidSchedule with the `field` that is wrong."""
    _check_name(name)
    check_job(job)
    validate(cron, timezone, now=await ticks.now(connection))
    result = await connection.execute(
        SQL["create"],
        {
            "id": ids.new(),
            "tenant": tenant,
            "name": name,
            "cron": cron,
            "timezone": timezone,
            "job": to_json(dict(job)).decode(),
            "enabled": enabled,
        },
    )
    row = result.first()
    if row is None:
        raise _name_taken(name)
    return Schedule(*row)


async def get(connection: AsyncConnection, *, tenant: str, schedule_id: UUID) -> Schedule:
    """One schedule of `tenant`, or NotFound."""
    row = (await connection.execute(SQL["get"], {"id": schedule_id, "tenant": tenant})).first()
    if row is None:
        raise _not_found(schedule_id)
    return Schedule(*row)


async def find(connection: AsyncConnection, *, tenant: str, name: str) -> Schedule | None:
    """The schedule of `tenant` called `name`."""
    row = (await connection.execute(SQL["find"], {"name": name, "tenant": tenant})).first()
    return None if row is None else Schedule(*row)


async def list_all(
    connection: AsyncConnection, *, tenant: str, after: str | None = None, limit: int = 100
) -> list[Schedule]:
    """Schedules of `tenant` by name, after the name `after`."""
    result = await connection.execute(
        SQL["list_all"], {"tenant": tenant, "after": after, "limit": limit}
    )
    return [Schedule(*row) for row in result]


async def update(
    connection: AsyncConnection,
    *,
    tenant: str,
    schedule_id: UUID,
    name: str | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    job: Mapping[str, Any] | None = None,
    enabled: bool | None = None,
) -> Schedule:
    """Change what is given (None: leave it); raises NotFound or InvalidSchedule."""
    known = await get(connection, tenant=tenant, schedule_id=schedule_id)
    if name is not None:
        _check_name(name)
    if job is not None:
        check_job(job)
    if cron is not None or timezone is not None:
        now = await ticks.now(connection)
        validate(cron or known.cron, timezone or known.timezone, now=now)
    result = await connection.execute(
        SQL["update"],
        {
            "id": schedule_id,
            "tenant": tenant,
            "name": name,
            "cron": cron,
            "timezone": timezone,
            "job": None if job is None else to_json(dict(job)).decode(),
            "enabled": enabled,
        },
    )
    row = result.first()
    if row is not None:
        return Schedule(*row)
    await get(connection, tenant=tenant, schedule_id=schedule_id)  # deleted meanwhile: NotFound
    raise _name_taken(name or known.name)


async def enable(
    connection: AsyncConnection, *, tenant: str, schedule_id: UUID, enabled: bool
) -> Schedule:
    """Switch a schedule on or off; times missed while it was off are not made up."""
    return await update(connection, tenant=tenant, schedule_id=schedule_id, enabled=enabled)


async def delete(connection: AsyncConnection, *, tenant: str, schedule_id: UUID) -> None:
    """Remove a schedule, or raise NotFound; jobs that it created remain."""
    gone = await connection.execute(SQL["delete"], {"id": schedule_id, "tenant": tenant})
    if gone.first() is None:
        raise _not_found(schedule_id)


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > NAME_MAX_CHARACTERS or "\x00" in name:
        sentence = f"name: a schedule's name has 1 to {NAME_MAX_CHARACTERS} characters."
        raise InvalidSchedule(sentence, field="name", remedy="Choose another name.")


def check_job(job: Mapping[str, Any]) -> None:
    missing = [key for key in JOB_REQUIRED if key not in job]
    unknown = [key for key in job if key not in (*JOB_REQUIRED, *JOB_OPTIONAL)]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        sentence = f"job: the job of a schedule {what}."
        known = ", ".join((*JOB_REQUIRED, *JOB_OPTIONAL))
        raise InvalidSchedule(sentence, field="job", remedy=f"Its keys are {known}.")
    if not isinstance(job["payload"], dict) or not isinstance(job.get("tags") or [], list | tuple):
        sentence = "job: its payload is not an object, or its tags are not a list."
        raise InvalidSchedule(sentence, field="job", remedy="Write them as in a job.")


def _name_taken(name: str) -> InvalidSchedule:
    sentence = f"name: there is already a schedule called {name!r}."
    return InvalidSchedule(
        sentence, field="name", remedy="Choose another name, or change that one."
    )


def _not_found(schedule_id: UUID) -> NotFound:
    return NotFound(f"There is no schedule {schedule_id}.", remedy="List them to find its id.")
