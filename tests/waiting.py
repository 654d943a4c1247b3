"""Waiting for conditions instead of for time, and limits of time that a busy machine does not break.

`wait_for` waits in coroutines, `block_until` elsewhere. `within` is for what must be quick. Seconds
here are those of a machine that has nothing else to do: where others want its processors at the
same moment, `slowdown` measures by how much, and the limit is as many times longer.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast, overload

Value = TypeVar("Value")
LOOK_EVERY_S = 0.02
SPIN_S = 0.02
SLOWDOWN_MAX = 10.0


@overload
async def wait_for(
    condition: Callable[[], Coroutine[Any, Any, Value | None]],
    *,
    within_s: float = 15.0,
    what: str = "",
) -> Value: ...


@overload
async def wait_for(
    condition: Callable[[], Value | None], *, within_s: float = 15.0, what: str = ""
) -> Value: ...


async def wait_for(
    condition: Callable[[], Any], *, within_s: float = 15.0, what: str = ""
) -> object:
    """The first true value of `condition`; fails when none comes within `within_s`."""
    began = time.monotonic()
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if _is_over(began, within_s):
            raise AssertionError(_failure(condition, value, within_s=within_s, what=what))
        await asyncio.sleep(LOOK_EVERY_S)


def block_until(
    condition: Callable[[], Value | None], *, within_s: float = 30.0, what: str = ""
) -> Value:
    """The same where there is no event loop to keep turning."""
    began = time.monotonic()
    while not (value := condition()):
        if _is_over(began, within_s):
            raise AssertionError(_failure(condition, value, within_s=within_s, what=what))
        time.sleep(LOOK_EVERY_S)
    return value


@contextmanager
def within(seconds: float, what: str = "") -> Iterator[None]:
    """Fails where the block takes longer.

    Not for what may keep the processors busy itself: that would excuse it.
    """
    before = slowdown()
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    if took_s >= seconds:
        allowed_s = seconds * max(before, slowdown())
        assert took_s < allowed_s, f"{what or 'it'} took {took_s:.2f} s, not {allowed_s:.2f} s"


def slowdown() -> float:
    """How many times longer than its processor time a piece of work takes just now; 1 at least."""
    began, began_cpu = time.perf_counter(), time.thread_time()
    while (cpu := time.thread_time() - began_cpu) < SPIN_S:
        pass
    return min(max(1.0, (time.perf_counter() - began) / cpu), SLOWDOWN_MAX)


def _is_over(began: float, within_s: float) -> bool:
    took_s = time.monotonic() - began
    return took_s > within_s and took_s > within_s * slowdown()


def _failure(condition: object, value: object, *, within_s: float, what: str) -> str:
    awaited = what or inspect.getsource(cast("Any", condition)).strip()
    return f"not within {within_s:g} s, still {value!r}: {awaited}"
