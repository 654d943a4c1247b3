"""Whose fault an error is: told from real errors of the driver, of SQLAlchemy and of Postgres."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import LargeBinary, TypeDecorator, literal, select, text
from sqlalchemy.exc import SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger import outage

OWN = {
    "half a character": ("SELECT CAST(:value AS text)", "\ud800"),
    "a NUL": ("SELECT CAST(:value AS text)", "a\x00b"),
    "half a character in JSON": ("SELECT CAST(:value AS jsonb)", json.dumps("\ud800")),
    "no number": ("SELECT CAST(CAST(:value AS text) AS int)", "seven"),
}
PASSING = {
    "no such function": ("SELECT relais.no_such_function(CAST(:value AS text))", "a"),
    "read-only": ("SET TRANSACTION READ ONLY; CREATE TABLE t ()", None),
}


async def _error(database: AsyncEngine, sql: str, value: object) -> Exception:
    values = {} if value is None else {"value": value}
    async with database.connect() as connection:
        with pytest.raises((SQLAlchemyError, UnicodeError)) as caught:
            await connection.execute(text(sql), values)
    return caught.value


@pytest.mark.parametrize("name", OWN)
async def test_what_cannot_be_written_is_the_items_own_fault(
    name: str, database: AsyncEngine
) -> None:
    error = await _error(database, *OWN[name])

    assert outage.is_own_fault(error)
    assert not outage.is_passing(error)


@pytest.mark.parametrize("name", PASSING)
async def test_what_the_server_refuses_for_its_own_reasons_passes(
    name: str, database: AsyncEngine
) -> None:
    error = await _error(database, *PASSING[name])

    assert not outage.is_own_fault(error)
    assert outage.is_passing(error)


class Encoded(TypeDecorator[bytes]):
    """Fails as any type does that prepares its values in Python."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: object, dialect: object) -> bytes:
        del dialect
        return str(value).encode()


async def test_what_sqlalchemy_wraps_is_told_by_its_cause(database: AsyncEngine) -> None:
    statement = select(literal("\ud800", Encoded()))
    async with database.connect() as connection:
        with pytest.raises(StatementError) as caught:
            await connection.execute(statement)

    assert isinstance(caught.value.orig, UnicodeEncodeError)
    assert outage.is_own_fault(caught.value)
    assert not outage.is_passing(caught.value)
