"""Lanes: jobs that depend on the same thing, so that no job waits for another's trouble.

A lane is a tenant (`acme`), or something that a tenant's jobs depend on (`acme/relay:main`,
`acme/host:n8n.example.com`). Claims take turns between the lanes of a queue; a lane can be paused,
until a given time or until it is resumed, and limited. The statements are in `lanes.sql`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import to_json

from ledger import statements
from ledger.shapes import Slice

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from ledger.shapes import NewJob

SQL = statements.load(Path(__file__).with_suffix(".sql"))

ALL_QUEUES = "*"
SYSTEM = "system"  # Relais' own jobs; they run in a paused queue too
RELAY = "relay"  # recorded as the one who pauses the lane of a relay in trouble
NAME_MAX_BYTES = 200
READY_SEEN = 50  # of each lane, in a list
RUNNING_SEEN = 1_000  # of all lanes
REGISTRY_MAX = 500  # lanes, kinds and priorities; each costs a look one probe

Group = tuple[str, str, int]  # lane, kind, priority
Registered = tuple[str, str, str, int]  # queue, lane, kind, priority
_KEY = "\x1f"  # separates the parts of a key; occurs in none of them


@dataclass(frozen=True, slots=True)
class Head:
    """The longest ready job of one lane, kind and priority."""

    lane: str
    kind: str
    priority: int
    ready_at: datetime
    running_max: int | None  # jobs of the lane at once, over all workers
    weight: float
    now: datetime  # the database's, when it was asked
    waited_s: float

    @property
    def group(self) -> Group:
        """What a wish refers to."""
        return (self.lane, self.kind, self.priority)


@dataclass(frozen=True, slots=True)
class Pause:
    """Why nothing is claimed from a lane."""

    paused_at: datetime
    paused_until: datetime | None  # None: until it is resumed
    paused_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class LaneRecord:
    """A lane of a queue as operators see it; of the queue '*': what holds in every queue."""

    queue: str
    lane: str
    paused_at: datetime | None
    paused_until: datetime | None
    paused_by: str | None
    reason: str | None
    running_max: int | None
    weight: float
    running: int | None  # None: more are running in total than a list counts
    ready: int | None  # READY_SEEN + 1: or more
    ready_at: datetime | None  # since when its longest ready job has been; None: none is ready


def name(tenant: str, dependence: str | None = None) -> str:
    """The lane of a tenant's jobs that depend on `dependence` ("relay:main"), of bounded length."""
    lane = f"{tenant}/{dependence}" if dependence else tenant
    lane = "".join(c if c.isprintable() else "?" for c in lane)
    encoded = lane.encode()
    if len(encoded) > NAME_MAX_BYTES:
        digest = hashlib.sha256(encoded).hexdigest()[:16]
        lane = f"{encoded[: NAME_MAX_BYTES - 17].decode(errors='ignore')}~{digest}"
    return lane


def tenant_of(lane: str) -> str:
    """Whose lane it is."""
    return lane.partition("/")[0]


async def look(
    connection: AsyncConnection,
    *,
    queue: str,
    kinds: Sequence[str] | None,
    floors: Mapping[Group, datetime] | None = None,
) -> list[Head]:
    """What may be claimed of `queue` and `kinds` (None: of all), one head per group.

    `floors`: no job of a group became ready before its floor. Without one, all jobs are scanned.
    """
    known = {
        _KEY.join((lane, kind, str(priority))): floor
        for (lane, kind, priority), floor in (floors or {}).items()
    }
    result = await connection.execute(
        SQL["look"],
        {
            "queue": queue,
            "of_kinds": None if kinds is None else list(kinds),
            "floors": to_json(known).decode(),
        },
    )
    return [Head(*row) for row in result]


async def workers(connection: AsyncConnection, *, queue: str) -> int:
    """How many living processes claim from `queue`."""
    return int((await connection.execute(SQL["workers"], {"queue": queue})).scalar_one())


