"""Whatever a handler returns or raises is its own job's end, and nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runtime.settings import Settings
from tests.ledger.jobs import new_job
from tests.workers.conftest import Ledger
from tests.workers.process import WorkerProcess

KINDS = "tests.scripted_kind,tests.workers.odd_kind"
BOTH = pytest.mark.parametrize("kind", ["test.odd", "test.odd_apart"])
REPLACED = "half \N{REPLACEMENT CHARACTER} a character"

# What the handler returns: the state of its job, and what its reason says.
RETURNED: dict[str, tuple[str, str]] = {
    "none": ("failed", "the handler returned None: return Succeeded()"),
    "dict": ("failed", "the handler returned a dict: return Succeeded(...)"),
    "class": ("failed", "the handler returned the class Succeeded: return Succeeded(...)"),
    "text": ("failed", "the handler returned str"),
    "object": ("failed", "the handler returned Mute"),
    "half": ("succeeded", ""),
    "half_key": ("succeeded", ""),
    "nul": ("succeeded", ""),
    "nan": ("succeeded", ""),
    "generator": ("succeeded", ""),
    "deep": ("failed", "its result is nested deeper than 128 levels"),
    "cycle": ("failed", "its result is not JSON"),
    "not_json": ("failed", "its result is not JSON: Unable to serialize unknown type"),
    "raising_repr": ("failed", "its result is not JSON: Unable to serialize unknown type"),
    "list": ("failed", "its result is not a JSON object but list"),
    "half_failed": ("failed", REPLACED),
    "half_unknown": ("unknown", REPLACED),
    "huge_failed": ("failed", "xxx"),
    "odd_reason": ("failed", "(Mute, whose text cannot be shown)"),
    "odd_error": ("failed", "with an exception"),
    "cancelled": ("cancelled", REPLACED),
}
RESULTS: dict[str, Any] = {
    "half": {"text": REPLACED},
    "half_key": {REPLACED: 1},
    "nul": {"text": "a\N{REPLACEMENT CHARACTER}b", "a\N{REPLACEMENT CHARACTER}": 1},
    "nan": {"numbers": [None, None, 1.5]},
    "generator": {"values": [0, 1, 2]},
    "half_failed": {"text": REPLACED},
    "half_unknown": {"text": "a\N{REPLACEMENT CHARACTER}b"},
}


async def accept(ledger: Ledger, kind: str, count: int = 1, **odd: object) -> list[UUID]:
    jobs = [new_job(kind=kind, queue="template", payload=odd, max_attempts=2) for _ in range(count)]
    await ledger.accept_jobs(*jobs)
    return [job.id for job in jobs]


@BOTH
async def test_what_a_handler_returns_is_told_and_costs_no_neighbour(
    settings: Settings, ledger: Ledger, kind: str
) -> None:
    told = {returns: (await accept(ledger, kind, returns=returns))[0] for returns in RETURNED}
    neighbours = await ledger.accept(count=60)
    with WorkerProcess(settings, kinds=KINDS) as worker:
        for returns, job_id in told.items():
            state, reason = RETURNED[returns]
            row = await ledger.reaches(job_id, "succeeded", "failed", "cancelled", "unknown")
            assert (returns, row.state, row.attempt) == (returns, state, 1)
            assert reason in (row.reason or ""), returns
            assert row.result == RESULTS.get(returns), returns
        for job_id in neighbours:
            assert (await ledger.reaches(job_id, "succeeded")).attempt == 1
        assert worker.process.poll() is None
    huge = await ledger.row(told["huge_failed"])
    assert len(huge.reason) < 20_000
    assert "[cut: it had 8,000,000 bytes]" in huge.reason
    assert "8,000,011 bytes as JSON where 1,048,576 are allowed (RELAIS_OUTCOME_MAX_BYTES)" in huge.reason  # fmt: skip
    assert len(huge.error["message"]) < 20_000
    assert len(huge.error["traceback"]) < 70_000


async def test_half_a_character_in_ten_results_fails_none_of_590_neighbours(
    settings: Settings, ledger: Ledger
) -> None:
    """B1: 54 neighbours failed, 22 stayed running for ever."""
    bad = await accept(ledger, "test.odd", count=10, returns="half")
    errors = await accept(ledger, "test.odd", count=4, raises="half_error")
    neighbours = await ledger.accept(count=590)
    with WorkerProcess(settings, kinds=KINDS):
        for job_id in (*neighbours, *bad):
            row = await ledger.reaches(job_id, "succeeded", "failed", within_s=30)
            assert (row.state, row.attempt) == ("succeeded", 1)
        for job_id in errors:
            row = await ledger.reaches(job_id, "failed")
            assert row.reason == f"out of attempts (2): ValueError: {REPLACED}"


async def test_handlers_that_return_none_do_not_stop_the_queue(
    settings: Settings, ledger: Ledger
) -> None:
    """B2: as many of them as there are slots, and nothing ran any more."""
    bad = await accept(ledger, "test.odd", count=16, returns="none")
    with WorkerProcess(settings, kinds=KINDS):
        for job_id in bad:
            assert "returned None" in (await ledger.reaches(job_id, "failed")).reason
        (after,) = await ledger.accept()
        await ledger.reaches(after, "succeeded")


async def test_results_of_8_mb_are_refused_by_themselves(
    settings: Settings, ledger: Ledger
) -> None:
    """B14: 150 of them made one batch that Postgres could not take, and the queue stood still."""
    huge = await accept(ledger, "test.odd", count=150, returns="huge")
    with WorkerProcess(settings, kinds=KINDS):
        for job_id in huge:
            row = await ledger.reaches(job_id, "failed", "succeeded", within_s=60)
            assert row.state == "failed"
            assert row.reason == (
                "it succeeded, but its result has 8,000,011 bytes as JSON where 1,048,576 are"
                " allowed (RELAIS_OUTCOME_MAX_BYTES)"
            )
        (after,) = await ledger.accept()
        await ledger.reaches(after, "succeeded")


async def test_results_that_are_allowed_to_be_large_go_out_in_batches_that_postgres_takes(
    settings: Settings, ledger: Ledger
) -> None:
    large = await accept(ledger, "test.odd", count=40, returns="huge")
    with WorkerProcess(settings, kinds=KINDS, outcome_max_bytes=16_000_000) as worker:
        for job_id in large:
            await ledger.reaches(job_id, "succeeded", within_s=60)
        assert _peak_kb(worker.process.pid) < 1_000_000


def _peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    "raises",
    ["system_exit", "keyboard_interrupt", "generator_exit", "base_exception", "mute_error",
     "task_exits", "foreign_cancel", "cancels_itself"],
)  # fmt: skip
async def test_a_runner_never_dies_whatever_a_handler_raises_or_awaits(
    settings: Settings, ledger: Ledger, raises: str
) -> None:
    bad = await accept(ledger, "test.odd", count=4, raises=raises)
    with WorkerProcess(settings, kinds=KINDS, concurrency_template=2) as worker:
        for job_id in bad:
            row = await ledger.reaches(job_id, "failed")
            assert row.reason.startswith("out of attempts (2): ")
            assert await ledger.path(job_id) == [
                "ready", "running", "scheduled", "ready", "running", "failed",
            ]  # fmt: skip
        after = await ledger.accept(count=2, seconds=0.2)
        for job_id in after:
            await ledger.reaches(job_id, "succeeded")
        assert worker.process.poll() is None


async def test_an_outcome_stands_although_the_handler_cancelled_its_own_task(
    settings: Settings, ledger: Ledger
) -> None:
    bad = await accept(ledger, "test.odd", count=4, raises="cancels_itself_and_returns")
    with WorkerProcess(settings, kinds=KINDS, concurrency_template=2):
        for job_id in bad:
            assert (await ledger.reaches(job_id, "succeeded", "failed")).state == "succeeded"
        (after,) = await ledger.accept()
        await ledger.reaches(after, "succeeded")


async def test_handlers_that_swallow_their_cancellation_lose_no_slot(
    settings: Settings, ledger: Ledger
) -> None:
    from ledger import transitions

    bad = await accept(ledger, "test.odd", count=2, swallows_s=2.0)
    with WorkerProcess(settings, kinds=KINDS, concurrency_template=2):
        for job_id in bad:
            await ledger.reaches(job_id, "running")
            async with ledger.database.begin() as connection:
                await transitions.cancel(connection, tenant="default", job_id=job_id, by="test")
        for job_id in bad:
            assert (await ledger.reaches(job_id, "succeeded", "cancelled")).state == "succeeded"
        (after,) = await ledger.accept()
        await ledger.reaches(after, "succeeded")


@BOTH
async def test_delays_that_make_no_sense_are_made_some_of(
    settings: Settings, ledger: Ledger, kind: str
) -> None:
    retries = {
        delay: (await accept(ledger, kind, retries=delay))[0]
        for delay in ("negative", "nan", "infinite", "astronomic", "text")
    }
    snoozes = {
        delay: (await accept(ledger, kind, snoozes=delay))[0]
        for delay in ("negative", "nan", "infinite", "astronomic", "text")
    }
    with WorkerProcess(settings, kinds=KINDS):
        for delay in ("negative", "nan", "text"):
            await ledger.reaches(retries[delay], "succeeded")
        await ledger.reaches(snoozes["negative"], "succeeded")
        for delay in ("infinite", "astronomic"):
            for job_id in (retries[delay], snoozes[delay]):
                row = await ledger.reaches(job_id, "scheduled")
                assert row.run_at.year > 2030
        for delay in ("nan", "text"):
            row = await ledger.reaches(snoozes[delay], "scheduled")
            assert 20 < (row.run_at - row.started_at).total_seconds() < 40
