"""Postgres stops or takes no writes while mails are under way: they wait; none is sent twice."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from pydantic import SecretStr

from lab.chaos.proxy import Link, Proxy, Trap
from ledger import database as ledger_database
from ledger import ids, migrate
from ops.stack import Postgres
from runtime.settings import Settings
from tasks.email import message_writer
from tasks.email.payload import Email
from tasks.email.send import send
from tasks.outcomes import Snooze, Succeeded, Unknown
from tests.email.conftest import MAIL, Jobs
from tests.email.scripted_relay import Act
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.email.scripted_relay import ScriptedRelay

POLICIES = ["at_least_once", "at_most_once"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="relais-mail-"))
    folder.chmod(0o711)
    with Postgres(folder / "postgres") as server:
        migrate.migrate(server.url, "pre")
        yield server
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def own_jobs(postgres: Postgres, relay: ScriptedRelay, tmp_path: Path) -> AsyncIterator[Jobs]:
    settings = Settings.model_validate({"database_url": postgres.url, "data_dir": tmp_path})
    engine = ledger_database.engine(settings)
    yield Jobs(engine, settings, relay.url())
    await engine.dispose()


async def _restart(postgres: Postgres) -> None:
    await asyncio.to_thread(postgres.stop, "immediate")
    await asyncio.to_thread(postgres.start)


@pytest.mark.parametrize("step", ["DATA", "DOT"])
async def test_a_restart_around_the_dot_costs_nothing(
    own_jobs: Jobs, relay: ScriptedRelay, postgres: Postgres, step: str
) -> None:
    gate = asyncio.Event()
    relay.next(step, Act("354 Go" if step == "DATA" else "250 2.0.0 Taken", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(own_jobs.run(job_id))
    await relay.reached(step)
    await asyncio.to_thread(postgres.stop, "immediate")
    gate.set()
    await asyncio.to_thread(postgres.start)
    assert isinstance(await running, Succeeded)
    assert len(relay.mails) == 1
    assert await own_jobs.states(job_id) == ["sent"]


@asynccontextmanager
async def _read_only(postgres: Postgres) -> AsyncIterator[None]:
    """As after a failover, when the old primary has become a standby."""
    await _set_read_only(postgres, is_on=True)
    try:
        yield
    finally:
        await _set_read_only(postgres, is_on=False)


async def _set_read_only(postgres: Postgres, *, is_on: bool) -> None:
    async with await psycopg.AsyncConnection.connect(
        postgres.superuser_url, autocommit=True, options="-c default_transaction_read_only=off"
    ) as connection:
        word = "on" if is_on else "off"
        await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {word}")
        await connection.execute("SELECT pg_reload_conf()")

    async def is_so() -> bool:
        async with await psycopg.AsyncConnection.connect(postgres.url) as connection:
            shown = await (await connection.execute("SHOW transaction_read_only")).fetchone()
        return shown == (word,)

    await wait_for(is_so)


def _is_waiting(caplog: pytest.LogCaptureFixture) -> bool:
    return any(record.getMessage() == "messages.waiting" for record in caplog.records)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("step", ["DATA", "DOT"])
async def test_a_server_that_turns_read_only_around_the_dot_costs_nothing(
    own_jobs: Jobs,
    relay: ScriptedRelay,
    postgres: Postgres,
    caplog: pytest.LogCaptureFixture,
    *,
    step: str,
    policy: str,
) -> None:
    gate = asyncio.Event()
    relay.next(step, Act("354 Go" if step == "DATA" else "250 2.0.0 Taken", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(own_jobs.run(job_id, policy=policy))
    await relay.reached(step)
    async with _read_only(postgres):
        gate.set()
        await wait_for(lambda: _is_waiting(caplog) or running.done())
        assert not running.done(), running
    assert isinstance(await running, Succeeded)
    assert len(relay.mails) == 1
    assert await own_jobs.states(job_id) == ["sent"]


async def test_a_250_in_hand_outlives_the_jobs_own_time(
    own_jobs: Jobs, relay: ScriptedRelay, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()
    relay.next("DOT", Act("250 2.0.0 Taken", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(own_jobs.run(job_id))
    await relay.reached("DOT")
    async with _read_only(postgres):
        gate.set()
        await wait_for(lambda: _is_waiting(caplog))
        running.cancel()  # as its time-out does
        await asyncio.wait([running], timeout=0.3)
        assert not running.done()
    assert isinstance(await running, Succeeded)
    assert await own_jobs.states(job_id) == ["sent"]


async def test_a_worker_that_must_leave_waits_for_postgres_no_longer_than_told(
    own_jobs: Jobs, relay: ScriptedRelay, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """What the next attempt then says of the relay must be true: it did answer the dot."""
    gate = asyncio.Event()
    relay.next("DOT", Act("250 2.0.0 Taken", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(own_jobs.run(job_id, policy="at_most_once"))
    await relay.reached("DOT")
    async with _read_only(postgres):
        gate.set()
        await wait_for(lambda: _is_waiting(caplog))
        message_writer.leave(within_s=0.1)
        outcome = await running
        assert isinstance(outcome, Snooze)
        assert "read-only transaction" in outcome.reason
    assert await own_jobs.states(job_id) == ["dot_sent"]
    later = await own_jobs.run(job_id, attempt=2, policy="at_most_once")
    assert isinstance(later, Unknown)
    assert "no reply to the dot was recorded" in later.reason
    assert len(relay.mails) == 1


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_dot_that_cannot_be_noted_is_not_sent(
    own_jobs: Jobs,
    relay: ScriptedRelay,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    monkeypatch.setattr(message_writer, "DOT_PATIENCE_S", 0.2)
    gate = asyncio.Event()
    relay.next("DATA", Act("354 Go", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(own_jobs.run(job_id, policy=policy))
    await relay.reached("DATA")
    async with _read_only(postgres):
        gate.set()
        await wait_for(lambda: relay.unfinished)  # it has hung up, and waits to take the mark back
    outcome = await running
    assert isinstance(outcome, Snooze)  # no fault of the mail's: it costs no attempt
    assert "read-only transaction" in outcome.reason
    assert relay.mails == []
    assert await own_jobs.states(job_id) == ["pending"]
    assert isinstance(await own_jobs.run(job_id, attempt=2, policy=policy), Succeeded)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_dots_mark_whose_commit_was_never_confirmed_is_taken_back(
    own_jobs: Jobs,
    relay: ScriptedRelay,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    """It stands in the ledger, and yet no dot went out: nothing is unknown about that mail."""
    monkeypatch.setattr(message_writer, "DOT_PATIENCE_S", 0.2)
    proxy = Proxy(postgres.port)
    await proxy.start()

    async def refuse_from_now_on(_: Link) -> None:
        proxy.is_refusing = True

    proxy.traps = [Trap("down", re.compile(rb"UPDATE 1\0"), "cut", callback=refuse_from_now_on)]
    url = postgres.url.replace(f":{postgres.port}/", f":{proxy.port}/")
    own = own_jobs.settings.model_copy(update={"database_url": SecretStr(url)})
    through_proxy = ledger_database.engine(own)
    job_id = ids.new()
    context = {"database": through_proxy}
    running = asyncio.create_task(own_jobs.run(job_id, policy=policy, context=context))
    await wait_for(lambda: relay.unfinished)
    assert await own_jobs.states(job_id) == ["dot_sent"]
    proxy.heal()
    assert isinstance(await running, Snooze)
    assert await own_jobs.states(job_id) == ["pending"]
    assert isinstance(await own_jobs.run(job_id, attempt=2, policy=policy), Succeeded)
    assert len(relay.mails) == 1
    await through_proxy.dispose()
    await proxy.stop()


async def test_a_mail_that_cannot_be_opened_in_the_books_waits_uncounted(
    own_jobs: Jobs, relay: ScriptedRelay, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_writer, "PREPARE_PATIENCE_S", 0.2)
    job_id = ids.new()
    context = await own_jobs.context(job_id, attempt=1)
    async with _read_only(postgres):
        outcome = await send(Email.model_validate(MAIL), context)
    assert isinstance(outcome, Snooze)
    assert "read-only transaction" in outcome.reason
    assert relay.connections == 0
