"""What a worker holds, and nothing else, is its own: claims, leases, connections."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from ledger import presence as ledger_presence
from runtime.settings import Settings
from tests.ledger import jobs
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.in_process import RunningEngine


async def odd(
    ledger: Ledger, count: int = 1, *, timeout_s: float = 30.0, **does: object
) -> list[UUID]:
    new = [
        jobs.new_job(kind="test.odd", queue="template", payload=does, timeout_s=timeout_s)
        for _ in range(count)
    ]
    await ledger.accept_jobs(*new)
    return [job.id for job in new]


async def test_a_claim_that_is_committed_late_is_given_back(
    settings: Settings, ledger: Ledger
) -> None:
    """B3: its COMMIT arrives when strays have been released; 15 jobs were stuck, for ever."""
    with RunningEngine(settings, concurrency_template=1) as running:
        (hanging,) = await ledger.accept(mode="hang")  # so that there is no room for claims either
        await ledger.reaches(hanging, "running")
        strays = await ledger.accept(queue="bulk", count=15)
        claimed = await jobs.claim(
            ledger.database, queue="bulk", owner=running.presence.owner, limit=15
        )
        assert sorted(job.id for job in claimed) == sorted(strays)
        for stray in strays:
            row = await ledger.reaches(stray, "ready", within_s=10)
            assert (row.attempt, row.uncounted, row.owner) == (1, 1, None)
        assert (await ledger.row(hanging)).attempt == 1


class Unproven(ledger_presence.Presence):
    """A presence that never gains its lock."""

    may = False

    def _prove_life(self) -> None:
        while not self.may:
            if self._stop.wait(0.05):
                return
        super()._prove_life()

    def start(self, *, timeout_s: float | None = 10.0) -> bool:
        del timeout_s  # nothing to wait for
        self._thread.start()
        return False


async def test_nothing_is_claimed_before_presence_was_gained(
    settings: Settings, ledger: Ledger
) -> None:
    """B4: a job of 6 s ran in four attempts at once, and was called poison."""
    (job_id,) = await ledger.accept()

    with RunningEngine(settings, presence=Unproven) as running:
        looks = running.settings.poll_s
        await asyncio.sleep(6 * looks)
        assert (await ledger.row(job_id)).state == "ready"
        running.presence.may = True  # type: ignore[attr-defined]
        assert (await ledger.reaches(job_id, "succeeded")).attempt == 1


async def test_a_job_that_does_nothing_is_done_beside_eight_that_hold_connections(
    settings: Settings, ledger: Ledger
) -> None:
    """B19: it took 23 s, for handlers had the engine's connections."""
    with RunningEngine(settings):
        await odd(ledger, 8, holds_s=8.0)
        await wait_for(lambda: _sleeping(ledger, 8), what="eight connections are held")
        (job_id,) = await ledger.accept()
        await ledger.reaches(job_id, "succeeded", within_s=1.0)


async def _sleeping(ledger: Ledger, count: int) -> bool:
    async with ledger.database.connect() as connection:
        found = await connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND query LIKE 'SELECT pg_sleep%' AND state = 'active'"
            )
        )
        return bool(found.scalar_one() == count)


async def test_a_handler_that_never_yields_keeps_its_jobs_for_a_lease_only(
    settings: Settings, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """The heartbeat has a thread of its own and went on prolonging, whatever the loop did."""
    quick: dict[str, Any] = {"lease_s": 2.0, "heartbeat_s": 0.2}
    with RunningEngine(settings, **quick) as blocked:
        (job_id,) = await odd(ledger, blocks_s=8.0)
        await ledger.reaches(job_id, "running")
        with RunningEngine(settings, **quick) as other:

            async def elsewhere() -> bool:
                row = await ledger.row(job_id)
                return bool(row.owner == other.presence.owner)

            await wait_for(elsewhere, within_s=7, what="somebody else took it over")
        assert blocked.presence.owner != other.presence.owner
        said = [
            record.__dict__["fields"]
            for record in caplog.records
            if getattr(record, "action", "") == "engine.blocked"
        ]
        assert said
        assert said[0]["kind"] == "test.odd"
        assert "odd_kind.py" in said[0]["where"]
        assert 1.0 <= said[0]["seconds"] < 3.0


async def test_what_is_held_can_be_asked_from_any_thread(
    settings: Settings, ledger: Ledger
) -> None:
    with RunningEngine(settings, concurrency_template=64) as running:
        ids = await ledger.accept(mode="hang", count=40)
        for job_id in ids:
            await ledger.reaches(job_id, "running")
        await ledger.accept(count=400)
        seen: list[set[UUID]] = []

        def ask() -> None:
            for _ in range(2_000):
                held = running.engine.held()
                assert held is not None
                seen.append({job_id for job_id, _ in held})

        asking = threading.Thread(target=ask)
        asking.start()
        await asyncio.to_thread(asking.join)
        assert len(seen) == 2_000
        assert all(set(ids) <= each for each in seen)
