"""Migrations and models say the same."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from ledger import migrate
from ledger.models import SCHEMA, Model


def _is_compared(name: str | None, kind: str, _: object) -> bool:
    """Of the partitions only their parent has a model."""
    if kind == "schema":
        return name == SCHEMA
    return not (kind == "table" and str(name).startswith("job_events_"))


def test_migrations_equal_models(database_url: str) -> None:
    with migrate.engine(database_url).connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_schemas": True,
                "include_name": _is_compared,
                "version_table": "schema_version",
                "version_table_schema": SCHEMA,
            },
        )
        assert compare_metadata(context, Model.metadata) == []


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    for phase in migrate.PHASES:
        migrate.migrate(database_url, phase)
