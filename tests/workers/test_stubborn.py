"""Handlers that go on although they were cancelled take no slot with them, and no worker."""

from __future__ import annotations

import asyncio
import signal
from typing import Any
from uuid import UUID

import pytest

from runtime.settings import Settings
from tests.ledger import jobs
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.in_process import RunningEngine
from tests.workers.process import WorkerProcess

KINDS = "tests.scripted_kind,tests.workers.odd_kind"


async def stubborn(ledger: Ledger, *, for_s: float, timeout_s: float) -> list[UUID]:
    new = [
        jobs.new_job(
            kind="test.odd",
            queue="template",
            payload={"swallows_s": for_s},
            timeout_s=timeout_s,
            max_attempts=1,
        )
        for _ in range(2)
    ]
    await ledger.accept_jobs(*new)
    return [job.id for job in new]


async def test_after_its_time_it_is_left_to_itself_and_its_slot_is_free(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.executor.STUBBORN_S", 0.5)
    ids = await stubborn(ledger, for_s=4.0, timeout_s=1.0)
    with RunningEngine(settings, concurrency_template=2) as running:
        for job_id in ids:
            row = await ledger.reaches(job_id, "failed")
            assert row.reason == "out of attempts (1): timed out after 1 s"
        (after,) = await ledger.accept()
        await ledger.reaches(after, "succeeded")
        assert running.engine.held() == []
        await wait_for(lambda: not _attempts(running), what="they have ended by themselves")
    for job_id in ids:
        assert (await ledger.path(job_id))[-1] == "failed"


def _attempts(running: RunningEngine) -> list[asyncio.Task[Any]]:
    assert running.engine._loop is not None
    return [task for task in asyncio.all_tasks(running.engine._loop) if "Attempt" in repr(task)]


async def test_it_does_not_keep_its_worker_from_stopping(
    settings: Settings, ledger: Ledger
) -> None:
    ids = await stubborn(ledger, for_s=60.0, timeout_s=90.0)
    with WorkerProcess(settings, kinds=KINDS, grace_s=0.2) as worker:
        for job_id in ids:
            await ledger.reaches(job_id, "running")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert "engine.stopped" in worker.output  # it was not given up on
        assert worker.output.count("job.left_to_itself") == 2
    for job_id in ids:
        row = await ledger.row(job_id)
        assert (row.state, row.reason) == ("ready", "its worker was shutting down")
