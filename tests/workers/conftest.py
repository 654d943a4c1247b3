"""Shorthands for tests with worker processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.shapes import NewJob
from ops.stack import Valkey
from tests.ledger import jobs
from tests.waiting import wait_for


class Ledger:
    """The test's view of the ledger."""

    def __init__(self, database: AsyncEngine, folder: Path) -> None:
        self.database = database
        self.effects = folder / "effects"

    async def accept(self, *, count: int = 1, **fields: Any) -> list[UUID]:
        """Accept scripted jobs: `mode` and the like go into the payload, the rest on the job."""
        script_fields = {"mode", "seconds", "text", "ok_from_attempt", "result", "size"}
        script = {name: fields.pop(name) for name in list(fields) if name in script_fields}
        values = {"kind": "test.scripted_async", "queue": "template"} | fields
        payload = {**script, "effects": str(self.effects)}
        new = [jobs.new_job(payload=payload, **values) for _ in range(count)]
        await jobs.accept(self.database, *new)
        return [job.id for job in new]

    async def accept_jobs(self, *new: NewJob) -> None:
        """Accept ready-made jobs."""
        await jobs.accept(self.database, *new)

    async def row(self, job_id: UUID) -> Any:
        """The job as it stands."""
        return await jobs.row(self.database, job_id)

    async def path(self, job_id: UUID) -> list[str]:
        """The states that it went through."""
        return await jobs.path(self.database, job_id)

    async def reaches(self, job_id: UUID, *states: str, within_s: float = 20.0) -> Any:
        """The job, once it is in one of `states`."""

        async def there() -> Any:
            row = await self.row(job_id)
            return row if row.state in states else None

        return await wait_for(there, within_s=within_s, what=f"{job_id} in {states}")

    def runs_at_all(self) -> bool:
        """Whether any handler has had its effect."""
        return self.effects.exists()

    async def succeeded(self) -> int:
        """How many jobs have."""
        async with self.database.connect() as connection:
            counted = text("SELECT count(*) FROM relais.jobs WHERE state = 'succeeded'")
            return int((await connection.execute(counted)).scalar_one())

    def runs(self, job_id: UUID) -> int:
        """How often the handler of this job had its effect."""
        if not self.effects.exists():
            return 0
        return sum(line.startswith(str(job_id)) for line in self.effects.read_text().splitlines())


@pytest.fixture
async def ledger(database: AsyncEngine, tmp_path: Path) -> Ledger:
    """The test's own ledger."""
    return Ledger(database, tmp_path)


@pytest.fixture
def nowhere() -> Callable[[], str]:
    """A Redis URL where nobody answers."""
    return lambda: "redis://127.0.0.1:1/0"


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="relais-broker-") as name:
        Path(name).chmod(0o711)
        with Valkey(Path(name) / "valkey", config={"enable-debug-command": "local"}) as running:
            yield running
