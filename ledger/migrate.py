"""`python -m ledger.migrate pre|post`: bring the schema up, safely beside running code.

`pre` runs before new code starts and only adds; `post` runs after the old code is gone and
takes away what only it needed. Both are idempotent; two at once wait for each other.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from ledger import database
from ledger.models import SCHEMA
from runtime import settings as runtime_settings
from runtime.errors import RelaisError

if TYPE_CHECKING:
    from sqlalchemy import Connection

PHASES = ("pre", "post")
_HERE = Path(__file__).parent / "migrations"
# A role called "relais" would otherwise have the schema of its name as the default one, and
# Alembic would take every table for a stranger's.
CONNECT = {"connect_timeout": 5, "options": "-c search_path=public"}
HAS_JOBS = text("SELECT to_regclass('relais.jobs') IS NOT NULL")
_LOCK_KEY = 0x52454C41  # one migration at a time, whoever starts it


def configuration(connection: Connection) -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "version_locations", "\n".join(str(_HERE / "versions" / phase) for phase in PHASES)
    )
    config.attributes["connection"] = connection
    return config


def migrate(url: str, phase: str) -> None:
    """Upgrade the database at `url` to the head of `phase`."""
    engine = create_engine(database.async_url(url), connect_args=CONNECT)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
            try:
                is_new = not connection.execute(HAS_JOBS).scalar_one()
                connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
                connection.commit()
                # Nobody runs old code on a database that is new: both phases at once.
                for each in PHASES if is_new else (phase,):
                    command.upgrade(configuration(connection), f"{each}@head")
                    connection.commit()
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
                connection.commit()
    finally:
        engine.dispose()


def main(arguments: list[str]) -> int:
    """Run from the command line; 2 for a wrong argument, 1 where Postgres refuses."""
    if len(arguments) != 1 or arguments[0] not in PHASES:
        print("Say which phase: python -m ledger.migrate pre|post", file=sys.stderr)
        return 2
    try:
        migrate(runtime_settings.load().require_database_url(), arguments[0])
    except RelaisError as error:
        print(error, file=sys.stderr)
        return 1
    except OperationalError as error:
        print(f"Postgres cannot be reached or refuses us: {error.orig}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
