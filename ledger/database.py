"""The connection to Postgres: direct, through a pooler, or to the primary of several servers."""

from __future__ import annotations

import select
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json
from sqlalchemy import URL, event, text
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import create_async_engine

from ledger import fitness, outage
from ledger.session import LIMITS, Session, expressions, parameters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection, Dialect
    from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from runtime.settings import Settings

DRIVER = "postgresql+psycopg"
# A statement that waits for a table's lock makes all later ones wait too.
BRIEFLY = text("""
SELECT set_config('lock_timeout', '500ms', true), set_config('statement_timeout', '30s', true)
""")


def _dumps(value: Any) -> str:  # noqa: ANN401 - any JSON
    return to_json(value).decode()


def async_url(url: str) -> str:
    """`url` with the driver that Relais uses, for SQLAlchemy."""
    scheme, _, rest = url.partition("://")
    if scheme in {"postgres", "postgresql"}:
        return f"{DRIVER}://{rest}"
    return url


def shown_url(told: dict[str, Any]) -> URL:
    """For SQLAlchemy, which does not support all of libpq's URLs: a label, not used to connect."""
    return URL.create(DRIVER, told.get("user"), host=told.get("host"), database=told.get("dbname"))


def engine(
    settings: Settings,
    *,
    pool_size: int = 8,
    name: str = "relais",
    lock_timeout_ms: int = LIMITS["lock_timeout"],
) -> AsyncEngine:
    """A pool of connections; connections are made when they are first needed."""
    own_limits = {"lock_timeout": lock_timeout_ms}
    begin = partial(Session.begin, own_limits=own_limits)
    told = parameters(settings.require_database_url(), application_name=name)
    made = create_async_engine(
        shown_url(told),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=False,
        pool_timeout=10,
        json_serializer=_dumps,
        json_deserializer=from_json,
        hide_parameters=True,  # errors are logged; addresses and bodies are not
    )

    def connect(dialect: Dialect, _: object, __: object, given: dict[str, Any]) -> DBAPIConnection:
        return dialect.connect(told, context=given["context"], async_creator_fn=begin)

    event.listen(made.sync_engine, "do_connect", connect)
    event.listen(made.sync_engine, "checkout", _refuse_ended)
    event.listen(made.sync_engine, "begin", _limit)
    event.listen(made.sync_engine, "handle_error", _leave_read_only)
    return made


def _refuse_ended(connection: DBAPIConnection, *_: object) -> None:
    """Have the pool replace a connection that Postgres closed while it was idle.

    Then there is something to read, if only the end of the stream; checking the socket costs no
    round trip. Without this, the first request after a restart of Postgres would fail, even hours
    later.
    """
    descriptor = connection.driver_connection.pgconn.socket
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):
        raise InvalidatePoolError


def _limit(connection: Connection) -> None:
    """Behind a pooler, set for one transaction what must not be set for the session."""
    session = connection.connection.driver_connection
    if isinstance(session, Session) and session.is_pooled and not session.autocommit:
        limits = {**LIMITS, **session.own_limits}
        connection.exec_driver_sql(f"SELECT {expressions(limits, is_local='true')}")


def lock_timeout_ms(connection: AsyncConnection) -> int | None:
    """How long `connection` waits for a lock, unless its transaction was told otherwise."""
    session = _session(connection)
    return None if session is None else session.own_limits.get("lock_timeout")


def is_pooled(connection: AsyncConnection) -> bool:
    """Whether there is a pooler in between, so that limits last for one transaction only."""
    session = _session(connection)
    return session is not None and session.is_pooled


@asynccontextmanager
async def single(database: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection for one statement, which commits itself: no BEGIN, no COMMIT.

    Behind a pooler it is in a transaction all the same, because limits last for one.
    """
    async with database.connect() as connection:
        if not is_pooled(connection):
            await connection.execution_options(isolation_level="AUTOCOMMIT")
        async with connection.begin():
            yield connection


def _session(connection: AsyncConnection) -> Session | None:
    proxied = connection.sync_connection
    session = proxied.connection.driver_connection if proxied is not None else None
    return session if isinstance(session, Session) else None


def _leave_read_only(context: ExceptionContext) -> None:
    """Drop every connection to a server that accepts no writes: another may be primary now."""
    if outage.sqlstate(context.original_exception) == outage.READ_ONLY:
        context.is_disconnect = True


@asynccontextmanager
async def briefly(database: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction for work that can be postponed: it gives up if it does not get a lock soon."""
    async with database.begin() as connection:
        await connection.execute(BRIEFLY)
        yield connection


async def refuse_if_unfit(database: AsyncEngine) -> None:
    """Raise UnfitDatabase if jobs would not be safe, or could not be stored: see `fitness`."""
    async with database.connect() as connection:
        seen = (await connection.execute(text(fitness.LOOK))).mappings().one()
        fitness.refuse(dict(seen))
