"""The death of a job's own process counts against the job only where it was the job's doing."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from runtime.settings import Settings
from tests.isolation.processes import children_of, is_running
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.in_process import RunningEngine


async def begun(ledger: Ledger, ids: list[UUID], *, attempt: int) -> list[int]:
    """The processes of our children, once these jobs are in their handlers."""

    async def all_run() -> bool:
        rows = [await ledger.row(job_id) for job_id in ids]
        return all(row.attempt >= attempt for row in rows) and all(
            ledger.runs(job_id) >= attempt for job_id in ids
        )

    await wait_for(all_run, within_s=30, what=f"attempt {attempt} of all")
    return children_of(os.getpid())


def kill(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
    for pid in pids:
        os.kill(pid, number)


async def test_killing_every_child_again_and_again_puts_no_innocent_aside(
    settings: Settings, ledger: Ledger
) -> None:
    """B24: four kills, and 14 of 14 jobs that ran alone had failed as poison."""
    ids = await hanging(ledger, 4)
    with RunningEngine(settings, concurrency_template=8):
        for attempt in (1, 2, 3, 4):
            kill(await begun(ledger, ids, attempt=attempt))
        await begun(ledger, ids, attempt=5)
        for job_id in ids:
            row = await ledger.row(job_id)
            assert (row.state, row.deaths, row.uncounted) == ("running", 0, 4)
            reasons = await events(ledger, job_id)
            assert sum("This does not count against it" in (each or "") for each in reasons) == 4


async def hanging(ledger: Ledger, count: int) -> list[UUID]:
    """Jobs in processes of their own that note each beginning and go on for long."""
    return await ledger.accept(kind="test.scripted", mode="spin", count=count)


async def events(ledger: Ledger, job_id: UUID) -> list[str | None]:
    async with ledger.database.connect() as connection:
        found = await connection.execute(
            text("SELECT reason FROM relais.job_events WHERE job_id = :id ORDER BY seq"),
            {"id": job_id},
        )
        return list(found.scalars())


async def test_a_child_that_is_killed_alone_counts_against_its_job(
    settings: Settings, ledger: Ledger
) -> None:
    (poison,) = await hanging(ledger, 1)
    neighbours = await ledger.accept(kind="test.scripted", seconds=20.0, count=2)
    with RunningEngine(settings, concurrency_template=3):
        for attempt in (1, 2, 3):
            await begun(ledger, [poison], attempt=attempt)
            kill([_process_of(ledger, poison)])
        row = await ledger.reaches(poison, "failed")
        assert row.reason.startswith("poison")
        reasons = await events(ledger, poison)
        assert sum("This counts against it: death" in (each or "") for each in reasons) == 3
        for job_id in neighbours:
            assert (await ledger.row(job_id)).attempt == 1


def _process_of(ledger: Ledger, job_id: UUID) -> int:
    lines = [each.split() for each in ledger.effects.read_text().splitlines()]
    return int(next(pid for job, _, pid in reversed(lines) if job == str(job_id)))


async def test_jobs_that_end_themselves_do_not_hide_in_each_others_company(
    settings: Settings, ledger: Ledger
) -> None:
    poison = await ledger.accept(kind="test.scripted", mode="abort", count=4)
    with RunningEngine(settings, concurrency_template=8):
        for job_id in poison:
            row = await ledger.reaches(job_id, "failed", within_s=30)
            assert row.reason.startswith("poison")
            assert ledger.runs(job_id) == 3


async def test_idle_neighbours_that_die_too_speak_for_a_job(
    settings: Settings, ledger: Ledger
) -> None:
    with RunningEngine(settings, concurrency_template=3):
        for job_id in await ledger.accept(kind="test.scripted", seconds=0.5, count=3):
            await ledger.reaches(job_id, "succeeded")  # three warm children
        (innocent,) = await hanging(ledger, 1)
        children = await begun(ledger, [innocent], attempt=1)
        assert len(children) == 3
        kill(children)
        await begun(ledger, [innocent], attempt=2)
        row = await ledger.row(innocent)
        assert (row.state, row.deaths) == ("running", 0)


async def test_nobody_is_excused_for_ever(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that have each other killed, by taking all memory say, come to an end."""
    monkeypatch.setattr("workers.deaths.EXCUSED_MAX", 1)
    poison = await ledger.accept(kind="test.scripted", mode="kill", count=2)
    with RunningEngine(settings, concurrency_template=2):
        for job_id in poison:
            row = await ledger.reaches(job_id, "failed", within_s=40)
            assert row.reason.startswith("poison")


async def test_a_cancel_while_a_death_is_being_written_loses_no_slot(
    settings: Settings, ledger: Ledger
) -> None:
    """B18."""
    with RunningEngine(settings, concurrency_template=1) as running:
        (doomed,) = await hanging(ledger, 1)
        children = await begun(ledger, [doomed], attempt=1)
        async with ledger.database.begin() as connection:
            await connection.execute(text("LOCK TABLE relais.jobs IN EXCLUSIVE MODE"))
            kill(children, signal.SIGSEGV)
            await wait_for(lambda: _writes_death(ledger), what="its death is being written")
            running.engine.cancel([(doomed, 1)])
            await _turn(running)
        (after,) = await ledger.accept(priority=9)
        await ledger.reaches(after, "succeeded")


async def _turn(running: RunningEngine) -> None:
    """Until the engine's loop has dealt with what it was told."""
    done = asyncio.Event()
    here, there = asyncio.get_running_loop(), running.engine._loop
    assert there is not None
    there.call_soon_threadsafe(lambda: there.call_soon(here.call_soon_threadsafe, done.set))
    await done.wait()


async def _writes_death(ledger: Ledger) -> Any:
    async with ledger.database.connect() as connection:
        found = await connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock' AND query LIKE '%died%'"
            )
        )
        return found.scalar_one()


async def test_children_of_a_worker_that_stops_count_against_nobody(
    settings: Settings, ledger: Ledger
) -> None:
    (job_id,) = await hanging(ledger, 1)
    with RunningEngine(settings, concurrency_template=1):
        children = await begun(ledger, [job_id], attempt=1)
        kill(children)
        await wait_for(lambda: not any(map(is_running, children)))
    row = await ledger.row(job_id)
    assert (row.state, row.deaths, row.reason) == ("ready", 0, "its worker was shutting down")
