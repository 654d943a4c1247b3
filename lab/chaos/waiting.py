"""The one way in which the harness waits for something."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING

from ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READY_WITHIN_S = 120.0


async def comes(
    condition: Callable[[], Awaitable[object] | object], *, within_s: float, every_s: float = 0.1
) -> bool:
    """Whether `condition` held before `within_s` were over; returns as soon as it does."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(every_s)


async def until(
    condition: Callable[[], Awaitable[object] | object],
    *,
    what: str,
    within_s: float = READY_WITHIN_S,
) -> None:
    """Wait until `condition` holds; OpsError where it does not in time."""
    if not await comes(condition, within_s=within_s):
        message = f"{what} was not ready within {within_s:g} s."
        raise OpsError(message)