async def pause(
    connection: AsyncConnection,
    *,
    lane: str,
    by: str,
    reason: str,
    queue: str = ALL_QUEUES,
    until_s: float | None = None,
    until: datetime | None = None,
) -> Pause | None:
    """Claim nothing from `lane`: until `until`, for `until_s` seconds, or until it is resumed.

    Returns the pause in effect: a pause that lasts longer stays as it is, and so does an operator's
    if `by` is RELAY. None if `until` has passed.
    """
    await connection.execute(
        SQL["pause"],
        {
            "queue": queue,
            "lane": lane,
            "by": by,
            "reason": reason,
            "until_s": until_s,
            "until": until,
        },
    )
    return await in_force(connection, lane=lane, queue=queue)


async def in_force(
    connection: AsyncConnection, *, lane: str, queue: str = ALL_QUEUES
) -> Pause | None:
    """The pause that keeps `lane` from being claimed in `queue`."""
    row = (await connection.execute(SQL["in_force"], {"queue": queue, "lane": lane})).first()
    return Pause(*row) if row else None


async def resume(connection: AsyncConnection, *, lane: str, queue: str = ALL_QUEUES) -> bool:
    """Claim from `lane` again, in one queue or in all; False if it was not paused."""
    result = await connection.execute(SQL["resume"], {"queue": queue, "lane": lane})
    return result.first() is not None


async def waiting(
    connection: AsyncConnection, *, lane: str, queue: str = ALL_QUEUES
) -> list[tuple[str, str, UUID]]:
    """(queue, kind, job id) of a few ready jobs of `lane`, enough to wake its workers."""
    result = await connection.execute(SQL["waiting"], {"queue": queue, "lane": lane})
    return [(row.queue, row.kind, row.id) for row in result]


async def configure(
    connection: AsyncConnection,
    *,
    lane: str,
    running_max: int | None,
    weight: float = 1.0,
    queue: str = ALL_QUEUES,
) -> None:
    """Limit how many jobs of `lane` run at once (None: no limit), and set its weight.

    Of a queue's own limit and the one for every queue, the lower applies; weights are multiplied.
    """
    values = {"queue": queue, "lane": lane, "running_max": running_max, "weight": weight}
    await connection.execute(SQL["configure"], values)


async def list_all(
    connection: AsyncConnection,
    *,
    queue: str | None = None,
    tenant: str | None = None,
    prefix: str = "",
    after: tuple[str, str] = ("", ""),
    limit: int,
) -> list[LaneRecord]:
    """Lanes by (lane, queue), from the first one after `after`; None: of all queues, tenants."""
    values = {
        "queue": queue,
        "tenant": tenant,
        "prefix": prefix,
        "after_lane": after[0],
        "after_queue": after[1],
        "limit": limit,
        "ready_seen": READY_SEEN,
        "running_seen": RUNNING_SEEN,
    }
    return [LaneRecord(*row) for row in await connection.execute(SQL["list"], values)]


def registered(job: NewJob) -> Registered:
    """The registry entry under which claims find `job`."""
    return job.queue, job.lane or job.tenant, job.kind, job.priority


async def register(connection: AsyncConnection, found: Collection[Registered]) -> None:
    """Make sure that claims look at these."""
    queues, names, kinds, priorities = zip(*found, strict=True)
    values = {
        "queues": list(queues),
        "lanes": list(names),
        "kinds": list(kinds),
        "priorities": list(priorities),
    }
    await connection.execute(SQL["register"], values)


async def register_missing(connection: AsyncConnection) -> int:
    """Register the lanes of ready or scheduled jobs that are missing; returns how many."""
    return (await connection.execute(SQL["register_missing"])).rowcount


@dataclass(slots=True)
class IdleLanes:
    """A walk over the registry that removes idle groups; start over with a new object.

    It ends when there are no more than `kept` groups: that many cost a look nothing.
    """

    kept: int = REGISTRY_MAX
    after: tuple[str, str, str, int] = ("", "", "", -1)  # queue, lane, kind, priority

    async def forget(self, connection: AsyncConnection, *, limit: int) -> Slice:
        """Remove the idle ones among the next `limit`."""
        after = ("after_queue", "after_lane", "after_kind", "after_priority")
        values = dict(zip(after, self.after, strict=True)) | {"kept": self.kept, "limit": limit}
        row = (await connection.execute(SQL["forget_idle"], values)).one()
        if row.looked_at:
            self.after = (row.queue, row.lane, row.kind, row.priority)
        return Slice(row.looked_at, row.removed)
