"""URLs that name several servers: the one that takes writes is found, before and after it changes."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger import database as ledger_database
from ledger import migrate, outage
from ledger.errors import UnfitDatabase
from ledger.presence import Presence
from ops.stack import Postgres
from runtime.settings import Settings
from tests.ledger import jobs
from tests.waiting import wait_for

PASSWORD = "the same on both, with @ and %"


class Pair:
    """Two servers, of which one takes writes."""

    def __init__(self, left: Postgres, right: Postgres) -> None:
        self.servers = (left, right)

    def lead(self, leader: Postgres) -> None:
        """From now on `leader` takes writes and the other does not; connections stay."""
        for server in self.servers:
            value = "off" if server is leader else "on"
            with psycopg.connect(server.superuser_url, autocommit=True) as connection:
                # In two: a reload must not come before what it shall read.
                connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
                connection.execute("SELECT pg_reload_conf()")
        for server in self.servers:
            _wait_until_it_says(server, "off" if server is leader else "on")

    def urls(self) -> dict[str, str]:
        """Ways to say it; all of them mean the same."""
        left, right = self.servers
        where = left.url.split("@")[0]
        ports = f"{left.port},{right.port}"
        quoted = PASSWORD.replace("'", "\\'")
        wanted = "target_session_attrs=read-write"
        return {
            "hosts": f"{where}@127.0.0.1:{left.port},127.0.0.1:{right.port}/relais?{wanted}",
            "query": f"{where}@/relais?host=127.0.0.1,127.0.0.1&port={ports}&{wanted}",
            "driver": f"{where}@127.0.0.1:{left.port},127.0.0.1:{right.port}/relais?{wanted}".replace(
                "postgresql://", "postgresql+psycopg://"
            ),
            "keywords": f"host=127.0.0.1,127.0.0.1 port={ports} user=relais dbname=relais"
            f" password='{quoted}' {wanted}",
        }


def _wait_until_it_says(server: Postgres, value: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        while connection.execute("SHOW default_transaction_read_only").fetchone() != (value,):
            pass


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    folder = Path(tempfile.mkdtemp(prefix="relais-pair-"))
    folder.chmod(0o711)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        left, right = (
            stack.enter_context(
                Postgres(folder / name, password=PASSWORD, programs_dir=folder / "programs")
            )
            for name in ("left", "right")
        )
        for server in (left, right):
            migrate.migrate(server.url, "pre")
        yield Pair(left, right)


@pytest.fixture
def pair(servers: Pair) -> Pair:
    """The left one leads."""
    servers.lead(servers.servers[0])
    return servers


@pytest.fixture(params=["hosts", "query", "driver", "keywords"])
def url(request: pytest.FixtureRequest, pair: Pair) -> str:
    """Both servers, in every way to name them."""
    return pair.urls()[request.param]


def settings_for(url: str) -> Settings:
    return Settings.model_validate({"database_url": url, "heartbeat_s": 0.1})


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = ledger_database.engine(settings_for(url))
    yield made
    await made.dispose()


async def port(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SHOW port"))).scalar_one())


async def test_whoever_takes_writes_is_found(engine: AsyncEngine, pair: Pair) -> None:
    left, right = pair.servers
    assert await port(engine) == left.port
    await jobs.accept(engine, jobs.new_job())
    pair.lead(right)
    await engine.dispose()
    assert await port(engine) == right.port
    await jobs.accept(engine, jobs.new_job())


async def test_presence_and_migrations_find_whoever_takes_writes(url: str, pair: Pair) -> None:
    left, right = pair.servers
    pair.lead(right)
    migrate.migrate(url, "pre")
    presence = Presence(settings_for(url), queue="bulk")
    assert await asyncio.to_thread(presence.start)
    assert (knows(left, presence), knows(right, presence)) == (False, True)
    await asyncio.to_thread(presence.stop)


def knows(server: Postgres, presence: Presence) -> bool:
    with psycopg.connect(server.url, autocommit=True) as connection:
        found = connection.execute("SELECT FROM relais.workers WHERE id = %s", (presence.owner,))
        return found.fetchone() is not None


async def test_after_a_failover_every_connection_moves_to_the_new_leader(pair: Pair) -> None:
    """The old one goes on and answers, but takes nothing: each of its connections must go."""
    left, right = pair.servers
    engine = ledger_database.engine(settings_for(pair.urls()["hosts"]))
    presence = Presence(settings_for(pair.urls()["hosts"]), queue="bulk")
    assert await asyncio.to_thread(presence.start)
    connections = [await engine.connect() for _ in range(5)]
    for one in connections:
        assert (await one.execute(text("SHOW port"))).scalar_one() == str(left.port)
    for one in connections:
        await one.close()
    pair.lead(right)
    with pytest.raises(DBAPIError) as refused:
        await jobs.accept(engine, jobs.new_job())
    assert outage.is_passing(refused.value)
    for _ in range(8):
        await jobs.accept(engine, jobs.new_job())
        assert await port(engine) == right.port
    await wait_for(lambda: knows(right, presence), within_s=5, what="presence has moved too")
    assert presence.still_owned()
    await asyncio.to_thread(presence.stop)
    await engine.dispose()


async def test_a_lone_server_that_is_read_only_for_a_while_is_used_again(pair: Pair) -> None:
    left, right = pair.servers
    engine = ledger_database.engine(settings_for(left.url))
    await jobs.accept(engine, jobs.new_job())
    pair.lead(right)
    for _ in range(3):
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await jobs.accept(engine, jobs.new_job())
    pair.lead(left)
    await jobs.accept(engine, jobs.new_job())
    await engine.dispose()


async def test_nobody_takes_writes_is_an_outage(pair: Pair) -> None:
    left, right = pair.servers
    url = pair.urls()["hosts"].replace(f":{left.port}", ":1")
    engine = ledger_database.engine(settings_for(url))
    with pytest.raises(DBAPIError) as refused:
        await jobs.accept(engine, jobs.new_job())
    assert outage.is_passing(refused.value)
    pair.lead(right)
    await jobs.accept(engine, jobs.new_job())
    await engine.dispose()


@pytest.mark.parametrize(
    "url",
    ["postgresql://h/d%zz?password=secret", "host=a nonsense", "postgresql://h/d?nonsense=secret"],
)
def test_a_url_that_libpq_cannot_read_is_one_sentence_without_the_secret(url: str) -> None:
    with pytest.raises(UnfitDatabase, match="libpq does not understand") as refused:
        ledger_database.engine(settings_for(url))
    assert "secret" not in str(refused.value)
    assert refused.value.__suppress_context__


async def test_engine_is_shown_without_its_password(pair: Pair) -> None:
    engine: Any = ledger_database.engine(settings_for(pair.urls()["hosts"]))
    assert PASSWORD not in str(engine.url.render_as_string(hide_password=False))
    assert engine.url.database == "relais"
    await engine.dispose()
