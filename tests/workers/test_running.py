"""What a worker does with jobs that behave, and with those that do not."""

from __future__ import annotations

import pytest

from runtime.settings import Settings
from tests.ledger import jobs
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.in_process import RunningEngine
from tests.workers.process import WorkerProcess


async def test_outcomes(settings: Settings, ledger: Ledger) -> None:
    (ok,) = await ledger.accept(mode="ok", result={"größe": 1})
    (isolated,) = await ledger.accept(mode="ok", kind="test.scripted")
    (flaky,) = await ledger.accept(mode="error", ok_from_attempt=2, text="not yet")
    (hopeless,) = await ledger.accept(mode="error", max_attempts=2, text="never")
    (permanent,) = await ledger.accept(mode="fail", text="no such thing")
    (snoozed,) = await ledger.accept(mode="snooze", seconds=0.1, ok_from_attempt=3, max_attempts=1)
    with WorkerProcess(settings) as worker:
        assert (await ledger.reaches(ok, "succeeded")).result == {"attempt": 1, "größe": 1}
        await ledger.reaches(isolated, "succeeded")
        await ledger.reaches(flaky, "succeeded")
        failed = await ledger.reaches(hopeless, "failed")
        assert failed.reason == "out of attempts (2): ValueError: never"
        assert failed.error["type"] == "ValueError"
        assert "scripted_kind.py" in failed.error["traceback"]
        assert (await ledger.reaches(permanent, "failed")).reason == "no such thing"
        await ledger.reaches(snoozed, "succeeded")
        assert "SecurityWarning" not in worker.output  # though these tests may run as root
    assert await ledger.path(flaky) == [
        "ready", "running", "scheduled", "ready", "running", "succeeded",
    ]  # fmt: skip
    assert ledger.runs(hopeless) == 2
    assert ledger.runs(permanent) == 1
    row = await ledger.row(snoozed)
    assert (row.attempt, row.uncounted) == (3, 2)


async def test_bad_payload_and_unknown_kind(settings: Settings, ledger: Ledger) -> None:
    (bad,) = await ledger.accept(mode="nonsense")
    (unknown,) = await ledger.accept(kind="test.of_the_other_colour")
    with WorkerProcess(settings):
        assert "mode" in (await ledger.reaches(bad, "failed")).reason
    waiting = await ledger.row(unknown)  # for the colour that knows it, quietly
    assert (waiting.state, waiting.attempt) == ("ready", 0)


@pytest.mark.parametrize("kind", ["test.scripted", "test.scripted_async"])
async def test_timeout_hits_only_its_own_job(settings: Settings, ledger: Ledger, kind: str) -> None:
    (hanging,) = await ledger.accept(kind=kind, mode="hang", timeout_s=1.0, max_attempts=1)
    neighbours = await ledger.accept(kind=kind, seconds=1.5, count=3)
    with WorkerProcess(settings):
        failed = await ledger.reaches(hanging, "failed")
        assert "timed out after 1 s" in failed.reason
        for job_id in neighbours:
            assert (await ledger.reaches(job_id, "succeeded")).attempt == 1


async def test_cancel_while_running(settings: Settings, ledger: Ledger) -> None:
    from ledger import transitions

    (job_id,) = await ledger.accept(mode="hang")
    (isolated,) = await ledger.accept(mode="hang", kind="test.scripted")
    with WorkerProcess(settings):
        for running in (job_id, isolated):
            await ledger.reaches(running, "running")
            async with ledger.database.begin() as connection:
                await transitions.cancel(connection, tenant="default", job_id=running, by="ops")
            assert (await ledger.reaches(running, "cancelled")).attempt == 1
        (after,) = await ledger.accept(mode="ok")
        await ledger.reaches(after, "succeeded")


async def test_without_redis_jobs_run_all_the_same(settings: Settings, ledger: Ledger) -> None:
    with WorkerProcess(settings, redis_url="redis://127.0.0.1:1/0", poll_s=1.0):
        (first,) = await ledger.accept()
        await ledger.reaches(first, "succeeded")
        (second,) = await ledger.accept()
        row = await ledger.reaches(second, "succeeded")
        assert (row.finished_at - row.created_at).total_seconds() < 2.0


async def test_poison_is_quarantined_and_its_neighbours_are_not(
    settings: Settings, ledger: Ledger
) -> None:
    (poison,) = await ledger.accept(kind="test.scripted", mode="abort")
    neighbours = await ledger.accept(kind="test.scripted", seconds=0.3, count=4)
    with WorkerProcess(settings) as worker:
        row = await ledger.reaches(poison, "failed", within_s=30)
        assert row.reason.startswith("poison")
        for job_id in neighbours:
            assert (await ledger.reaches(job_id, "succeeded")).attempt == 1
        assert worker.process.poll() is None
    assert ledger.runs(poison) == 3


async def test_poison_that_kills_workers_is_quarantined(settings: Settings, ledger: Ledger) -> None:
    """In company it takes its first worker with it, then it runs alone and takes only itself."""
    (poison,) = await ledger.accept(mode="kill")
    with WorkerProcess(settings) as first:
        await wait_for(lambda: first.process.poll() is not None, within_s=20)
    (neighbour,) = await ledger.accept(seconds=0.5)
    with WorkerProcess(settings) as second:
        row = await ledger.reaches(poison, "failed", within_s=40)
        assert row.reason.startswith("poison")
        assert (await ledger.reaches(neighbour, "succeeded")).attempt == 1
        assert second.process.poll() is None
    assert ledger.runs(poison) == 4


async def test_waiting_for_a_process_to_render_in_is_no_time_of_the_jobs_own(
    settings: Settings, ledger: Ledger
) -> None:
    loop = "{% for i in range(10000) %}" * 3 + "{% endfor %}" * 3
    slow, quick = (
        jobs.new_job(
            kind="template.render",
            queue="template",
            payload={"template": template},
            timeout_s=timeout_s,
            max_attempts=1,
        )
        for template, timeout_s in ((loop, 4.0), ("ok", 1.5))
    )
    with RunningEngine(settings, isolated_memory_total_bytes=1):  # enough for one of them
        await ledger.accept_jobs(slow)
        await ledger.reaches(slow.id, "running")
        await ledger.accept_jobs(quick)
        done = await ledger.reaches(quick.id, "succeeded", "failed")
        assert (done.state, done.result) == ("succeeded", {"output": "ok"})
        assert (await ledger.row(slow.id)).state == "failed"
