"""`python -m ledger.migrate pre|post`: upgrade the schema, safely alongside running code.

`pre` runs before new code starts and only adds; `post` runs after the old code is gone and
removes what only the old code needed. Both are idempotent; two at once wait for each other. The
building blocks of migrations are in `ledger.migrations.steps`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine, event, text
from sqlalchemy.exc import OperationalError

from ledger import database, fitness, outage, pooler, session
from ledger.errors import LedgerUnavailable
from ledger.migrations import steps
from ledger.models import SCHEMA
from runtime import settings as runtime_settings
from runtime.errors import RelaisError, SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Dialect, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection

PHASES = ("pre", "post")
LOCK_PATIENCE_S = 600.0  # for others' locks, and as long again for another migration to finish
HAS_SCHEMA = text(f"SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{SCHEMA}')")
# Any role of the database may take an advisory lock, and any role may see who holds it.
HOLDER = text("""
SELECT l.pid, a.application_name, a.usename, a.client_addr, a.backend_start
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = :key
LIMIT 1
""")
HAS_JOBS = text("SELECT to_regclass('relais.jobs') IS NOT NULL")
# A role called "relais" would otherwise have the schema of that name as its default, and Alembic
# would consider every table unknown. Nothing waits for a lock for longer than others can wait
# behind it; statements that work on the data may take their time.
SESSION = (
    "SELECT set_config('search_path', 'public', false),"
    f" set_config('lock_timeout', '{steps.LOCK_TIMEOUT_MS}', false),"
    " set_config('statement_timeout', '0', false),"
    " set_config('idle_in_transaction_session_timeout', '0', false)"
)
_HERE = Path(__file__).parent / "migrations"
_VERSIONS = _HERE / "versions"
_LOCK_KEY = 0x52454C41  # one migration at a time, whoever starts it
_TURN_EVERY_S = 0.2


def configuration(connection: Connection) -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "version_locations", "\n".join(str(_VERSIONS / phase) for phase in PHASES)
    )
    config.attributes["connection"] = connection
    return config


def engine(url: str) -> Engine:
    """Single connections for migrations; UnfitDatabase if their sessions would be shared."""
    told = session.parameters(url, application_name="relais migrate")
    made = create_engine(database.shown_url(told), poolclass=NullPool)

    def connect(dialect: Dialect, _: object, __: object, given: dict[str, Any]) -> DBAPIConnection:
        driver: Any = dialect.connect(**told, context=given["context"], autocommit=True)
        try:
            pooler.refuse_shared_session(driver, url)
            driver.execute(SESSION)
            driver.autocommit = False
        except BaseException:
            driver.close()
            raise
        return driver  # type: ignore[no-any-return]

    event.listen(made, "do_connect", connect)
    return made


def migrate(url: str, phase: str) -> None:
    """Upgrade the database at `url` to the head of `phase`."""
    with engine(url).connect() as connection:
        _wait_for_turn(connection)
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                _upgrade(connection, phase)
            except (OperationalError, psycopg.OperationalError) as error:
                if outage.sqlstate(error) not in steps.LOCKED:
                    raise
                connection.rollback()
                if time.monotonic() > deadline:
                    raise _locked() from error
                driver: Any = connection.connection.driver_connection
                steps.let_others_go_on(driver)
            else:
                return


def _wait_for_turn(connection: Connection) -> None:
    """Migrations take turns; without a transaction, which building an index would wait for.

    The lock is released with the connection.
    """
    deadline = time.monotonic() + LOCK_PATIENCE_S
    told = ""
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}):
        holder = _holder(connection)
        connection.rollback()
        if time.monotonic() > deadline:
            raise _no_turn(holder)
        if holder and holder != told:
            print(f"Another migration is running; this one waits for it: {holder}", file=sys.stderr)
            told = holder
        time.sleep(_TURN_EVERY_S)
    connection.rollback()


def _holder(connection: Connection) -> str:
    """A description of the lock's holder; empty if it has just become free."""
    row = connection.execute(HOLDER, {"key": _LOCK_KEY}).one_or_none()
    if row is None:
        return ""
    name = row.application_name or "a session without a name"
    if row.usename is None:  # gone by now
        return f"pid {row.pid} of Postgres."
    # Not everything is visible of other roles' sessions.
    place = f", from {row.client_addr}" if row.client_addr else ""
    since = (
        f", connected since {row.backend_start:%Y-%m-%d %H:%M:%S %Z}" if row.backend_start else ""
    )
    return f"{name} (pid {row.pid} of Postgres, role {row.usename}{place}{since})."


def _no_turn(holder: str) -> LedgerUnavailable:
    sentence = f"The migration could not start within {LOCK_PATIENCE_S:g} s: the advisory lock"
    sentence += f" {_LOCK_KEY} is held by {holder or 'one session after another.'}"
    return LedgerUnavailable(
        sentence,
        remedy="If that is a migration, run this one again later; otherwise end the session"
        " (SELECT pg_terminate_backend(pid)), then run it again.",
    )


def _upgrade(connection: Connection, phase: str) -> None:
    is_new = not connection.execute(HAS_JOBS).scalar_one()
    # Not IF NOT EXISTS, which requires the right to create even if it exists.
    if not connection.execute(HAS_SCHEMA).scalar_one():
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    connection.commit()
    # No old code runs on a new database: both phases at once.
    for each in PHASES if is_new else (phase,):
        command.upgrade(configuration(connection), f"{each}@head")
        connection.commit()


def _locked() -> LedgerUnavailable:
    sentence = f"The migration could not get a lock for {LOCK_PATIENCE_S:.0f} s: another"
    sentence += " transaction has been open for longer than that."
    return LedgerUnavailable(
        sentence,
        remedy="End it (pg_stat_activity, ordered by xact_start), then run the migration again:"
        " it continues where it stopped.",
    )


def main(arguments: list[str]) -> int:
    """Run from the command line; 2 if something must be changed first, 1 if Postgres fails."""
    if len(arguments) != 1 or arguments[0] not in PHASES:
        print("Usage: python -m ledger.migrate pre|post", file=sys.stderr)
        return 2
    try:
        settings = runtime_settings.load()
        url = settings.require_direct_database_url()
        is_direct = bool(settings.direct_database_url.get_secret_value())
        variable = "RELAIS_DIRECT_DATABASE_URL" if is_direct else "RELAIS_DATABASE_URL"
        finding = fitness.ask(variable, url, needs_schema=False)
        if finding is not None:
            print(finding, file=sys.stderr)
            return 1 if finding.is_passing else 2
        migrate(url, arguments[0])
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except RelaisError as error:
        print(error, file=sys.stderr)
        return 1
    except (OperationalError, psycopg.OperationalError) as error:
        cause = error.orig if isinstance(error, OperationalError) else error
        print(f"Postgres cannot be reached, or refuses the connection: {cause}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
