from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import KindError, PayloadError
from tasks.outcomes import Failed, RetryLater, Snooze, Succeeded
from tests.isolation.processes import children_of, is_running, servers_of
from tests.waiting import block_until, wait_for, within
from workers.isolation.pool import ChildDied, HandlerRaised, IsolationError, IsolationPool, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtime.settings import Settings

    Fields = Callable[..., dict[str, Any]]

KINDS = pytest.mark.parametrize("kind", ["test.scripted", "test.scripted_async"])


@KINDS
async def test_outcomes_come_back(pool: IsolationPool, fields: Fields, kind: str) -> None:
    async def run(**script: object) -> object:
        return await pool.run_kind(kind, script, fields(kind, attempt=2), 30)

    assert await run(result={"naïve": ["日本", None]}) == Succeeded(
        {"attempt": 2, "naïve": ["日本", None]}
    )
    assert await run(mode="snooze", seconds=7.5) == Snooze(7.5, "as told")
    assert await run(mode="fail", text="never") == Failed("never")
    assert await run(mode="retry") == RetryLater("as told")
    assert await run(mode="context") == Succeeded({"kind": kind, "tenant": "default", "tags": []})


@KINDS
async def test_an_exception_comes_back_without_locals(
    pool: IsolationPool, fields: Fields, kind: str
) -> None:
    script = {"mode": "error", "text": "Straße: smtp://relay:hunter2@mail.example refused"}
    with pytest.raises(HandlerRaised) as caught:
        await pool.run_kind(kind, script, fields(kind), 30)
    report = caught.value.report
    assert report.type == "ValueError"
    assert report.message.startswith("Straße: ")
    assert "raise ValueError(script.text)" in report.traceback
    assert "hunter2" not in report.traceback + report.message


async def test_a_payload_that_does_not_fit_is_told_without_its_content(
    pool: IsolationPool, fields: Fields
) -> None:
    with pytest.raises(PayloadError, match="size") as caught:
        await pool.run_kind("test.scripted", {"size": "ada@example.org"}, fields(), 30)
    assert "ada@" not in str(caught.value)


async def test_an_unknown_kind_names_the_setting(pool: IsolationPool, fields: Fields) -> None:
    with pytest.raises(KindError, match="RELAIS_KINDS"):
        await pool.run_kind("test.unheard_of", {}, fields(), 30)


@KINDS
@pytest.mark.parametrize(
    ("script", "expected_signal", "exit_code"),
    [
        ({"mode": "abort"}, signal.SIGABRT, None),
        ({"mode": "kill"}, signal.SIGKILL, None),
        ({"mode": "kill", "signal": signal.SIGSEGV}, signal.SIGSEGV, None),
        ({"mode": "exit", "exit_code": 7}, None, 7),
        ({"mode": "exit", "exit_code": 0}, None, 0),
    ],
)
async def test_a_child_that_dies_says_how(
    *,
    pool: IsolationPool,
    fields: Fields,
    kind: str,
    script: dict[str, Any],
    expected_signal: int | None,
    exit_code: int | None,
) -> None:
    with pytest.raises(ChildDied) as caught:
        await pool.run_kind(kind, script, fields(kind), 30)
    assert (caught.value.signal, caught.value.exit_code) == (expected_signal, exit_code)


async def test_sys_exit_is_an_error_of_the_handler(pool: IsolationPool, fields: Fields) -> None:
    with pytest.raises(HandlerRaised, match="SystemExit"):
        await pool.run_kind("test.scripted", {"mode": "system_exit"}, fields(), 30)


@KINDS
@pytest.mark.parametrize("mode", ["spin", "hang"])
async def test_a_timeout_kills(pool: IsolationPool, fields: Fields, kind: str, mode: str) -> None:
    await pool.run_kind(kind, {}, fields(kind), 30)
    (child,) = children_of(os.getpid())
    with within(3), pytest.raises(TimedOut):
        await pool.run_kind(kind, {"mode": mode}, fields(kind), 0.3)
    block_until(lambda: not is_running(child))


async def test_a_memory_bomb_hurts_only_its_own_run(
    isolated_settings: Settings, fields: Fields
) -> None:
    limited = isolated_settings.model_copy(update={"isolated_memory_bytes": 600_000_000})
    async with IsolationPool(limited, size=1) as pool:
        with pytest.raises(HandlerRaised, match="MemoryError"):
            await pool.run_kind(
                "test.scripted", {"mode": "memory", "size": 2_000_000_000}, fields(), 30
            )
        script = {"mode": "memory", "size": 1_000_000}
        assert await pool.run_kind("test.scripted", script, fields(), 30) == Succeeded(
            {"bytes": 1_000_000}
        )


