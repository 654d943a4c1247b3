"""Behind the dot a mail hears the relay out: past its job's time, and at the end of its worker."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from tasks import kinds
from tests.email.conftest import MAIL
from tests.email.scripted_relay import Act
from tests.ledger import jobs as ledger_jobs
from tests.workers.conftest import Ledger
from tests.workers.in_process import RunningEngine
from tests.workers.process import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from runtime.settings import Settings
    from tests.email.scripted_relay import ScriptedRelay

POLICIES = ["at_least_once", "at_most_once"]


@pytest.fixture
def ledger(database: AsyncEngine, tmp_path: Path) -> Ledger:
    return Ledger(database, tmp_path)


@pytest.fixture
def own(settings: Settings, relay: ScriptedRelay) -> Settings:
    return settings.model_copy(update={"smtp_url": SecretStr(relay.url())})


async def _accept(ledger: Ledger, **fields: Any) -> UUID:
    payload = {**MAIL, **fields.pop("payload", {})}
    values = {"kind": "email.send", "queue": "template", "timeout_s": 900.0, "max_attempts": 8}
    lane = kinds.lane_of("email.send", "default", payload)
    job = ledger_jobs.new_job(**{**values, **fields, "payload": payload, "lane": lane})
    await ledger.accept_jobs(job)
    return job.id


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_relay_slower_than_the_jobs_time_is_heard_out(
    own: Settings,
    ledger: Ledger,
    relay: ScriptedRelay,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    """The next attempt sent the mail again, or called it unknown, while the relay still thought."""
    monkeypatch.setattr("workers.executor.STUBBORN_S", 0.3)
    gate = asyncio.Event()
    relay.always("DOT", Act("250 2.0.0 Taken", gate=gate))
    job_id = await _accept(ledger, timeout_s=0.5, payload={"policy": policy})
    with RunningEngine(own):
        await relay.reached("DOT")
        await asyncio.sleep(2.5)  # three times as long as a stubborn handler gets
        row = await ledger.row(job_id)
        assert (row.state, row.attempt) == ("running", 1)
        gate.set()
        await ledger.reaches(job_id, "succeeded")
    assert len(relay.mails) == 1


async def test_before_the_dot_the_jobs_time_counts(
    own: Settings, ledger: Ledger, relay: ScriptedRelay
) -> None:
    relay.next("DATA", Act("354 Go", gate=asyncio.Event()))
    job_id = await _accept(ledger, timeout_s=0.5)
    with RunningEngine(own):
        row = await ledger.reaches(job_id, "scheduled")
        assert row.reason == "timed out after 0.5 s"
    assert relay.mails == []


async def test_an_answer_within_the_grace_of_a_stopping_worker_is_noted(
    own: Settings, ledger: Ledger, relay: ScriptedRelay
) -> None:
    gate = asyncio.Event()
    relay.next("DOT", Act("250 2.0.0 Taken", gate=gate))
    job_id = await _accept(ledger)
    with WorkerProcess(own, grace_s=20) as worker:
        await relay.reached("DOT")
        worker.signal(signal.SIGTERM)
        gate.set()
        assert await asyncio.to_thread(worker.wait) == 0
    assert (await ledger.row(job_id)).state == "succeeded"


@pytest.mark.parametrize(
    ("policy", "state"), [("at_least_once", "scheduled"), ("at_most_once", "unknown")]
)
async def test_past_the_grace_of_its_worker_a_mail_ends_with_what_is_known(
    own: Settings, ledger: Ledger, relay: ScriptedRelay, policy: str, state: str
) -> None:
    """It was given back while the relay still had its dot: sent again at once, or untruly unknown."""
    relay.next("DOT", Act(gate=asyncio.Event()))
    job_id = await _accept(ledger, payload={"policy": policy})
    with WorkerProcess(own, grace_s=0.3) as worker:
        await relay.reached("DOT")
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait) == 0
        assert "job.left_to_itself" not in worker.output
        assert "engine.stopped" in worker.output
    row = await ledger.row(job_id)
    assert row.state == state
    assert "no clear reply to the dot: its worker had to stop" in row.reason
