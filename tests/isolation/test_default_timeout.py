"""Somebody's `socket.setdefaulttimeout()` does not reach the sockets that isolation lives by."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.settings import Settings
from tasks.outcomes import Succeeded
from tests.isolation.hasty_kind import TIMEOUT_S
from workers.isolation.pool import IsolationPool

Fields = Callable[..., dict[str, Any]]


@contextmanager
def default_timeout(seconds: float) -> Iterator[None]:
    """As Celery does for the whole process while it cleans up after a lost connection."""
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(None)


async def test_children_forked_while_the_worker_has_a_default_timeout_live(
    isolated_settings: Settings, fields: Fields
) -> None:
    """B25: their sockets did not block; 76 died of that, and 12 of 160 renderings failed."""
    async with IsolationPool(isolated_settings, size=4) as pool:
        with default_timeout(5.0):
            outcomes = await asyncio.gather(
                *(pool.run_kind("test.scripted", {"seconds": 0.2}, fields(), 30) for _ in range(4))
            )
        outcomes.append(await pool.run_kind("test.scripted", {}, fields(), 30))
    assert outcomes == [Succeeded({"attempt": 1})] * 5


async def test_children_forked_later_by_a_server_that_was_started_then_live(
    isolated_settings: Settings, fields: Fields
) -> None:
    async with IsolationPool(isolated_settings, size=4) as pool:
        with default_timeout(5.0):
            await pool._children["kind"]._server.warm()
        assert await pool.run_kind("test.scripted", {}, fields(), 30) == Succeeded({"attempt": 1})


async def test_a_module_of_kinds_that_sets_one_does_not_end_idle_children(
    isolated_settings: Settings, fields: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HASTY", "test.hasty")
    kinds = {"kinds": ("tests.isolation.hasty_kind",)}
    async with IsolationPool(isolated_settings.model_copy(update=kinds), size=1) as pool:
        first = await pool.run_kind("test.hasty", {}, fields("test.hasty"), 30)
        await asyncio.sleep(3 * TIMEOUT_S)  # idle for longer than its sockets would wait
        second = await pool.run_kind("test.hasty", {}, fields("test.hasty"), 30)
    assert isinstance(first, Succeeded)
    assert first == second  # the same process
    assert first.result is not None
    assert first.result["default_s"] == TIMEOUT_S  # what the module wanted for its own sockets
