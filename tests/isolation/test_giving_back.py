"""A worker whose fork server dies gives the job back: no attempt is lost, no death is counted."""

from __future__ import annotations

import os
import signal
from typing import Any

from runtime.settings import Settings
from tests.isolation.processes import servers_of
from tests.waiting import wait_for
from tests.workers.conftest import Ledger, ledger
from tests.workers.process import WorkerProcess

__all__ = ["ledger"]  # the fixture


async def test_an_interrupted_job_costs_nothing(settings: Settings, ledger: Ledger) -> None:
    (job_id,) = await ledger.accept(kind="test.scripted", mode="spin")

    async def again() -> Any:
        row = await ledger.row(job_id)
        return row if row.state == "running" and row.attempt == 2 else None

    with WorkerProcess(settings) as worker:
        await wait_for(lambda: ledger.runs(job_id) == 1)
        (server,) = servers_of(worker.process.pid)
        os.kill(server, signal.SIGKILL)
        row: Any = await wait_for(again)
        assert (row.uncounted, row.deaths, row.alone) == (1, 0, False)
        assert await ledger.path(job_id) == ["ready", "running", "ready", "running"]
