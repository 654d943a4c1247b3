"""A pooler between us and Postgres: whether our session is ours alone.

An advisory lock, like anything else that lives as long as its session, is worthless if a pooler
gives the session to another client between two transactions: the lock outlives its client.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg

from ledger.errors import UnfitDatabase
from ledger.session import BriefSession, parameters

LOOKS = 3  # other clients come and go: a single check may happen to see nothing


def refuse_shared_session(connection: psycopg.Connection[Any], url: str) -> None:
    """Raise UnfitDatabase if our session is shared with others.

    `connection` is to `url`, and in autocommit. A second one opens a transaction: under transaction
    pooling it gets the session that we have left just now, or we get another one for our next
    statement.
    """
    if pid(connection) == connection.info.backend_pid:
        return  # the process that greeted us is the one that answers: no pooler
    told = parameters(url, application_name="relais probe")
    for _ in range(LOOKS):
        ours = pid(connection)
        try:
            with closing(BriefSession.connect(**told, autocommit=True)) as other:
                other.execute("BEGIN")
                is_shared = pid(other) == ours or pid(connection) != ours
                other.execute("ROLLBACK")
        except psycopg.OperationalError:
            return  # the pool is full; as far as can be seen, sessions are kept
        if is_shared:
            raise shared()


def pid(connection: psycopg.Connection[Any]) -> int:
    """The server process that answers at this moment."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0


def shared() -> UnfitDatabase:
    """What to say of a session that is not ours alone."""
    sentence = (
        "There is a pooler between Relais and Postgres that shares sessions (transaction pooling)."
    )
    remedy = (
        "Set RELAIS_DIRECT_DATABASE_URL to the server itself: workers prove that they are alive"
        " with a session's lock, and migrations take one too. Or use session pooling."
    )
    return UnfitDatabase(sentence, remedy=remedy)
