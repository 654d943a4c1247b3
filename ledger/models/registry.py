"""The metadata that all models share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Text, text
from sqlalchemy.dialects.postgresql import UUID as PgUUID
from sqlalchemy.orm import DeclarativeBase, mapped_column

SCHEMA = "relais"

Instant = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Now = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=text("clock_timestamp()"))
]
Id = Annotated[UUID, mapped_column(PgUUID(as_uuid=True), primary_key=True)]
TenantName = Annotated[str, mapped_column(Text, server_default=text("'default'"))]


class Model(DeclarativeBase):
    """Root of the models; text columns are TEXT, names of constraints are fixed."""

    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        },
    )
    type_annotation_map = {str: Text()}  # noqa: RUF012 - SQLAlchemy's own declaration
