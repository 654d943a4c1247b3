"""Which jobs of its tenant a caller may read and act on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import Code, Problem
from ledger import queries

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.callers import Caller


async def own_job(connection: AsyncConnection, *, job_id: UUID, caller: Caller) -> None:
    """403 for a producer whose key did not submit the job; 404 if there is none (any more).

    Other roles are not asked: they may act on every job of their tenant.
    """
    if caller.only_own is None:
        return
    row = await queries.job(connection, tenant=caller.tenant, job_id=job_id)
    if row is None:
        raise unknown_job(job_id)
    if row["accepted_by"] != caller.only_own:
        raise Problem(
            Code.ROLE_MISSING,
            f"Job {job_id} was submitted with another key; a producer may do so only with its own.",
            remedy="Use the key that submitted it, or one of the role operator or admin.",
        )


def unknown_job(job_id: UUID) -> Problem:
    """There is no such job in the caller's tenant."""
    return Problem(
        Code.NOT_FOUND, f"There is no job {job_id}.", remedy="Check the id; pruned jobs are gone."
    )
