"""The processes that report to be alive."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PgUUID
from sqlalchemy.orm import Mapped, mapped_column

from ledger.models.registry import Model, Now


class Worker(Model):
    """One process; proof of life is the advisory lock `lock_key`, not this row."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(PgUUID(as_uuid=True), primary_key=True)
    name: Mapped[str]
    queue: Mapped[str]  # or 'beat', 'gateway'
    colour: Mapped[str]
    version: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    lock_key: Mapped[int] = mapped_column(BigInteger)  # of its current connection
    kinds: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    started_at: Mapped[Now]
    seen_at: Mapped[Now]
    lease_until: Mapped[Now]  # extended while its event loop is responsive
