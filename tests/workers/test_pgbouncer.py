"""Worker processes that reach Postgres through the real PgBouncer."""

from __future__ import annotations

import pytest

from runtime.settings import Settings
from tests.pgbouncer import PoolMode, pgbouncer
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.process import WorkerProcess


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_killed_workers_jobs_run_elsewhere_through_pgbouncer(
    settings: Settings, ledger: Ledger, mode: PoolMode
) -> None:
    """Its lock goes with it: a session of its own is cleaned, a shared one never had the lock."""
    direct = settings.require_database_url()
    with pgbouncer(direct, mode=mode) as pooled:
        urls = {"database_url": pooled}
        if mode == "transaction":
            urls["direct_database_url"] = direct
        with WorkerProcess(settings, **urls) as doomed:
            mine = await ledger.accept(mode="hang", count=12)
            await wait_for(lambda: all(ledger.runs(job_id) == 1 for job_id in mine))
            with WorkerProcess(settings, **urls) as other:
                await wait_for(lambda: "ready." in other.output)
                doomed.kill()
                await wait_for(
                    lambda: all(ledger.runs(job_id) == 2 for job_id in mine),
                    what="all run elsewhere",
                )
                quick = await ledger.accept(count=100)
                for job_id in quick:
                    assert (await ledger.reaches(job_id, "succeeded")).attempt == 1


async def test_worker_behind_transaction_pooling_without_a_direct_way_claims_nothing(
    settings: Settings, ledger: Ledger
) -> None:
    (job_id,) = await ledger.accept()
    with (
        pgbouncer(settings.require_database_url(), mode="transaction") as pooled,
        WorkerProcess(settings, database_url=pooled) as worker,
    ):
        await wait_for(lambda: worker.output.count("presence.refused") >= 2, what="it says why")
        assert "RELAIS_DIRECT_DATABASE_URL" in worker.output
        row = await ledger.row(job_id)
        assert (row.state, row.attempt) == ("ready", 0)
