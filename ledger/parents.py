"""Jobs that wait for others: which parents a new child waits for, and the locks that make it exact.

A child counts its open parents (`jobs.waits_for`), and each link says whether it is open. A parent
that ends closes its links and decrements the counters (`consequences`). So that none ends between
being read and being linked, parents are locked, shared among siblings, without ever waiting: a
finish locks many jobs in no particular order, and two that wait for each other would deadlock.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from ledger import outage
from ledger.errors import LedgerUnavailable
from ledger.models.jobs import State
from ledger.statements import TRANSITIONS as SQL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

    from ledger.shapes import NewJob

LOCK_NOT_AVAILABLE = "55P03"
PATIENCE_S = 2.0
OVER = (State.SUCCEEDED, State.FAILED, State.CANCELLED)  # unknown: still to be decided


class ParentBusy(LedgerUnavailable):
    """A parent stayed locked by another transaction."""


@dataclass(frozen=True, slots=True)
class Families:
    """The current states of some new jobs' parents, locked: (tenant, id) -> state."""

    states: dict[tuple[str, UUID], State]

    def missing(self, job: NewJob) -> tuple[UUID, ...]:
        """Parents that do not exist for its tenant."""
        return tuple(p for p in job.depends_on if (job.tenant, p) not in self.states)

    def is_open(self, job: NewJob, parent: UUID) -> bool:
        """Whether `job` has to wait for `parent`."""
        return self.states[job.tenant, parent] not in OVER

    def columns(self, job: NewJob) -> dict[str, Any]:
        """What the statement `accept` reads of a job's parents."""
        own = dict.fromkeys(job.depends_on)
        if job.on_parent_failure == "fail":
            for parent in own:
                state = self.states[job.tenant, parent]
                if state in {State.FAILED, State.CANCELLED}:
                    reason = f"parent job {parent} {state}"
                    return {"waits_for": 0, "ended": state, "reason": reason}
        waits_for = sum(self.is_open(job, parent) for parent in own)
        return {"waits_for": waits_for, "ended": None, "reason": None}


async def look(connection: AsyncConnection, jobs: Iterable[NewJob]) -> Families:
    """The parents of `jobs`, locked until the end of the transaction; raises ParentBusy."""
    wanted = {parent for job in jobs for parent in job.depends_on}
    rows = await _lock(connection, wanted) if wanted else []
    return Families({(row.tenant, row.id): State(row.state) for row in rows})


async def link(connection: AsyncConnection, children: Sequence[NewJob], families: Families) -> None:
    """Record which parents `children`, just inserted, depend on."""
    links = [(job, parent) for job in children for parent in dict.fromkeys(job.depends_on)]
    await connection.execute(
        SQL["link_parents"],
        {
            "children": [job.id for job, _ in links],
            "parents": [parent for _, parent in links],
            "are_open": [families.is_open(job, parent) for job, parent in links],
        },
    )


async def lock_all_of(connection: AsyncConnection, job_ids: Sequence[UUID]) -> None:
    """Lock whatever these jobs may have to wait for; raises ParentBusy."""
    found = await connection.execute(SQL["parents_of"], {"ids": list(job_ids)})
    wanted = set(found.scalars())
    if wanted:
        await _lock(connection, wanted)


async def _lock(connection: AsyncConnection, wanted: Iterable[UUID]) -> Sequence[Row[Any]]:
    ids = sorted(wanted)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        savepoint = await connection.begin_nested()  # releases at once the locks it did get
        try:
            rows = (await connection.execute(SQL["lock_parents"], {"ids": ids})).all()
        except DBAPIError as error:
            await savepoint.rollback()
            if outage.sqlstate(error) != LOCK_NOT_AVAILABLE:
                raise
            if time.monotonic() > deadline:
                sentence = "A job that this one depends on is locked by another transaction."
                raise ParentBusy(sentence, remedy="Send it again in a few seconds.") from error
        else:
            await savepoint.commit()
            return rows
        await asyncio.sleep(random.uniform(0.002, 0.02))  # noqa: S311 - lets the holder go on
