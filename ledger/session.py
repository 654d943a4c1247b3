"""One session with Postgres: the parameters for libpq, and the settings of the session.

The URL is read by libpq alone, so whatever libpq understands works: several hosts, keywords and
values, certificates. Settings are made after connecting, because a pooler refuses the `options`
of a URL.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import conninfo

from ledger.errors import UnfitDatabase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg.abc import PQGen
    from psycopg.adapt import AdaptersMap

Value = TypeVar("Value")

STATEMENT_TIMEOUT_MS = 60_000
# Our transactions wait for nothing but Postgres; a client silent for this long is frozen or cut
# off, and what it has locked is needed: reclaiming and claiming skip locked rows.
FROZEN_AFTER_MS = 10_000
# By the time limit of a statement, a server that is up has responded, if only with an error.
ANSWER_WITHIN_S = STATEMENT_TIMEOUT_MS / 1000 + 5
BRIEFLY_S = 5.0
# Defaults that a URL may override.
DEFAULTS: dict[str, str | int] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
LIMITS = {
    "statement_timeout": STATEMENT_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": FROZEN_AFTER_MS,
    "lock_timeout": 30_000,
}
# The server's side of it: no session, and none of its locks, is kept for a client that vanished.
KEEPALIVES = {
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def libpq_url(url: str) -> str:
    """`url` as libpq reads it, without SQLAlchemy's driver; `host=a,b dbname=c` stays as it is."""
    _, separator, rest = url.partition("://")
    return f"postgresql://{rest}" if separator else url


def parameters(url: str, **ours: str | int) -> dict[str, Any]:
    """Parameters for libpq: defaults, then the URL, then `ours`; UnfitDatabase for a bad URL."""
    try:
        read = conninfo.conninfo_to_dict(libpq_url(url))
    except psycopg.ProgrammingError:
        # libpq quotes what it does not understand: a part of a password, maybe.
        sentence = "libpq does not understand the database's URL."
        remedy = "Write postgresql://user:password@host:port/database, with %40 for an @ inside."
        raise UnfitDatabase(sentence, remedy=remedy) from None
    return {**DEFAULTS, "client_encoding": "utf8", **read, **ours}


def expressions(values: Mapping[str, int], *, is_local: str) -> str:
    """SQL that sets `values` when SELECTed; `is_local` is an SQL expression too."""
    return ", ".join(f"set_config('{name}', '{to}', {is_local})" for name, to in values.items())


class Session(psycopg.AsyncConnection[Any]):
    """A session with limits, which gives up on a server that accepts bytes and never responds."""

    is_pooled = False  # whether other clients may get our session between two transactions
    own_limits: Mapping[str, int] = MappingProxyType({})  # if they differ from the usual ones

    @classmethod
    async def begin(
        cls, told: Mapping[str, Any], *, context: AdaptersMap, own_limits: Mapping[str, int]
    ) -> Session:
        """Connect, and set what may be set for the whole session."""
        session = await cls.connect(**told, autocommit=True, context=context)
        session.own_limits = own_limits
        try:
            await session.limit()
            await session.set_autocommit(False)
        except BaseException:
            await session.close()
            raise
        return session

    async def limit(self) -> None:
        """Set the limits, unless the process that answers is not the one that greeted us: a pooler.

        Then another client may get the session next, so nothing may be left behind in it.
        """
        is_pooled = f"pg_backend_pid() <> {self.info.backend_pid}"
        values = expressions({**LIMITS, **self.own_limits, **KEEPALIVES}, is_local=is_pooled)
        row = await (await self.execute(f"SELECT {is_pooled}, {values}")).fetchone()
        self.is_pooled = bool(row and row[0])
        if self.is_pooled:
            self.prepare_threshold = None

    async def wait(
        self,
        gen: PQGen[Value],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's own
    ) -> Value:
        """Like psycopg's own, but never forever."""
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, ANSWER_WITHIN_S)
        except psycopg.OperationalError as error:
            if error.sqlstate is None:  # no message from the server: it is lost, or did not respond
                self.pgconn.finish()
            raise


class BriefSession(psycopg.Connection[Any]):
    """A session for a few quick statements; no response within seconds means that it is dead."""

    def wait(self, gen: PQGen[Value], interval: float = 0.1, timeout: float | None = None) -> Value:
        """Like psycopg's own, but never for long."""
        return super().wait(gen, interval, BRIEFLY_S if timeout is None else timeout)
