"""Jobs that already hold an idempotency key: the result when the same job is sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.models.jobs import State
from ledger.shapes import Accepted
from ledger.statements import TRANSITIONS as SQL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from ledger.shapes import NewJob


async def find(connection: AsyncConnection, jobs: Sequence[NewJob]) -> list[Accepted | None]:
    """For each of `jobs`, in order: the first job with its key, None where there is none."""
    values = {"tenants": [j.tenant for j in jobs], "keys": [j.idempotency_key for j in jobs]}
    result = await connection.execute(SQL["find_by_key"], values)
    known = {(row.tenant, row.idempotency_key): row for row in result}
    found: list[Accepted | None] = []
    for job in jobs:
        row = known.get((job.tenant, job.idempotency_key))
        found.append(
            None
            if row is None
            else Accepted(
                row.id,
                State(row.state),
                row.created_at,
                row.run_at,
                is_new=False,
                is_conflict=bytes(row.request_hash) != job.request_hash,
            )
        )
    return found
