"""Who is at fault when a statement is refused: the item itself, or none, so that it can be retried.

The one definition for every process. Only what Postgres says about the data itself (SQLSTATE
classes 22 and 23) and what cannot be serialised is an item's own fault. Everything else is
transient: a server that is down, starting, failing over or read-only, a lock, a deadlock, a
timeout, too many connections, no disk space.
"""

from __future__ import annotations

import psycopg
from pydantic_core import PydanticSerializationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

_OWN_CLASSES = frozenset({"22", "23"})
READ_ONLY = "25006"  # a server that is failing over, or the wrong one
# 08: connection lost; 25: read-only; 53: out of disk, memory or connections; 57P01-57P05: shut
# down; 58: its files are out of reach. Empty: the connection broke before any message.
_AWAY_CLASSES = frozenset({"", "08", "25", "53", "57", "58"})
_UNSERIALISABLE = (UnicodeError, PydanticSerializationError)


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of `error`; empty if there was no message from Postgres."""
    return str(getattr(_cause(error), "sqlstate", None) or "")


def is_own_fault(error: BaseException) -> bool:
    """Whether the item itself can never be written as it is."""
    cause = _cause(error)
    if isinstance(cause, _UNSERIALISABLE):
        return True
    state = sqlstate(error)
    if state:
        return state[:2] in _OWN_CLASSES
    return isinstance(cause, psycopg.DataError)  # refused by the driver: a NUL in a text


def is_passing(error: BaseException) -> bool:
    """Whether the same statement may well succeed later."""
    known = (SQLAlchemyError, psycopg.Error, OSError, TimeoutError)
    return isinstance(error, known) and not is_own_fault(error)


def is_away(error: BaseException) -> bool:
    """Whether Postgres accepts nothing at all for now, rather than refusing this one statement."""
    if not is_passing(error):
        return False
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, DBAPIError | psycopg.Error):
        return sqlstate(error)[:2] in _AWAY_CLASSES
    return isinstance(error, OSError | TimeoutError | PoolTimeout)


def _cause(error: BaseException) -> BaseException | None:
    """What SQLAlchemy has wrapped: an error of the driver, or of encoding a value."""
    return error.orig if isinstance(error, StatementError) else error
