"""The fork server: quick, quiet, and nobody's fault when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import KindError
from tasks.outcomes import Succeeded
from tests.isolation.processes import (
    children_of,
    is_running,
    is_zombie,
    private_kb,
    servers_of,
    sockets_of,
    started_by,
    threads_of,
)
from tests.waiting import block_until, wait_for, within
from workers.isolation.pool import ChildDied, Interrupted, IsolationPool, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtime.settings import Settings

    Fields = Callable[..., dict[str, Any]]

IDLE_CHILD_MAX_KB = 15_000


def all_begun(*effects: Path) -> bool:
    """Whether the handlers that note their beginnings in `effects` are running."""
    return all(each.exists() and each.read_text() for each in effects)


async def test_sixteen_children_in_two_seconds(isolated_settings: Settings, fields: Fields) -> None:
    async with IsolationPool(isolated_settings, size=16) as pool:
        await pool.run_kind("test.scripted", {}, fields(), 30)
        script = {"seconds": 0.2}
        with within(2):
            await asyncio.gather(
                *(pool.run_kind("test.scripted", script, fields(), 30) for _ in range(16))
            )
        children = children_of(os.getpid())
        assert len(children) == 16
        assert max(map(private_kb, children)) < IDLE_CHILD_MAX_KB


async def test_it_has_one_thread_and_no_connection(pool: IsolationPool, fields: Fields) -> None:
    await pool.run_kind("test.scripted", {}, fields(), 30)
    (server,) = servers_of(os.getpid())
    assert threads_of(server) == 1
    assert sockets_of(server) == 3  # to the worker, and both ends of what its signals go through
    for child in children_of(os.getpid()):
        assert sockets_of(child) == 1


async def test_randomness_differs_between_children(
    isolated_settings: Settings, fields: Fields
) -> None:
    async with IsolationPool(isolated_settings, size=6, idle_s=0) as pool:
        draws = [
            await pool.run_kind("test.deed", {"deed": "draw"}, fields("test.deed"), 30)
            for _ in range(3)
        ]
        draws += await asyncio.gather(
            *(
                pool.run_kind("test.deed", {"deed": "draw"}, fields("test.deed"), 30)
                for _ in range(6)
            )
        )
    results = [draw.result for draw in draws if isinstance(draw, Succeeded) and draw.result]
    assert len(results) == 9
    pids = {result["pid"] for result in results}
    assert len(pids) > 1
    assert len({number for result in results for number in result["drawn"]}) == 18
    assert len({result["uuid"] for result in results}) == 9


async def test_no_zombies_and_no_orphans(isolated_settings: Settings, fields: Fields) -> None:
    async with IsolationPool(isolated_settings, size=4, idle_s=0.01) as pool:
        await pool.run_kind("test.scripted", {}, fields(), 30)
        (server,) = servers_of(os.getpid())
        scripts: tuple[dict[str, Any], ...]
        scripts = ({}, {"mode": "spawn"}, {"mode": "abort"}, {"mode": "exit"}) * 2
        await asyncio.gather(
            *(pool.run_kind("test.scripted", script, fields(), 30) for script in scripts),
            return_exceptions=True,
        )
        await wait_for(lambda: not started_by(server))
    assert not is_running(server)
    assert not [pid for pid in started_by(os.getpid()) if is_zombie(pid)]


async def test_what_a_handler_left_behind_does_not_hide_its_end(
    pool: IsolationPool, fields: Fields
) -> None:
    with pytest.raises(ChildDied) as caught:
        await pool.run_kind("test.deed", {"deed": "leak"}, fields("test.deed"), 30)
    assert caught.value.exit_code == 5


async def test_when_it_is_killed_its_jobs_are_interrupted(
    pool: IsolationPool, fields: Fields, tmp_path: Path
) -> None:
    effects = [tmp_path / "one", tmp_path / "other"]
    scripts = [{"mode": "spin", "effects": str(each)} for each in effects]
    runs = [
        asyncio.create_task(pool.run_kind("test.scripted", script, fields(), 60))
        for script in scripts
    ]
    await wait_for(lambda: all_begun(*effects), within_s=30)
    (server,) = servers_of(os.getpid())
    children = children_of(os.getpid())
    os.kill(server, signal.SIGKILL)
    ended = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(end) for end in ended] == [Interrupted, Interrupted]
    await wait_for(lambda: not any(map(is_running, children)))
    assert await pool.run_kind("test.scripted", {}, fields(), 30) == Succeeded({"attempt": 1})
    assert servers_of(os.getpid()) != [server]


async def test_when_it_is_killed_at_rest_nobody_notices(
    pool: IsolationPool, fields: Fields
) -> None:
    await pool.run_kind("test.scripted", {}, fields(), 30)
    (server,) = servers_of(os.getpid())
    (child,) = children_of(os.getpid())
    os.kill(server, signal.SIGKILL)
    block_until(lambda: not is_running(child))  # the loop of the pool has not heard of it yet
    assert await pool.run_kind("test.scripted", {}, fields(), 30) == Succeeded({"attempt": 1})


async def test_a_job_that_kills_it_again_is_found_out(pool: IsolationPool, fields: Fields) -> None:
    poison = fields("test.deed")
    with pytest.raises(Interrupted):
        await pool.run_kind("test.deed", {"deed": "end_server"}, poison, 30)
    neighbour = asyncio.create_task(pool.run_kind("test.scripted", {"seconds": 0.5}, fields(), 30))
    with pytest.raises(ChildDied):
        await pool.run_kind("test.deed", {"deed": "end_server"}, poison, 30)
    assert await neighbour == Succeeded({"attempt": 1})


async def test_an_interrupted_job_that_is_innocent_goes_on(
    pool: IsolationPool, fields: Fields, tmp_path: Path
) -> None:
    job, effects = fields(), tmp_path / "effects"
    script = {"mode": "spin", "effects": str(effects)}
    run = asyncio.create_task(pool.run_kind("test.scripted", script, job, 60))
    await wait_for(lambda: all_begun(effects), within_s=30)
    os.kill(servers_of(os.getpid())[0], signal.SIGKILL)
    with pytest.raises(Interrupted):
        await run
    for _ in range(2):
        assert await pool.run_kind("test.scripted", {}, job, 30) == Succeeded({"attempt": 1})


async def test_a_timeout_kills_although_it_is_frozen(
    isolated_settings: Settings, fields: Fields
) -> None:
    async with IsolationPool(isolated_settings, size=1) as pool:
        await pool.run_kind("test.scripted", {}, fields(), 30)
        (server,) = servers_of(os.getpid())
        (child,) = children_of(os.getpid())
        os.kill(server, signal.SIGSTOP)
        with pytest.raises(TimedOut):
            await pool.run_kind("test.scripted", {"mode": "spin"}, fields(), 0.2)
        block_until(lambda: not is_running(child))
    assert not is_running(server)


async def test_callers_that_leave_while_it_starts_cost_nothing(
    pool: IsolationPool, fields: Fields
) -> None:
    left = asyncio.create_task(pool.run_kind("test.scripted", {}, fields(), 30))
    await wait_for(lambda: bool(servers_of(os.getpid())))
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await pool.run_kind("test.scripted", {}, fields(), 30) == Succeeded({"attempt": 1})
    assert len(servers_of(os.getpid())) == 1


async def test_it_can_be_started_ahead(pool: IsolationPool, fields: Fields) -> None:
    pool.warm()
    await wait_for(lambda: bool(servers_of(os.getpid())))
    (server,) = servers_of(os.getpid())
    pool.warm()
    assert await pool.run_kind("test.scripted", {}, fields(), 30) == Succeeded({"attempt": 1})
    assert servers_of(os.getpid()) == [server]


async def test_a_module_that_cannot_be_imported_is_told(
    isolated_settings: Settings, fields: Fields
) -> None:
    lost = isolated_settings.model_copy(update={"kinds": ("tests.isolation.nowhere",)})
    async with IsolationPool(lost, size=1) as pool:
        with pytest.raises(KindError, match="nowhere"):
            await pool.run_kind("test.scripted", {}, fields(), 30)
