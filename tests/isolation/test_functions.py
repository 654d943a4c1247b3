from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tasks.errors import RenderError
from tests.isolation.processes import children_of, is_running
from tests.waiting import block_until, wait_for
from workers.isolation.pool import IsolationPool, TimedOut

if TYPE_CHECKING:
    from runtime.settings import Settings

LOOP = "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}{% endfor %}{% endfor %}{% endfor %}"
HEAVY = {"celery", "sqlalchemy", "pydantic", "asyncio", "fastapi", "psycopg"}


async def test_a_function_gives_its_result(pool: IsolationPool) -> None:
    arguments = {"fields": {"subject": "Grüße, {{ name }} 🎉"}, "variables": {"name": "Zoë"}}
    assert await pool.call("render", arguments, 10) == {"subject": "Grüße, Zoë 🎉"}


async def test_errors_of_tasks_are_raised_as_themselves(pool: IsolationPool) -> None:
    with pytest.raises(RenderError, match="line 2: the variable 'name' is missing"):
        await pool.call("render", {"fields": {"text": "\n{{ name }}"}, "variables": {}}, 10)


async def test_a_hanging_function_is_killed_alone(pool: IsolationPool) -> None:
    await pool.call("render", {"fields": {"a": "a"}}, 10)
    (warm,) = children_of(os.getpid())
    calls = [
        pool.call("render", {"fields": {"a": LOOP}}, 0.3),
        pool.call("render", {"fields": {"a": "neighbour"}}, 10),
    ]
    hung, neighbour = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(hung, TimedOut)
    assert "after 0.3 s" in str(hung)
    assert neighbour == {"a": "neighbour"}
    block_until(lambda: not is_running(warm))


async def test_a_warm_call_takes_less_than_a_millisecond(pool: IsolationPool) -> None:
    arguments = {"fields": {"text": "Hello {{ name }}"}, "variables": {"name": "you"}}
    await pool.call("render", arguments, 10)
    seconds = []
    for _ in range(200):
        before = time.perf_counter()
        await pool.call("render", arguments, 10)
        seconds.append(time.perf_counter() - before)
    # The quicker ones: what else runs on this machine is not measured here.
    assert statistics.quantiles(seconds, n=20)[0] < 0.001


async def test_idle_children_are_ended(isolated_settings: Settings) -> None:
    async with IsolationPool(isolated_settings, size=1, idle_s=0.05) as pool:
        await pool.call("render", {"fields": {"a": "a"}}, 10)
        (child,) = children_of(os.getpid())
        await wait_for(lambda: not is_running(child))
        assert await pool.call("render", {"fields": {"a": "again"}}, 10) == {"a": "again"}


async def test_a_child_that_was_killed_while_idle_is_replaced(pool: IsolationPool) -> None:
    await pool.call("render", {"fields": {"a": "a"}}, 10)
    (child,) = children_of(os.getpid())
    os.kill(child, 9)
    block_until(lambda: not is_running(child))
    assert await pool.call("render", {"fields": {"a": "b"}}, 10) == {"a": "b"}


async def test_a_function_child_sees_no_secrets(
    pool: IsolationPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAIS_CALLBACK_SECRET", "whsec_c2VjcmV0")
    await pool.call("render", {"fields": {"a": "a"}}, 10)
    (child,) = children_of(os.getpid())
    with open(f"/proc/{child}/environ", "rb") as environ:  # noqa: PTH123, ASYNC230
        assert b"RELAIS_" not in environ.read()


def test_a_function_child_imports_little() -> None:
    program = "import sys, workers.isolation.inside.forking as f; f.child.prepare('function'); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not HEAVY & set(loaded)
