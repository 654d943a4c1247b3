"""Waiting for conditions instead of for time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

Value = TypeVar("Value")
LOOK_EVERY_S = 0.02


async def wait_for(
    condition: Callable[[], Awaitable[Value] | Value], *, within_s: float = 15.0, what: str = ""
) -> Value:
    """The first true value of `condition`; fails when none comes within `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        value = cast("Any", condition())
        if inspect.isawaitable(value):
            value = await value
        if value:
            return cast("Value", value)
        if time.monotonic() > deadline:
            message = f"not within {within_s:g} s: {what or inspect.getsource(condition).strip()}"
            raise AssertionError(message)
        await asyncio.sleep(LOOK_EVERY_S)