async def test_prints_disturb_nothing(
    pool: IsolationPool, fields: Fields, capfd: pytest.CaptureFixture[str]
) -> None:
    script = {"mode": "print", "text": "hello from a handler"}
    assert await pool.run_kind("test.scripted", script, fields(), 30) == Succeeded(
        {"printed": "hello from a handler"}
    )
    captured = capfd.readouterr()
    assert "hello from a handler" in captured.err
    assert captured.out == ""


async def test_results_pass_that_are_as_large_as_the_setting_allows(
    isolated_settings: Settings, fields: Fields
) -> None:
    limited = isolated_settings.model_copy(update={"outcome_max_bytes": 32_000_000})
    async with IsolationPool(limited, size=1) as pool:
        outcome = await pool.run_kind(
            "test.scripted", {"mode": "big", "size": 20_000_000}, fields(), 60
        )
        assert isinstance(outcome, Succeeded)
        assert outcome.result is not None
        assert len(outcome.result["text"]) == 20_000_000
        for size in (40_000_000, 70_000_000):
            outcome = await pool.run_kind(
                "test.scripted", {"mode": "big", "size": size}, fields(), 60
            )
            assert isinstance(outcome, Failed)
            assert f"its result has {size + 11:,} bytes" in outcome.reason


async def test_cancelling_the_caller_kills_the_child(
    pool: IsolationPool, fields: Fields, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    task = asyncio.create_task(
        pool.run_kind("test.scripted", {"mode": "spin", "effects": str(started)}, fields(), 60)
    )
    await wait_for(lambda: started.exists() and bool(started.read_text()), within_s=30)
    child = int(started.read_text().split()[2])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    block_until(lambda: not is_running(child))


async def test_what_a_handler_started_ends_with_its_job(
    pool: IsolationPool, fields: Fields
) -> None:
    outcome = await pool.run_kind("test.scripted", {"mode": "spawn"}, fields(), 30)
    assert isinstance(outcome, Succeeded)
    assert outcome.result is not None
    assert not is_running(outcome.result["pid"])


async def test_eight_in_parallel(isolated_settings: Settings, fields: Fields) -> None:
    async with IsolationPool(isolated_settings, size=8) as pool:
        outcomes = await asyncio.gather(
            *(
                pool.run_kind("test.scripted", {"seconds": 0.5, "result": {"n": n}}, fields(), 60)
                for n in range(8)
            )
        )
        assert [outcome.result["n"] for outcome in outcomes] == list(range(8))  # type: ignore[union-attr,index]
        assert len(children_of(os.getpid())) == 8


async def test_a_child_asks_its_worker_whether_the_claim_still_stands(
    pool: IsolationPool, fields: Fields
) -> None:
    for owned in (True, False):
        outcome = await pool.run_kind(
            "test.scripted_async",
            {"mode": "ask"},
            fields(),
            30,
            still_owned=lambda owned=owned: owned,  # type: ignore[misc]
        )
        assert outcome == Succeeded({"owned": owned})


async def test_a_child_writes_no_core_file(pool: IsolationPool, fields: Fields) -> None:
    await pool.run_kind("test.scripted", {}, fields(), 30)
    (child,) = children_of(os.getpid())
    assert resource.prlimit(child, resource.RLIMIT_CORE) == (0, 0)


PARENT = """
import asyncio, sys
from runtime.settings import Settings
from workers.isolation.pool import IsolationPool

async def main():
    settings = Settings(kinds=("tests.scripted_kind",), database_url="postgresql://x@127.0.0.1:1/x")
    fields = dict(job_id="01890000-0000-7000-8000-000000000000", attempt=1, kind="test.scripted",
                  queue="template", tenant="default", tries_left=1)
    async with IsolationPool(settings, size=1) as pool:
        await pool.run_kind("test.scripted", {"mode": "spin", "effects": sys.argv[1]}, fields, 600)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_spinning_child_dies_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(started)])
    try:
        block_until(lambda: started.exists() and bool(started.read_text()), within_s=30)
        child = int(started.read_text().split()[2])
        (server,) = servers_of(parent.pid)
        assert is_running(child)
    finally:
        parent.kill()
        parent.wait()
    block_until(lambda: not is_running(child) and not is_running(server))


async def test_another_limit_than_the_jobs_own_is_not_reported_as_that(
    pool: IsolationPool, fields: Fields
) -> None:
    def slow() -> bool:
        message = "somebody else's limit"
        raise TimeoutError(message)

    with pytest.raises(TimeoutError, match="somebody else's limit"):
        await pool.run_kind("test.scripted", {"mode": "ask"}, fields(), 86_400, still_owned=slow)


async def test_a_process_that_does_not_start_in_time_is_told_as_that(
    pool: IsolationPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.call("render", {"fields": {"a": "a"}}, 30)  # its fork server is there
    pool._children["function"]._retire(pool._children["function"]._idle[0])
    monkeypatch.setattr("workers.isolation.warm_children.START_S", 0.0)
    with pytest.raises(IsolationError, match=r"for functions did not start within 0 s\."):
        await pool.call("render", {"fields": {"a": "a"}}, 30)
