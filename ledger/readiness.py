"""Whether a job could be written just now, which takes more than Postgres responding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

IS_READ_ONLY = text("SELECT current_setting('transaction_read_only')::boolean")
# The lock that an INSERT takes. A transaction that blocks all writes blocks this too.
BRIEFLY = text("SET LOCAL lock_timeout = '1s'")
LOCK_AS_INSERT_DOES = text("LOCK TABLE relais.jobs IN ROW EXCLUSIVE MODE")


async def refuse_if_not_writable(connection: AsyncConnection) -> None:
    """Raise LedgerUnavailable on a read-only server; 55P03 where the table of jobs is locked."""
    if (await connection.execute(IS_READ_ONLY)).scalar_one():
        sentence = "Postgres is read-only."
        raise LedgerUnavailable(sentence, remedy="Point RELAIS_DATABASE_URL at the primary.")
    await connection.execute(BRIEFLY)
    await connection.execute(LOCK_AS_INSERT_DOES)
