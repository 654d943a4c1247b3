"""The connection to Postgres."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json
from sqlalchemy import event, text
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import create_async_engine

from ledger.errors import UnfitDatabase

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 60_000
# No transaction of ours waits for anything but Postgres; whoever says nothing for so long is frozen
# or cut off, and what it has locked is needed: reclaiming and claiming go around locked rows.
FROZEN_AFTER_MS = 10_000


def _dumps(value: Any) -> str:  # noqa: ANN401 - any JSON
    return to_json(value).decode()


def async_url(url: str) -> str:
    """`url` with the driver that Relais uses."""
    scheme, _, rest = url.partition("://")
    if scheme in {"postgres", "postgresql"}:
        return f"postgresql+psycopg://{rest}"
    return url


def libpq_url(url: str) -> str:
    """`url` as libpq and psycopg read it."""
    _, _, rest = url.partition("://")
    return f"postgresql://{rest}"


def engine(settings: Settings, *, pool_size: int = 8, name: str = "relais") -> AsyncEngine:
    """A pool of connections; connections are made when they are first needed."""
    made = create_async_engine(
        async_url(settings.require_database_url()),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=False,
        pool_timeout=10,
        json_serializer=_dumps,
        json_deserializer=from_json,
        hide_parameters=True,  # errors are logged; addresses and bodies are not
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "client_encoding": "utf8",  # whatever the database's own is
            "application_name": name,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS}"
            f" -c idle_in_transaction_session_timeout={FROZEN_AFTER_MS}"
            " -c lock_timeout=30000",
        },
    )
    event.listen(made.sync_engine, "checkout", _refuse_ended)
    return made


def _refuse_ended(connection: DBAPIConnection, *_: object) -> None:
    """Have the pool replace a connection that Postgres has ended while nobody used it.

    Then there is something to read, if only the end; asking the socket costs no round trip.
    Without this, the first to come after a restart of Postgres, hours later, would be refused.
    """
    descriptor = connection.driver_connection.pgconn.socket
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):
        raise InvalidatePoolError


async def refuse_if_unfit(database: AsyncEngine) -> None:
    """Raise UnfitDatabase where a commit would not survive a power cut or the schema is missing."""
    async with database.connect() as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            value = (await connection.execute(text(f"SHOW {name}"))).scalar_one()
            if value in {"off", "local"} and not (
                name == "synchronous_commit" and value == "local"
            ):
                sentence = f"Postgres runs with {name} = {value}, so a power cut loses jobs."
                raise UnfitDatabase(sentence, remedy=f"Set {name} = on and restart Postgres.")
        migrated = (await connection.execute(text("SELECT to_regclass('relais.jobs')"))).scalar()
        if migrated is None:
            sentence = "The database has no Relais schema."
            raise UnfitDatabase(sentence, remedy="Run: python -m ledger.migrate pre")
