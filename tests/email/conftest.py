"""Fixtures of the email tests: a scripted relay, jobs in the ledger, contexts to run them in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from ledger import ids
from tasks.context import Context
from tasks.email import pool
from tasks.email.payload import Email
from tasks.email.send import send
from tests.email.scripted_relay import ScriptedRelay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings
    from tasks.outcomes import Outcome

MAIL: dict[str, Any] = {
    "from": "Relais <hello@example.org>",
    "to": ["ada@example.net"],
    "subject": "Hello",
    "text": "Hello Ada",
}

_RUN = text(
    "INSERT INTO relais.jobs (id, kind, queue, state, max_attempts, timeout_s, attempt, owner,"
    " lease_until) VALUES (:id, 'email.send', 'template', 'running', 8, 900, :attempt, :owner,"
    " clock_timestamp() + interval '1 minute')"
    " ON CONFLICT (id) DO UPDATE SET attempt = :attempt, state = 'running', owner = :owner,"
    " finished_at = NULL, lease_until = clock_timestamp() + interval '1 minute'"
)
_BODY = text(
    "INSERT INTO relais.job_bodies (job_id, payload) VALUES (:id, '{}') ON CONFLICT DO NOTHING"
)
_END = text(
    "UPDATE relais.jobs SET state = CAST(:state AS relais.job_state), owner = NULL,"
    " lease_until = NULL, finished_at = clock_timestamp() WHERE id = :id"
)
_ROWS = text("SELECT * FROM relais.messages WHERE job_id = :id ORDER BY position")


@dataclass
class Jobs:
    """Runs `email.send` against the ledger, one attempt after another, as a worker would."""

    database: AsyncEngine
    settings: Settings
    smtp_url: str
    overrides: dict[str, Any] = field(default_factory=dict)

    async def context(self, job_id: UUID, *, attempt: int, **fields: Any) -> Context:
        async with self.database.begin() as connection:
            owned = {"id": job_id, "attempt": attempt, "owner": uuid4()}
            await connection.execute(_RUN, owned)
            await connection.execute(_BODY, {"id": job_id})
        settings = self.settings.model_copy(update={"smtp_url": SecretStr(self.smtp_url)})
        surroundings: dict[str, Any] = {
            "tries_left": 7,
            "tenant": "default",
            "database": self.database,
            **fields,
        }
        return Context(
            job_id=job_id,
            attempt=attempt,
            kind="email.send",
            queue="template",
            settings=settings,
            **surroundings,
        )

    async def run(
        self, job_id: UUID | None = None, *, attempt: int = 1, context: Any = None, **payload: Any
    ) -> Outcome:
        surroundings = await self.context(job_id or ids.new(), attempt=attempt, **(context or {}))
        return await send(Email.model_validate({**MAIL, **payload}), surroundings)

    async def end(self, job_id: UUID, state: str) -> None:
        async with self.database.begin() as connection:
            await connection.execute(_END, {"id": job_id, "state": state})

    async def rows(self, job_id: UUID) -> list[Any]:
        async with self.database.connect() as connection:
            return list(await connection.execute(_ROWS, {"id": job_id}))

    async def states(self, job_id: UUID) -> list[str]:
        return [row.state for row in await self.rows(job_id)]


@pytest.fixture
async def relay() -> AsyncIterator[ScriptedRelay]:
    async with ScriptedRelay() as scripted:
        yield scripted
        await pool.close_all()


@pytest.fixture
async def jobs(database: AsyncEngine, settings: Settings, relay: ScriptedRelay) -> Jobs:
    return Jobs(database, settings, relay.url(connections=3))
