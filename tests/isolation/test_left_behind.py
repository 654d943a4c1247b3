"""Programs that a handler starts end with its job, however they were started and however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.settings import Settings
from tasks.outcomes import Succeeded
from tests.isolation.processes import children_of, is_running, servers_of, started_by
from tests.waiting import wait_for
from workers.isolation.inside import kernel
from workers.isolation.pool import ChildDied, IsolationPool, TimedOut

Fields = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers are Linux's")


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """Where a program notes its process id."""
    return tmp_path / "pid"


def noted_in(file: Path) -> int:
    return int(file.read_text())


async def started(noted: Path) -> int:
    """The process id that was noted there, once the program runs."""
    await wait_for(lambda: noted.exists() and bool(noted.read_text()), within_s=30)
    pid = noted_in(noted)
    assert is_running(pid)
    assert os.getsid(pid) == pid  # it has left the session, and so the group, of its job
    return pid


async def is_gone(pid: int) -> None:
    await wait_for(lambda: not is_running(pid), within_s=5)


def daemon(noted: Path, then: str = "return") -> dict[str, str]:
    return {"deed": "daemon", "noted": str(noted), "then": then}


async def test_it_is_gone_when_the_outcome_is_known(
    pool: IsolationPool, fields: Fields, noted: Path
) -> None:
    """B30: with `setsid` it outlived its job; 80 were left."""
    outcome = await pool.run_kind("test.deed", daemon(noted), fields("test.deed"), 30)
    assert isinstance(outcome, Succeeded)
    assert not is_running(noted_in(noted))
    # Whatever the handler's modules knew of it is of no use any more: the next job starts afresh.
    assert await pool.run_kind("test.scripted", {}, fields(), 30) == Succeeded({"attempt": 1})


async def test_it_is_gone_when_the_time_is_over(
    pool: IsolationPool, fields: Fields, noted: Path
) -> None:
    with pytest.raises(TimedOut):
        await pool.run_kind("test.deed", daemon(noted, "hang"), fields("test.deed"), 3.0)
    await is_gone(noted_in(noted))


async def test_it_is_gone_when_its_job_is_called_off(
    pool: IsolationPool, fields: Fields, noted: Path
) -> None:
    run = asyncio.create_task(
        pool.run_kind("test.deed", daemon(noted, "hang"), fields("test.deed"), 60)
    )
    pid = await started(noted)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await is_gone(pid)


async def test_it_is_gone_when_its_job_dies(
    pool: IsolationPool, fields: Fields, noted: Path
) -> None:
    with pytest.raises(ChildDied):
        await pool.run_kind("test.deed", daemon(noted, "abort"), fields("test.deed"), 30)
    await is_gone(noted_in(noted))


async def test_it_is_gone_when_the_process_of_its_job_is_killed(
    pool: IsolationPool, fields: Fields, noted: Path
) -> None:
    run = asyncio.create_task(
        pool.run_kind("test.deed", daemon(noted, "hang"), fields("test.deed"), 60)
    )
    pid = await started(noted)
    (child,) = children_of(os.getpid())
    os.kill(child, signal.SIGKILL)
    with pytest.raises(ChildDied):
        await run
    await is_gone(pid)


async def test_the_programs_of_other_jobs_live_on(
    pool: IsolationPool, fields: Fields, tmp_path: Path
) -> None:
    run = asyncio.create_task(
        pool.run_kind("test.deed", daemon(tmp_path / "mine", "hang"), fields("test.deed"), 60)
    )
    mine = await started(tmp_path / "mine")
    for then in ("return", "abort"):
        other = daemon(tmp_path / then, then)
        await asyncio.gather(
            pool.run_kind("test.deed", other, fields("test.deed"), 30), return_exceptions=True
        )
        await is_gone(noted_in(tmp_path / then))
    assert is_running(mine)
    run.cancel()
    await asyncio.wait([run])
    await is_gone(mine)


async def test_nothing_is_left_when_the_pool_is_closed(
    isolated_settings: Settings, fields: Fields, tmp_path: Path
) -> None:
    async with IsolationPool(isolated_settings, size=4) as pool:
        await pool.run_kind("test.scripted", {}, fields(), 30)
        (server,) = servers_of(os.getpid())
        runs = [
            asyncio.create_task(
                pool.run_kind(
                    "test.deed", daemon(tmp_path / str(n), "hang"), fields("test.deed"), 60
                )
            )
            for n in range(4)
        ]
        pids = [await started(tmp_path / str(n)) for n in range(4)]
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)
    for pid in pids:
        await is_gone(pid)
    assert not started_by(server)


WORKER = """
import asyncio, sys
from runtime.settings import Settings
from workers.isolation.pool import IsolationPool

async def main():
    settings = Settings(kinds=("tests.isolation.deeds",), database_url="postgresql://x@127.0.0.1:1/x")
    fields = dict(job_id="01890000-0000-7000-8000-000000000000", attempt=1, kind="test.deed",
                  queue="template", tenant="default", tries_left=1)
    deed = {"deed": "daemon", "noted": sys.argv[1], "then": "hang"}
    async with IsolationPool(settings, size=1) as pool:
        await pool.run_kind("test.deed", deed, fields, 600)

asyncio.run(main())
"""


async def test_it_is_gone_when_the_worker_is_killed(noted: Path) -> None:
    words = [sys.executable, "-c", WORKER, str(noted)]
    worker = await asyncio.to_thread(subprocess.Popen, words)
    try:
        pid = await started(noted)
        (server,) = servers_of(worker.pid)
        (child,) = children_of(worker.pid)
    finally:
        worker.kill()
        worker.wait()
    for each in (pid, server, child):
        await is_gone(each)


async def test_children_are_found_where_the_kernel_keeps_no_lists_of_them() -> None:
    program = await asyncio.create_subprocess_exec("sleep", "3600")
    try:
        assert program.pid in kernel._by_parent(os.getpid())
        assert sorted(kernel._by_parent(os.getpid())) == sorted(started_by(os.getpid()))
    finally:
        program.kill()
        await program.wait()
