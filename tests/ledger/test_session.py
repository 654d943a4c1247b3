"""Sessions with a server that takes bytes and never answers."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger import database as ledger_database
from ledger import outage
from runtime.settings import Settings
from tests.proxied import half_open, proxied
from tests.waiting import within


async def test_a_session_that_nobody_answers_is_given_up_and_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.session.ANSWER_WITHIN_S", 1.0)
    async with proxied(settings) as (proxy, through):
        engine = ledger_database.engine(through)
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
        (link,) = proxy.links
        half_open(proxy, link)
        began_at = time.monotonic()
        with within(3.0), pytest.raises(DBAPIError) as refused:
            async with engine.begin() as connection:
                await connection.execute(text("SELECT 1"))
        assert time.monotonic() - began_at >= 1.0
        assert outage.is_passing(refused.value)
        async with engine.begin() as connection:
            assert (await connection.execute(text("SELECT 2"))).scalar_one() == 2
        await engine.dispose()


async def test_whoever_is_cancelled_while_nobody_answers_keeps_no_connection(
    settings: Settings,
) -> None:
    async with proxied(settings) as (proxy, through):
        engine = ledger_database.engine(through, pool_size=1)
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
        (link,) = proxy.links
        half_open(proxy, link)

        async def ask() -> None:
            async with engine.begin() as connection:
                await connection.execute(text("SELECT 1"))

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(), 0.5)
        async with engine.begin() as connection:
            assert (await connection.execute(text("SELECT 2"))).scalar_one() == 2
        await engine.dispose()


async def test_an_answer_that_is_an_error_leaves_the_session_as_it_is(settings: Settings) -> None:
    engine = ledger_database.engine(settings, pool_size=1)
    async with engine.connect() as connection:
        first = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    for statement in (
        "SELECT nonsense",
        "SELECT 1/0",
        "SET LOCAL statement_timeout = 1; SELECT pg_sleep(9)",
    ):
        with pytest.raises(DBAPIError):
            async with engine.begin() as connection:
                await connection.exec_driver_sql(statement)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() == first
    await engine.dispose()
