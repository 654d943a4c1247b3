"""Through the real PgBouncer: sessions of one's own, and sessions that are everybody's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger import database as ledger_database
from ledger import migrate, transitions
from ledger.errors import UnfitDatabase
from ledger.models.jobs import State
from ledger.presence import Presence
from ops.stack.foreign import Foreign
from runtime.settings import Settings
from tests.ledger import jobs
from tests.pgbouncer import PoolMode, pgbouncer
from tests.waiting import wait_for


@pytest.fixture(params=["session", "transaction"])
def mode(request: pytest.FixtureRequest) -> PoolMode:
    """How PgBouncer pools."""
    chosen: PoolMode = request.param
    return chosen


@pytest.fixture
def pooled_url(database_url: str, mode: PoolMode) -> Iterator[str]:
    """The test's database through PgBouncer."""
    with pgbouncer(database_url, mode=mode) as url:
        yield url


@pytest.fixture
def pooled(settings: Settings, pooled_url: str) -> Settings:
    """Settings that lead through PgBouncer only."""
    return with_urls(settings, database_url=pooled_url)


def with_urls(settings: Settings, **urls: str) -> Settings:
    made = Settings.model_validate(urls)
    return settings.model_copy(update={name: getattr(made, name) for name in urls})


@pytest.fixture
async def engine(pooled: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine of the product through PgBouncer."""
    made = ledger_database.engine(pooled)
    yield made
    await made.dispose()


async def show(connection: Any, name: str) -> str:
    return str((await connection.execute(text(f"SHOW {name}"))).scalar_one())


async def test_the_ledger_works_through_pgbouncer(engine: AsyncEngine) -> None:
    """Forty connections' worth of statements over few sessions: none is taken for another's."""
    await ledger_database.refuse_if_unfit(engine)

    async def through_a_life(number: int) -> None:
        job = jobs.new_job(queue="bulk", tenant=f"tenant-{number}")
        await jobs.accept(engine, job)
        for _ in range(12):  # more often than psycopg waits before it prepares a statement
            async with engine.connect() as connection:
                await connection.execute(
                    text("SELECT state FROM relais.jobs WHERE id = :id"), {"id": job.id}
                )

    await asyncio.gather(*(through_a_life(number) for number in range(40)))
    claimed = await jobs.claim(engine, limit=100)
    assert len(claimed) == 40
    async with engine.begin() as connection:
        finishes = [transitions.Finish(job.id, job.attempt, State.SUCCEEDED) for job in claimed]
        done = await transitions.finish(connection, finishes)
    assert all(done.written)


async def test_limits_hold_in_every_transaction_through_pgbouncer(engine: AsyncEngine) -> None:
    for _ in range(3):
        async with engine.begin() as connection:
            assert await show(connection, "statement_timeout") == "1min"
            assert await show(connection, "idle_in_transaction_session_timeout") == "10s"
            assert await show(connection, "lock_timeout") == "30s"


async def test_nothing_of_ours_is_left_in_a_session_that_somebody_else_gets(
    engine: AsyncEngine, pooled_url: str
) -> None:
    async with engine.begin() as ours:
        pid = (await ours.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    await engine.dispose()

    def somebody_else() -> tuple[Any, ...] | None:
        with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as theirs:
            return theirs.execute(
                "SELECT pg_backend_pid(), current_setting('statement_timeout'),"
                " current_setting('lock_timeout'), (SELECT count(*) FROM pg_prepared_statements)"
            ).fetchone()

    found = await wait_for(
        lambda: row if (row := somebody_else()) and row[0] == pid else None,
        what="the session is given away",
    )
    assert found == (pid, "0", "0", 0)


async def test_statement_that_takes_too_long_is_ended_through_pgbouncer(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ledger.database", "ledger.session"):
        monkeypatch.setattr(f"{module}.LIMITS", {"statement_timeout": 300})
    with pytest.raises(DBAPIError, match="statement timeout"):
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(20)"))


async def locks(database: AsyncEngine) -> int:
    """Advisory locks in this database."""
    async with database.connect() as connection:
        counted = await connection.execute(
            text(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
        return int(counted.scalar_one())


@pytest.mark.parametrize("mode", ["session"], indirect=True)
async def test_presence_through_session_pooling_is_proof_of_life(
    pooled: Settings, database: AsyncEngine
) -> None:
    presence = Presence(pooled, queue="bulk")
    assert await asyncio.to_thread(presence.start)
    assert await locks(database) == 1
    await asyncio.to_thread(presence.stop)
    await wait_for(lambda: no_locks(database), what="PgBouncer has cleaned the session")


async def no_locks(database: AsyncEngine) -> bool:
    return await locks(database) == 0


@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
async def test_presence_refuses_transaction_pooling_with_a_sentence_and_leaves_no_lock(
    pooled: Settings, database: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The lock would stay with the pooler's session when its worker is long dead."""
    presence = Presence(pooled, queue="bulk")
    assert not await asyncio.to_thread(presence.start, timeout_s=2)
    assert await locks(database) == 0
    assert not presence.may_claim()
    await asyncio.to_thread(presence.stop)
    (record,) = [one for one in caplog.records if one.getMessage() == "presence.refused"]
    assert "RELAIS_DIRECT_DATABASE_URL" in str(vars(record))


@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
async def test_presence_goes_around_the_pooler_where_it_is_told_how(
    pooled: Settings, database: AsyncEngine, database_url: str
) -> None:
    presence = Presence(with_urls(pooled, direct_database_url=database_url), queue="bulk")
    assert await asyncio.to_thread(presence.start)
    assert await locks(database) == 1
    await asyncio.to_thread(presence.stop)
    await wait_for(lambda: no_locks(database), what="Postgres has ended the session")


@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
async def test_presence_notices_a_session_that_is_exchanged_later(
    pooled: Settings, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a look at the pooler shows nothing, the next beat that comes from elsewhere does."""
    monkeypatch.setattr("ledger.pooler.refuse_shared_session", lambda *_: None)
    quick = pooled.model_copy(update={"heartbeat_s": 0.1})
    presence = Presence(quick, queue="bulk")
    assert await asyncio.to_thread(presence.start)
    with psycopg.connect(pooled.require_database_url()) as other:
        other.execute("SELECT 1")  # takes the session that the beats used, and keeps it
        await wait_for(lambda: not presence.may_claim(), within_s=5)
    await asyncio.to_thread(presence.stop)


@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
def test_migrations_refuse_transaction_pooling(pooled_url: str) -> None:
    with pytest.raises(UnfitDatabase, match="RELAIS_DIRECT_DATABASE_URL"):
        migrate.migrate(pooled_url, "pre")


@pytest.mark.parametrize("mode", ["session"], indirect=True)
def test_migrations_go_through_session_pooling(pooled_url: str) -> None:
    migrate.migrate(pooled_url, "pre")


def test_a_full_pool_of_single_sessions_is_not_taken_for_a_shared_one(database_url: str) -> None:
    with pgbouncer(database_url, mode="session", pool_size=1) as url:
        migrate.migrate(url, "pre")


def test_the_supervisor_asks_through_pgbouncer(pooled_url: str) -> None:
    foreign = Foreign(pooled_url, connect_timeout_s=5)
    try:
        assert foreign.query("SELECT 1") == [("1",)]
        assert foreign.query("SHOW statement_timeout") == [("3s",)]
    finally:
        foreign.close()
    with psycopg.connect(pooled_url, autocommit=True) as somebody_else:
        assert somebody_else.execute("SHOW statement_timeout").fetchone() == ("0",)
