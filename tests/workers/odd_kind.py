"""Kinds whose handlers return, raise and await what no handler should."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import text

from tasks.kinds import Backoff, kind
from tasks.outcomes import Cancelled, ErrorReport, Failed, RetryLater, Snooze, Succeeded, Unknown

if TYPE_CHECKING:
    from tasks.context import Context

SOON = Backoff(base_s=0.05, cap_s=0.1)
HALF = "half \ud800 a character"

Returns = Literal[
    "none", "dict", "class", "text", "object", "half", "nul", "nan", "huge", "deep", "not_json",
    "raising_repr", "list", "cycle", "half_key", "generator", "half_failed", "huge_failed", "odd_reason", "half_unknown",
    "odd_error", "cancelled",
]  # fmt: skip
Raises = Literal[
    "system_exit", "keyboard_interrupt", "generator_exit", "base_exception", "half_error",
    "mute_error", "task_exits", "foreign_cancel", "cancels_itself", "cancels_itself_and_returns",
]  # fmt: skip
Delays = Literal["negative", "nan", "infinite", "astronomic", "text"]
DELAYS: dict[str, Any] = {
    "negative": -5.0, "nan": float("nan"), "infinite": float("inf"), "astronomic": 1e300, "text": "soon",
}  # fmt: skip


class Mute:
    """Nobody can print it."""

    def __repr__(self) -> str:
        message = "no"
        raise RuntimeError(message)

    __str__ = __repr__


class Unheard(BaseException):
    """Not an Exception."""


class MuteError(Exception):
    """Nobody can print it either."""

    def __str__(self) -> str:
        message = "no"
        raise RuntimeError(message)

    __repr__ = __str__


class Odd(BaseModel):
    """What the handler shall do."""

    model_config = ConfigDict(extra="forbid")

    returns: Returns | None = None
    raises: Raises | None = None
    snoozes: Delays | None = None
    retries: Delays | None = None
    size: int = 8_000_000
    holds_s: float = 0.0  # a connection of `context.database`
    blocks_s: float = 0.0  # the thread that it runs in
    swallows_s: float = 0.0  # every cancellation, for so long


def _nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return {"value": value}


def _cycle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["itself"] = value
    return value


def returned(odd: Odd) -> Any:  # noqa: C901, PLR0912 - one case a mode
    match odd.returns:
        case None:
            return Succeeded()
        case "none":
            return None
        case "dict":
            return {"ok": True}
        case "class":
            return Succeeded
        case "text":
            return "done"
        case "object":
            return Mute()
        case "half":
            return Succeeded({"text": HALF})
        case "half_key":
            return Succeeded({HALF: 1})
        case "nul":
            return Succeeded({"text": "a\x00b", "a\x00": 1})
        case "nan":
            return Succeeded({"numbers": [float("nan"), float("inf"), 1.5]})
        case "huge":
            return Succeeded({"text": "x" * odd.size})
        case "deep":
            return Succeeded(_nested(150))
        case "cycle":
            return Succeeded(_cycle())
        case "not_json":
            return Succeeded({"value": object()})
        case "raising_repr":
            return Succeeded({"value": Mute()})
        case "list":
            return Succeeded([1, 2])  # type: ignore[arg-type]
        case "generator":
            return Succeeded({"values": (n for n in range(3))})
        case "half_failed":
            return Failed(HALF, ErrorReport(HALF, HALF, HALF), {"text": HALF})
        case "half_unknown":
            return Unknown(HALF, {"text": "a\x00b"})
        case "huge_failed":
            error = ErrorReport("Huge", "y" * odd.size, "z" * odd.size)
            return Failed("x" * odd.size, error, {"text": "x" * odd.size})
        case "odd_reason":
            return Failed(Mute())  # type: ignore[arg-type]
        case "odd_error":
            return Failed("with an exception", ValueError("it"))  # type: ignore[arg-type]
        case "cancelled":
            return Cancelled(HALF)


def delayed(odd: Odd, context: Context) -> Any:
    if context.attempt > 1:
        return Succeeded()
    if odd.snoozes is not None:
        return Snooze(DELAYS[odd.snoozes])
    return RetryLater("later", delay_s=DELAYS[odd.retries or "nan"])


def exception(odd: Odd) -> BaseException:
    return {
        "system_exit": SystemExit(3),
        "keyboard_interrupt": KeyboardInterrupt(),
        "generator_exit": GeneratorExit(),
        "base_exception": Unheard("own"),
        "half_error": ValueError(HALF),
        "mute_error": MuteError(),
    }[odd.raises or ""]


@kind("test.odd_apart", payload=Odd, queue="template", timeout_s=30.0, backoff=SOON)
def odd_apart(odd: Odd, context: Context) -> Any:
    """Does what it is told, in a process of its own."""
    if odd.raises:
        raise exception(odd)
    if odd.snoozes or odd.retries:
        return delayed(odd, context)
    return returned(odd)


@kind("test.odd", payload=Odd, queue="template", timeout_s=30.0, backoff=SOON)
async def odd_async(odd: Odd, context: Context) -> Any:
    """Does what it is told, in the worker's event loop."""
    if odd.holds_s:
        async with context.database.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(:s)"), {"s": odd.holds_s})
    if odd.blocks_s:
        time.sleep(odd.blocks_s)  # noqa: ASYNC251 - that is the point
    if odd.swallows_s:
        await _swallow(odd.swallows_s)
    if odd.snoozes or odd.retries:
        return delayed(odd, context)
    match odd.raises:
        case None:
            return returned(odd)
        case "task_exits":
            await asyncio.create_task(_exit())
        case "foreign_cancel":
            task = asyncio.create_task(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(task.cancel)
            await task
        case "cancels_itself":
            _this_task().cancel()
            await asyncio.sleep(60)
        case "cancels_itself_and_returns":
            _this_task().cancel()
            return returned(odd)
        case _:
            raise exception(odd)
    message = "it went on"
    raise AssertionError(message)


async def _swallow(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            await asyncio.sleep(deadline - time.monotonic())
        except asyncio.CancelledError:
            continue


async def _exit() -> None:
    raise SystemExit(3)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
