"""Whose fault a refused statement is: the item's own, or nobody's here and worth another try.

The one definition for every process. Only what Postgres says about the data itself (SQLSTATE
classes 22 and 23) and what cannot be serialised is an item's own fault. Everything else passes: a
server that is gone, starting, failing over or read-only, a lock, a deadlock, a time-out, too many
connections, no room.
"""

from __future__ import annotations

import psycopg
from pydantic_core import PydanticSerializationError
from sqlalchemy.exc import SQLAlchemyError, StatementError

_OWN_CLASSES = frozenset({"22", "23"})
_UNSERIALISABLE = (UnicodeError, PydanticSerializationError)


def sqlstate(error: BaseException) -> str:
    """The five characters by which Postgres names `error`; empty where it did not speak."""
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


def _cause(error: BaseException) -> BaseException | None:
    """What SQLAlchemy has wrapped, be it the driver's word or the encoding of a value."""
    return error.orig if isinstance(error, StatementError) else error
