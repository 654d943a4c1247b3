"""Real workers, killed with SIGKILL while a mail is under way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ledger import ids
from tasks.outcomes import Succeeded, Unknown
from tests.email.scripted_relay import Act

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay

WORKER = """
import asyncio, sys
from uuid import UUID
from ledger import database
from runtime import settings
from tasks.context import Context
from tasks.email.payload import Email
from tasks.email.send import send
from tests.email.conftest import MAIL

async def main():
    loaded = settings.load()
    context = Context(job_id=UUID(sys.argv[1]), attempt=1, kind="email.send", queue="template",
                      tenant="default", tries_left=7, settings=loaded,
                      database=database.engine(loaded))
    await send(Email.model_validate(MAIL), context)

asyncio.run(main())
"""


@asynccontextmanager
async def worker(jobs: Jobs, job_id: UUID) -> AsyncIterator[asyncio.subprocess.Process]:
    await jobs.context(job_id, attempt=1)  # claimed
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(job_id),
        env={
            **os.environ,
            "PYTHONPATH": os.getcwd(),  # noqa: PTH109
            "RELAIS_DATABASE_URL": jobs.settings.database_url.get_secret_value(),
            "RELAIS_SMTP_URL": jobs.smtp_url,
        },
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _kill(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("step", ["CONNECT", "MAIL", "RCPT", "DATA"])
async def test_killed_before_the_dot_it_is_sent_once(
    jobs: Jobs, relay: ScriptedRelay, step: str
) -> None:
    job_id = ids.new()
    relay.next(step, Act(gate=asyncio.Event()))
    async with worker(jobs, job_id) as process:
        await relay.reached(step)
        await _kill(process)
    assert await jobs.states(job_id) == ["sending"]
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    assert len(relay.mails) == 1


@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("policy", ["at_least_once", "at_most_once", "idempotency_header"])
async def test_killed_after_the_dot_the_policy_decides(
    jobs: Jobs, relay: ScriptedRelay, policy: str, takes: bool
) -> None:
    jobs.smtp_url = relay.url(policy=policy, idempotency_header="Key")
    job_id = ids.new()
    relay.next("DOT", Act(takes=takes, gate=asyncio.Event()))
    async with worker(jobs, job_id) as process:
        await relay.reached("DOT")
        await _kill(process)
    assert await jobs.states(job_id) == ["dot_sent"]
    outcome = await jobs.run(job_id, attempt=2)
    copies = int(takes)
    if policy == "at_most_once":
        assert isinstance(outcome, Unknown)
        assert len(relay.mails) == copies
    else:
        assert isinstance(outcome, Succeeded)
        assert len(relay.mails) == copies + 1
        assert len({mail.data for mail in relay.mails}) == 1
        assert (b"Key: " in relay.mails[0].data) == (policy == "idempotency_header")
    assert isinstance(await jobs.run(job_id, attempt=3), type(outcome))
    assert len(relay.mails) <= copies + 1


async def test_stopped_past_its_lease_and_resumed_it_sends_nothing(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    job_id = ids.new()
    gate = asyncio.Event()
    relay.next("DATA", Act("354 Go", gate=gate))
    async with worker(jobs, job_id) as process:
        await relay.reached("DATA")
        process.send_signal(signal.SIGSTOP)
        assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
        gate.set()
        process.send_signal(signal.SIGCONT)
        assert await process.wait() == 0
    assert len(relay.mails) == 1
    [row] = await jobs.rows(job_id)
    assert (row.attempt, row.tries) == (2, 1)
