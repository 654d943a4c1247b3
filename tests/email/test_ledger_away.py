"""Postgres stops while mails are under way: they wait for it, and none is sent twice."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ledger import database as ledger_database
from ledger import ids, migrate
from ledger.errors import LedgerUnavailable
from ops.stack import Postgres
from runtime.settings import Settings
from tasks.email import books
from tasks.outcomes import Succeeded
from tests.email.conftest import Jobs
from tests.email.scripted_relay import Act

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.email.scripted_relay import ScriptedRelay


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


async def test_a_dot_that_cannot_be_noted_is_not_sent(
    own_jobs: Jobs, relay: ScriptedRelay, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "DOT_PATIENCE_S", 0.2)
    gate = asyncio.Event()
    relay.next("DATA", Act("354 Go", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(own_jobs.run(job_id))
    await relay.reached("DATA")
    await asyncio.to_thread(postgres.stop, "immediate")
    try:
        gate.set()
        with pytest.raises(LedgerUnavailable):
            await running
    finally:
        await asyncio.to_thread(postgres.start)
    assert relay.mails == []
    assert await own_jobs.states(job_id) == ["sending"]
    assert isinstance(await own_jobs.run(job_id, attempt=2), Succeeded)
