"""What the state machine's world is made of, and the statements that check its books."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger import database as ledger_database
from ledger.models.jobs import State
from ledger.shapes import ClaimedJob
from runtime.settings import Settings

# Blocked jobs that do not wait for just their open parents.
MISCOUNTED_CHILDREN = """
SELECT child.id, child.waits_for FROM relais.jobs AS child
CROSS JOIN LATERAL (
    SELECT count(*) AS links,
           count(*) FILTER (WHERE parent.finished_at IS NULL OR parent.state = 'unknown') AS open
    FROM relais.job_parents AS link JOIN relais.jobs AS parent ON parent.id = link.parent_id
    WHERE link.child_id = child.id AND link.is_open
) AS its
WHERE child.state = 'blocked'
  AND (child.waits_for = 0 OR child.waits_for <> its.links OR its.links <> its.open)
"""
MISCOUNTED_JOBS = """
SELECT tenant, queue, state, sum(jobs) FROM (
    SELECT tenant, queue, state, jobs FROM relais.job_counts
    UNION ALL SELECT tenant, queue, state, jobs FROM relais.job_count_deltas
    UNION ALL SELECT tenant, queue, state, -1 FROM relais.jobs
) AS every GROUP BY tenant, queue, state HAVING sum(jobs) <> 0
"""


@dataclass
class Claim:
    """What a worker believes to hold."""

    job: ClaimedJob
    owner: UUID


@dataclass
class World:
    """One database, one event loop, and what everybody believes."""

    url: str
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    believed: dict[tuple[UUID, int], list[State]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        configured = Settings.model_validate({"database_url": self.url})
        self.engine: AsyncEngine = ledger_database.engine(configured, pool_size=6)

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        self.do(self.engine.dispose())
        self.loop.close()
